"""Attention between neighboring frames against its formula in float64."""

import numpy as np
import pytest
import torch

from video import motion
from video.motion import MotionTable, OffsetSum, gathered_sum, neighbor_attention
from xmodal.structures import Grid


def maps_of(q, k):
    """Softmax of q k / sqrt(width) over the keys, averaged over the heads: (..., H, n, d) to (..., n, n)."""
    score = np.exp(q @ np.swapaxes(k, -1, -2) / np.sqrt(q.shape[-1]))
    return (score / score.sum(-1, keepdims=True)).mean(-3)


@pytest.mark.parametrize("at_once", [2**19, 1])
def test_attention_is_scaled_softmaxed_over_keys_and_averaged_over_heads(at_once, monkeypatch):
    monkeypatch.setattr(motion, "SCORES_AT_ONCE", (at_once, at_once))
    q, k = np.random.default_rng(0).normal(size=(2, 2, 3, 4, 6, 5)) * 2
    got = neighbor_attention(torch.from_numpy(q).float(), torch.from_numpy(k).float())
    assert np.allclose(got, maps_of(q, k), atol=1e-5)


def test_maps_are_those_of_the_patches_to_the_frame_before_and_the_frame_after():
    """Queries of frames 1, 2 with keys of 0, 1; queries of 0, 1 with keys of 1, 2; without class token and prompts."""
    q, k = np.random.default_rng(1).normal(size=(2, 2 * 3, 4, 1 + 6 + 2, 5))  # two clips of three frames, four heads
    grid = Grid(3, 2, 3, prefix=1)
    past, future = MotionTable(8, (2, 3)).maps(torch.from_numpy(q).float(), torch.from_numpy(k).float(), grid)
    q, k = (x[:, :, 1:7].reshape(2, 3, 4, 6, 5) for x in (q, k))
    assert np.allclose(past, maps_of(q[:, 1:], k[:, :-1]), atol=1e-5)
    assert np.allclose(future, maps_of(q[:, :-1], k[:, 1:]), atol=1e-5)
    with pytest.raises(ValueError, match=r"grid of \(2, 3\) patches"):
        MotionTable(8, (2, 3)).maps(torch.from_numpy(q[0]).float(), torch.from_numpy(k[0]).float(), Grid(3, 3, 2))


def test_each_table_serves_its_own_neighbor():
    """A patch that looks at the one on its right, in the frame before by the first table, after it by the second."""
    table = MotionTable(1, (1, 2))  # offsets of query minus key: -1, 0, 1
    with torch.no_grad():
        table.w1.copy_(torch.tensor([[10.0], [20], [30]]))
        table.w2.copy_(torch.tensor([[1.0], [2], [3]]))
    right = torch.tensor([[[[0.0, 1.0], [0.0, 1.0]]]])  # both patches attend to patch 1
    still = torch.eye(2)[None, None]
    found = table((right, still))[0, :, :, 0]
    # the first frame has only what comes after it (offset 0), the second only what came before (offsets -1 and 0)
    assert found.tolist() == [[2, 2], [10, 20]]


def test_the_sum_for_graphs_is_the_same():
    generator = torch.Generator().manual_seed(0)
    past, future = (torch.rand(2, 3, 20, 20, generator=generator).softmax(-1) for _ in range(2))
    w1, w2 = (torch.randn(7 * 9, 6, generator=generator) for _ in range(2))
    want = OffsetSum.apply(past, future, w1, w2, 4, 5)
    torch.testing.assert_close(gathered_sum(past, future, w1, w2, 4, 5), want)
