"""Point operations against brute force, in kornia's five kinds: smoke, exception, size, gradients, compilation."""

import os

import numpy as np
import pytest
import torch

from pointcloud import neighbors, ops

MISSING = ops.available_backends()["pytorch3d"]


@pytest.fixture(autouse=True, params=["torch"] if MISSING else ["torch", "pytorch3d"])
def backend(request, monkeypatch):
    """Every test here runs on every backend that there is."""
    if request.param == "torch" and not MISSING:
        monkeypatch.setattr(ops, "load_pytorch3d", lambda: (None, "taken away by this test"))
    return request.param


def test_the_backend_asked_for_is_here():
    assert not (MISSING and os.environ.get("XMODAL_NEEDS_PYTORCH3D")), MISSING


def cloud(batch=2, size=30, channels=3, seed=0, dtype=torch.float32):
    return torch.randn(batch, size, channels, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def brute_knn(query, points, k):
    """Sorted by (distance, index), one query at a time."""
    table = np.zeros((len(query), k), dtype=int)
    for i, q in enumerate(query.numpy()):
        dist = ((q - points.numpy()) ** 2).sum(1)
        table[i] = sorted(range(len(dist)), key=lambda j: (dist[j], j))[:k]
    return torch.from_numpy(table)


def brute_fps(points, k):
    chosen = [0]
    while len(chosen) < k:
        gap = ((points[:, None] - points[chosen][None]) ** 2).sum(-1).min(1).values
        chosen.append(int(gap.argmax()))
    return torch.tensor(chosen)


class TestFarthestPointSample:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_brute_force(self, dtype):
        points = cloud(dtype=dtype)
        found = ops.farthest_point_sample(points, 12)
        for b in range(2):
            assert found[b].equal(brute_fps(points[b], 12))

    def test_lengths_counts_and_padding(self):
        points = cloud(batch=4)
        points[1, 7:] = torch.nan  # never looked at
        found = ops.farthest_point_sample(points, [5, 9, 0, 3], lengths=[30, 7, 30, 0])
        assert found.shape == (4, 9)
        assert found[0].tolist()[5:] == [-1] * 4
        assert sorted(found[1, :7].tolist()) == list(range(7))
        assert found[1, 7:].tolist() == [-1, -1]
        # as pytorch3d: index 0 once, though none are wanted of the third and the fourth is empty
        assert found[2].tolist() == found[3].tolist() == [0] + [-1] * 8
        assert ops.farthest_point_sample(points, 0).shape == (4, 0)

    def test_duplicates_and_near_origin(self):
        same = torch.ones(1, 6, 3)
        assert ops.farthest_point_sample(same, 4).tolist() == [[0, 0, 0, 0]]
        points = cloud(batch=1)
        points[0, 3] = 0.01
        assert 3 in ops.farthest_point_sample(points, 30)[0]
        assert 3 not in ops.farthest_point_sample(points, 30, skip_near_origin=True)[0]

    def test_near_origin_is_up_to_a_thousandth_of_the_squared_norm(self):
        norms = torch.tensor([5.0, 0.0315, 0.0317, 1.0])  # squared: 0.00099, 0.001005
        points = torch.stack([norms, 0 * norms, 0 * norms], dim=1)[None]
        assert set(ops.farthest_point_sample(points, 4, skip_near_origin=True)[0].tolist()) == {0, 2, 3}
        # the kernel knows no lengths shorter than K and goes on choosing
        again = ops.farthest_point_sample(points, 4, lengths=[2], skip_near_origin=True)
        assert again.tolist() == [[0, 0, 0, 0]]

    def test_starts_where_asked(self):
        points = torch.tensor([[[0.0, 0, 0], [1, 0, 0], [4, 0, 0], [9, 0, 0]]] * 2)
        found = ops.farthest_point_sample(points, 3, start=torch.tensor([1, 3]))
        assert found.tolist() == [[1, 3, 2], [3, 0, 2]]

    def test_exception(self):
        with pytest.raises(ValueError, match=r"\(B, P, C\)"):
            ops.farthest_point_sample(torch.zeros(5, 3), 2)
        with pytest.raises(ValueError, match="31 do not fit"):
            ops.farthest_point_sample(cloud(), 2, lengths=[3, 31])
        with pytest.raises(ValueError, match="choose one of auto, torch, triton, pytorch3d"):
            ops.farthest_point_sample(cloud(), 2, backend="cuda")

    def test_compiles(self):
        points = cloud()
        compiled = torch.compile(lambda p: ops.farthest_point_sample(p, 4), backend="eager", fullgraph=True)
        assert compiled(points).equal(ops.farthest_point_sample(points, 4))


class TestKnn:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    @pytest.mark.parametrize("chunk", [2**23, 64])
    def test_brute_force_with_ties(self, dtype, chunk, monkeypatch):
        monkeypatch.setattr(neighbors, "CHUNK_ELEMENTS", chunk)
        points = cloud(dtype=dtype).mul(2).round()  # many equal distances and duplicates
        query = cloud(size=11, seed=1, dtype=dtype).mul(2).round()
        dist, idx = ops.knn(query, points, 8)
        for b in range(2):
            assert idx[b].equal(brute_knn(query[b], points[b], 8))
        assert dist.equal((query[:, :, None] - ops.gather(points, idx)).square().sum(-1))

    def test_tree_gives_the_same(self, monkeypatch):
        points, query = cloud(size=500).mul(3).round(), cloud(size=200, seed=1).mul(3).round()
        points[0, 40:80] = points[0, 39]  # more duplicates than the tree's spare candidates
        lengths = [500, 333]
        brute = ops.knn(query, points, 9, lengths2=lengths, backend="torch")[1]
        monkeypatch.setattr(neighbors, "TREE_FROM", 1)
        calls = []
        real = neighbors.tree_indices
        monkeypatch.setattr(neighbors, "tree_indices", lambda *a: calls.append(1) or real(*a))
        assert ops.knn(query, points, 9, lengths2=lengths, backend="torch")[1].equal(brute)
        assert calls

    @pytest.mark.parametrize("tree_from", [1, 2**40])
    def test_fewer_points_than_k(self, tree_from, monkeypatch):
        monkeypatch.setattr(neighbors, "TREE_FROM", tree_from)
        dist, idx = ops.knn(cloud(size=4), cloud(size=5, seed=1), 7, lengths1=[4, 2], lengths2=[5, 3])
        assert idx.shape == dist.shape == (2, 4, 7)
        assert (idx[0, :, 5:] == 0).all()
        assert (dist[1, :2, 3:] == 0).all()
        assert (dist[1, :2, :3] > 0).all()
        assert (dist[1, 2:] == 0).all()

    def test_norm_one_finds_other_neighbors(self):
        points = torch.tensor([[[3.0, 3, 0], [5, 0, 0]]])  # 6 and 5 away by norm 1, 18 and 25 by the square
        dist, idx = ops.knn(torch.zeros(1, 1, 3), points, 2, norm=1)
        assert (dist.tolist(), idx.tolist()) == ([[[5, 6]]], [[[1, 0]]])
        dist, idx = ops.knn(torch.zeros(1, 1, 3), points, 2)
        assert (dist.tolist(), idx.tolist()) == ([[[18, 25]]], [[[0, 1]]])

    def test_empty(self):
        dist, idx = ops.knn(cloud(size=4), torch.zeros(2, 0, 3), 3)
        assert not dist.any()
        assert not idx.any()

    def test_exception(self):
        with pytest.raises(ValueError, match="differ in batch or channels"):
            ops.knn(cloud(), cloud(channels=2), 3)
        with pytest.raises(ValueError, match="norm=3"):
            ops.knn(cloud(), cloud(), 3, norm=3)

    @pytest.mark.parametrize("norm", [1, 2])
    def test_gradcheck(self, norm):
        query, points = (cloud(size=n, seed=n, dtype=torch.float64).requires_grad_() for n in (4, 9))
        assert torch.autograd.gradcheck(lambda q, p: ops.knn(q, p, 3, [4, 2], [9, 2], norm=norm)[0], (query, points))

    def test_compiles(self):
        compiled = torch.compile(lambda q, p: ops.knn(q, p, 3), backend="eager", fullgraph=True)
        got, want = compiled(cloud(size=5), cloud()), ops.knn(cloud(size=5), cloud(), 3)
        assert got[1].equal(want[1])

    def test_memory_stays_bounded(self, monkeypatch):
        sizes = []
        real = neighbors.distances
        monkeypatch.setattr(neighbors, "CHUNK_ELEMENTS", 10_000)
        monkeypatch.setattr(
            neighbors, "distances", lambda a, b, n=2: sizes.append(a.shape[1] * b.shape[1]) or real(a, b, n)
        )
        ops.knn(cloud(size=300), cloud(size=400), 3, backend="torch")
        assert max(sizes) * 2 <= 10_000


class TestBallQuery:
    def test_brute_force(self):
        query, points = cloud(size=6, seed=3), cloud()
        dist, idx = ops.ball_query(query, points, 1.1, 4, lengths2=[30, 11])
        for b, size in enumerate([30, 11]):
            for i in range(6):
                inside = ((query[b, i] - points[b, :size]).square().sum(-1) < 1.1**2).nonzero()[:, 0].tolist()[:4]
                assert idx[b, i].tolist() == inside + [-1] * (4 - len(inside))
        assert (dist[idx < 0] == 0).all()

    @pytest.mark.parametrize(("chunk", "dtype"), [(2**23, torch.float32), (4000, torch.float64)])
    def test_tree_agrees_with_brute_force(self, chunk, dtype, monkeypatch):
        points, query = (cloud(size=n, seed=n, dtype=dtype).mul(4).round().div(4) for n in (700, 300))
        points[0, :50] = points[0, 50:100]
        lengths = [700, 555]
        for radius in (0.25, 0.5, 1.5):  # the first two lie exactly on the grid of distances
            brute = ops.ball_query(query, points, radius, 16, None, lengths, backend="torch")[1]
            with monkeypatch.context() as patch:
                patch.setattr(neighbors, "TREE_BALL_FROM", 1)
                patch.setattr(neighbors, "CHUNK_ELEMENTS", chunk)
                assert ops.ball_query(query, points, radius, 16, None, lengths, backend="torch")[1].equal(brute)

    def test_edge_is_outside(self):
        points = torch.tensor([[[1.0, 0, 0], [0.5, 0, 0]]])
        assert ops.ball_query(torch.zeros(1, 1, 3), points, 1.0, 2)[1].tolist() == [[[1, -1]]]

    def test_first_hit_fills(self):
        points = torch.tensor([[[9.0, 0, 0], [0.5, 0, 0]]])
        query = torch.tensor([[[0.0, 0, 0], [50, 0, 0]]])
        assert ops.ball_query(query, points, 1.0, 3, fill="first")[1].tolist() == [[[1, 1, 1], [0, 0, 0]]]

    def test_exception(self):
        with pytest.raises(ValueError, match="radius > 0"):
            ops.ball_query(cloud(), cloud(), 0.0, 3)

    def test_gradcheck(self):
        query, points = (cloud(size=n, seed=n, dtype=torch.float64).requires_grad_() for n in (4, 9))
        assert torch.autograd.gradcheck(lambda q, p: ops.ball_query(q, p, 1.3, 3)[0], (query, points))


class TestInterpolate:
    def test_values_come_back_at_the_points(self):
        points, values = cloud(), cloud(channels=5, seed=7)
        assert torch.allclose(ops.three_interpolate(points, points, values), values, atol=1e-5)

    def test_weights_are_inverse_squared_distances_of_the_three_nearest(self):
        points = torch.tensor([[[1.0, 0, 0], [0, 2, 0], [0, 0, 4], [0, 5, 0]]])
        values = torch.tensor([[[1.0], [2.0], [3.0], [100.0]]])
        weights = np.array([1, 1 / 4, 1 / 16])
        want = (weights * [1, 2, 3]).sum() / weights.sum()
        got = ops.three_interpolate(torch.zeros(1, 1, 3), points, values)
        assert got.item() == pytest.approx(want, rel=1e-6)
        close = points * 1e-3  # squared distances far above 1e-8 already
        assert ops.three_interpolate(torch.zeros(1, 1, 3), close, values).item() == pytest.approx(want, rel=0.01)
        # points behind a cloud's length have no say, however near they are
        got = ops.three_interpolate(torch.full((1, 1, 3), 5.0), points.flip(1), values.flip(1), lengths2=[1])
        assert got.item() == 100

    def test_short_clouds(self):
        points, values = cloud(), cloud(channels=5, seed=7)
        got = ops.three_interpolate(cloud(size=4, seed=2), points, values, lengths2=[1, 0])
        assert torch.allclose(got[0], values[0, :1].expand(4, -1))
        assert not got[1].any()

    def test_gradcheck(self):
        query, points = (cloud(size=n, seed=n, dtype=torch.float64).requires_grad_() for n in (3, 6))
        values = cloud(size=6, channels=2, dtype=torch.float64).requires_grad_()
        assert torch.autograd.gradcheck(ops.three_interpolate, (query, points, values))


class TestGather:
    def test_gather_fills_with_zeros(self):
        got = ops.gather(torch.arange(6.0).view(1, 3, 2) + 1, torch.tensor([[[2, -1]]]))
        assert got.tolist() == [[[[5.0, 6.0], [0.0, 0.0]]]]

    def test_gradcheck(self):
        values = cloud(size=5, dtype=torch.float64).requires_grad_()
        idx = torch.tensor([[[0, 4], [-1, 0]]] * 2)
        assert torch.autograd.gradcheck(lambda v: ops.gather(v, idx), (values,))

    def test_groups_of_small_clouds(self):
        points = cloud(size=5)
        centers, center_idx, members = ops.sample_and_group(points, 8, 6, lengths=[5, 2])
        assert centers.shape == (2, 8, 3)
        assert members.shape == (2, 8, 6)
        assert (members[1] < 2).all()
        assert members[0, 0, 0] == center_idx[0, 0] == 0

    def test_groups_by_hand(self):
        """Missing members are the nearest one again, which is the center; missing centers the first point."""
        points = torch.tensor([[[0.0, 0, 0], [1, 0, 0], [9, 0, 0], [0.1, 0, 0]]])
        centers, center_idx, members = ops.sample_and_group(points, 3, 2)
        assert center_idx.tolist() == [[0, 2, 1]]
        assert members.tolist() == [[[0, 3], [2, 1], [1, 3]]]
        assert centers[0, :, 0].tolist() == [0, 9, 1]
        _, center_idx, members = ops.sample_and_group(points, 4, 4, lengths=[3])
        assert center_idx.tolist() == [[0, 2, 1, 0]]
        assert members.tolist() == [[[0, 1, 2, 0], [2, 1, 0, 2], [1, 0, 2, 1], [0, 1, 2, 0]]]


def test_the_door_explains_a_missing_backend():
    if not ops.available_backends()["pytorch3d"]:
        pytest.skip("pytorch3d is here: see the agreement test")
    with pytest.raises(ValueError, match="Use backend='torch'"):
        ops.knn(cloud(), cloud(), 3, backend="pytorch3d")


def test_backends_agree(backend):
    if backend == "torch":
        pytest.skip("needs pytorch3d beside torch: make test-pytorch3d")
    points, query = cloud(size=300), cloud(size=50, seed=1)
    for run in (
        lambda b: ops.farthest_point_sample(points, 40, [300, 20], backend=b),
        lambda b: ops.knn(query, points, 9, [50, 30], [300, 5], backend=b)[1],
        lambda b: ops.ball_query(query, points, 0.7, 9, [50, 30], [300, 5], backend=b)[1],
    ):
        assert run("torch").equal(run("pytorch3d"))
