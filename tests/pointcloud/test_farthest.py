"""Farthest points by buckets against the plain loop and against all distances at once, index for index."""

import numpy as np
import pytest
import torch

from pointcloud import neighbors, ops

pytest.importorskip("numba")


def surface(count, seed=0, dtype=torch.float32, channels=3):
    random = torch.Generator().manual_seed(seed)
    points = torch.rand(1, count, channels, generator=random, dtype=torch.float64)
    points[0, : count // 2, -1] = 0  # half of them on a floor
    return points.to(dtype)


def lattice(side=14, seed=0):
    """Points of a regular grid in any order: nearly every choice is one among equals."""
    axis = torch.arange(float(side))
    points = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(1, -1, 3)
    return points[:, torch.randperm(points.shape[1], generator=torch.Generator().manual_seed(seed))]


def doubled(count=1500):
    points = surface(count)
    return torch.cat([points, points.flip(1), points[:, :100]], 1)


CLOUDS = {
    "surface": surface(3000),
    "float64": surface(3000, dtype=torch.float64),
    "six channels": surface(2000, channels=6),
    "one channel": surface(2000, channels=1),
    "lattice": lattice(),
    "rounded": surface(4000).mul(12).round(),
    "doubled": doubled(),
    "line": surface(1000) * torch.tensor([1.0, 0, 0]),
    "one place": torch.ones(1, 700, 3),
    "far away": surface(2000) + 4096,
    "overflow": surface(1000) * 1e30,
    "tiny": surface(1000) * 1e-30,
    "few": surface(5),
}


@pytest.fixture
def buckets(monkeypatch):
    """Whether buckets are used, from the least cloud on."""
    used, load = [], neighbors.load_buckets
    monkeypatch.setattr(neighbors, "BUCKETS_FROM", 0)
    monkeypatch.setattr(neighbors, "load_buckets", lambda: used.append(True) or load())
    return used


def plain(monkeypatch, *arguments, **options):
    with monkeypatch.context() as patch:
        patch.setattr(neighbors, "BUCKETS_FROM", float("inf"))
        return ops.farthest_point_sample(*arguments, backend="torch", **options)


@pytest.mark.parametrize("name", CLOUDS)
def test_indices_are_those_of_the_plain_loop(buckets, monkeypatch, name):
    points = CLOUDS[name]
    count = min(400, points.shape[1])
    for start in (None, torch.tensor([points.shape[1] - 1])):
        want = plain(monkeypatch, points, count, start=start)
        assert not buckets
        assert ops.farthest_point_sample(points, count, start=start).equal(want)
        assert buckets
        buckets.clear()


@pytest.mark.parametrize("name", ["surface", "lattice", "doubled"])
def test_indices_are_those_of_all_distances(buckets, name):
    points, chosen = CLOUDS[name][0], [0]
    gap = torch.full((len(points),), np.inf)
    for _ in range(99):
        x, y, z = (points - points[chosen[-1]]).square().T
        gap = torch.minimum(gap, x + y + z)
        chosen.append(int(np.argmax(gap.numpy())))
    assert ops.farthest_point_sample(points[None], 100)[0].tolist() == chosen
    assert buckets


def test_all_points_of_a_cloud_and_more(buckets, monkeypatch):
    points = CLOUDS["rounded"][:, :600]
    want = plain(monkeypatch, points, 700)
    assert ops.farthest_point_sample(points, 700).equal(want)
    assert want[0, 600:].tolist() == [-1] * 100


def test_lengths_counts_and_points_near_the_origin(buckets, monkeypatch):
    points = torch.cat([surface(900, seed) for seed in range(4)]) - 0.5
    points[1, 500:] = torch.nan  # never looked at
    lengths, counts = [900, 500, 0, 1], [40, 700, 3, 60]
    want = plain(monkeypatch, points, counts, lengths)
    assert ops.farthest_point_sample(points, counts, lengths).equal(want)
    near = points.nan_to_num() * 0.3
    near[2] = 0  # all of them are skipped
    for given in (None, lengths):
        want = plain(monkeypatch, near, 300, given, skip_near_origin=True)
        assert ops.farthest_point_sample(near, 300, given, skip_near_origin=True).equal(want)
    assert buckets


def test_clouds_that_are_not_finite_and_graphs_go_through_the_loop(buckets, monkeypatch):
    points = surface(500)
    points[0, 7, 1] = torch.inf
    want = plain(monkeypatch, points, 20)
    assert ops.farthest_point_sample(points, 20).equal(want)
    compiled = torch.compile(lambda p: ops.farthest_point_sample(p, 4), backend="eager", fullgraph=True)
    assert compiled(surface(500)).equal(plain(monkeypatch, surface(500), 4))
    assert ops.farthest_point_sample(surface(500).to(torch.bfloat16), 4).shape == (1, 4)


def test_without_numba_the_loop_does_it(monkeypatch):
    want = ops.farthest_point_sample(surface(500), 20)
    monkeypatch.setattr(neighbors, "BUCKETS_FROM", 0)
    monkeypatch.setattr(neighbors, "load_buckets", lambda: None)
    assert ops.farthest_point_sample(surface(500), 20).equal(want)
