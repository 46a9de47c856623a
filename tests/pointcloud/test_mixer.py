"""The layers of the segmentation network, point by point and pair by pair in float64."""

import numpy as np
import pytest
import torch

from pointcloud.mixer import Down, Head, MixerBlock, Up
from pointcloud.packed import packed_knn
from tests.pointcloud.test_tokens import refill

SIZES = [7, 5]
STARTS = [0, 7]


def points(channels, seed=0):
    rng = np.random.default_rng(seed)
    return rng.random((12, 3)), rng.normal(size=(12, channels))


def state(module):
    return {k: v.numpy() for k, v in module.state_dict().items()}


def linear(s, name, x):
    return x @ s[f"{name}.weight"].T + s.get(f"{name}.bias", 0)


def norm(s, name, x):
    mean, var = s[f"{name}.running_mean"], s[f"{name}.running_var"]
    return (x - mean) / np.sqrt(var + 1e-5) * s[f"{name}.weight"] + s[f"{name}.bias"]


def relu(x):
    return np.maximum(x, 0)


def linear_norm(s, name, x):
    return relu(norm(s, f"{name}.1", linear(s, f"{name}.0", x)))


def offsets(s, name, x):
    return linear(s, f"{name}.3", linear_norm(s, name, x))


def softmax(x, axis):
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def nearest(query, coord, start, size, k):
    """The k nearest of one cloud, ascending; its first point where there are no more."""
    order = np.argsort(((coord[start : start + size] - query) ** 2).sum(1), kind="stable")[:k] + start
    return [*order, *[start] * (k - len(order))]


def all_nearest(coord, k):
    return np.array([nearest(p, coord, STARTS[i >= 7], SIZES[i >= 7], k) for i, p in enumerate(coord)])


def test_neighbors_are_those_of_the_own_cloud():
    coord, _ = points(1)
    places = torch.from_numpy(coord)
    found = packed_knn(places, places, SIZES, SIZES, 6)
    assert found.tolist() == all_nearest(coord, 6).tolist()


def test_mixer_block():
    """PointMixer as wired in EPCL: mixing within neighborhoods, then between them, around a residual."""
    dim, share, k = 8, 2, 4
    block = refill(MixerBlock(dim, share, k).double())
    s, (coord, x) = state(block), points(dim)
    idx = all_nearest(coord, k)
    y = relu(norm(s, "bn1", linear(s, "linear1", x)))
    groups = dim // share
    pairs = np.zeros((12, k, dim))
    for i in range(12):
        off = coord[idx[i]] - coord[i]  # neighbor minus point
        u = relu(linear(s, "intra.score", np.concatenate([off, y[idx[i]]], axis=1)))
        product = np.einsum("ka,oab,kb->ko", u, s["intra.pair.weight"], u) + s["intra.pair.bias"]
        position = offsets(s, "intra.position", off)
        shrunk = np.stack([position[:, j::k].sum(1) for j in range(k)], axis=1)  # channel c goes to bin c mod K
        w = np.concatenate([product, shrunk], axis=1)
        w = relu(norm(s, "intra.weight.1", linear(s, "intra.weight.0", w)))
        w = relu(norm(s, "intra.weight.4", linear(s, "intra.weight.3", w)))
        w = softmax(linear(s, "intra.weight.6", w), axis=0)  # over the neighbors
        value = linear(s, "intra.value", y)[idx[i]] + position
        for c in range(dim):
            pairs[i, :, c] = value[:, c] * w[:, c % groups]
    score, value = np.zeros((12, k, groups)), np.zeros((12, k, groups))
    for i in range(12):
        position = offsets(s, "inter.position", coord[idx[i]] - coord[i])
        score[i] = relu(linear(s, "inter.score", np.concatenate([position, pairs[i]], axis=1)))
        value[i] = relu(linear(s, "inter.value", pairs[i]))
    back = np.zeros((12, groups))
    for j in range(12):  # all pairs whose neighbor is j share one softmax
        mine = idx == j
        if mine.any():
            back[j] = (value[mine] * softmax(score[mine], axis=0)).sum(0)
    mixed = pairs.sum(1) + np.tile(back, (1, share))
    mixed = relu(norm(s, "bn2", mixed))
    want = relu(norm(s, "bn3", linear(s, "linear3", mixed)) + x)
    got = block(torch.from_numpy(coord), torch.from_numpy(x), torch.from_numpy(idx))
    assert np.allclose(got.detach(), want, atol=1e-9)


@pytest.mark.parametrize("equal", [False, True])
def test_down(equal):
    """One point in two of each cloud, or as many of each as of the smallest."""
    down = refill(Down(4, 6, 2, 3, equal=equal).double())
    s, (coord, x) = state(down), points(4)
    counts = [2, 2] if equal else [3, 2]
    kept, got, sizes = down(torch.from_numpy(coord), torch.from_numpy(x), SIZES)
    assert sizes == counts
    chosen = []
    for start, size, count in zip(STARTS, SIZES, counts, strict=True):
        mine = [start]
        while len(mine) < count:
            gap = ((coord[start : start + size, None] - coord[None, mine]) ** 2).sum(-1).min(1)
            mine.append(start + int(gap.argmax()))
        chosen += mine
    assert np.allclose(kept, coord[chosen])
    want, y = [], linear_norm(s, "linear", x)
    for i in chosen:
        near = nearest(coord[i], coord, STARTS[i >= 7], SIZES[i >= 7], 3)
        h = linear_norm(s, "score", np.concatenate([coord[near] - coord[i], x[near]], axis=1))
        want.append((softmax(linear(s, "score.3", h), axis=0) * y[near]).sum(0))
    assert np.allclose(got.detach(), want, atol=1e-9)
    same = refill(Down(4, 6, 1, 3).double())
    _, got, sizes = same(torch.from_numpy(coord), torch.from_numpy(x), SIZES)
    assert np.allclose(got.detach(), linear_norm(state(same), "linear", x), atol=1e-9)
    assert sizes == SIZES


def test_up():
    """Each coarse point hands its features to its nearest fine points; the shares of a fine point add up to one."""
    up = refill(Up(5, 4, 3).double())
    s, (coord, x), rng = state(up), points(4), np.random.default_rng(5)
    rows, sizes = [1, 4, 8], [2, 1]
    coarse, coarse_x = coord[rows] + 0.01, rng.normal(size=(3, 5))
    near = np.array([nearest(coarse[i], coord, STARTS[i == 2], SIZES[i == 2], 3) for i in range(3)])
    score = np.zeros((3, 3))
    for i in range(3):
        h = np.concatenate([coord[near[i]] - coarse[i], np.tile(coarse_x[i], (3, 1))], axis=1)
        score[i] = linear(s, "score.3", linear_norm(s, "score", h))[:, 0]
    want, value = linear_norm(s, "linear1", x), linear_norm(s, "linear2", coarse_x)
    for j in range(12):
        mine = near == j
        if mine.any():
            want[j] += softmax(score[mine], axis=0) @ value[np.nonzero(mine)[0]]
    tensors = [torch.from_numpy(a) for a in (coord, x, coarse, coarse_x)]
    got = up((tensors[0], tensors[1], SIZES), (tensors[2], tensors[3], sizes))
    assert np.allclose(got.detach(), want, atol=1e-9)


def test_head_adds_the_mean_of_the_own_cloud():
    head = refill(Head(4).double())
    s, (_, x) = state(head), points(4)
    mean = np.concatenate([np.tile(x[:7].mean(0), (7, 1)), np.tile(x[7:].mean(0), (5, 1))])
    want = linear_norm(s, "linear1", np.concatenate([x, relu(linear(s, "linear2.0", mean))], axis=1))
    assert np.allclose(head(torch.from_numpy(x), SIZES).detach(), want, atol=1e-9)
