"""Readers of clips written out in float64: which tokens, in which order of mean and norm, with which positions."""

import pytest
import torch

from tests.xmodal.adapters import plain
from tests.xmodal.adapters.towers import build, refill, vit
from video.attentive_probe import AttentiveProbe
from video.readers import TimeMeanReader, frame_stream
from xmodal.readers import PooledReader
from xmodal.structures import Grid

CLIPS, FRAMES, DIM = 2, 3, 24


def bare():
    return vit(pool="avg", class_token=False)


def projected():
    return vit(out_dim=7)


def stream(tower, prompts=2):
    """The stream behind the blocks of two clips, prompts at its end, and its grid."""
    grid = Grid(FRAMES, 2, 2, tower.num_prefix)
    return torch.randn(CLIPS * FRAMES, grid.prefix + 4 + prompts, DIM, dtype=torch.double), grid


@pytest.mark.parametrize("make", [vit, bare, lambda: vit(num_registers=2)], ids=["class", "none", "registers"])
def test_a_frame_is_its_class_token_or_else_the_mean_of_its_patches(make):
    tower = build(make)
    tokens, grid = stream(tower)
    want = tokens[:, 0] if grid.prefix else tokens[:, :4].mean(1)
    torch.testing.assert_close(frame_stream(tokens, grid), want)
    if grid.prefix:  # the last block may have computed no others
        torch.testing.assert_close(frame_stream(tokens[:, : grid.prefix], grid.prefix_only()), want)


@pytest.mark.parametrize("make", [vit, bare], ids=["class", "none"])
def test_time_mean_takes_the_mean_first_and_the_norm_behind_it(make):
    tower = build(make).double()
    tokens, grid = stream(tower)
    frames = (tokens[:, 0] if grid.prefix else tokens[:, :4].mean(1)).view(CLIPS, FRAMES, DIM)
    want = plain.norm(sum(frames.unbind(1)) / FRAMES, tower.norm)
    reader = TimeMeanReader(tower)
    torch.testing.assert_close(reader(tokens, grid, tower), want)
    assert (reader.reads, reader.out_dim) == ("prefix" if grid.prefix else "all", DIM)


@pytest.mark.parametrize("make", [vit, projected, bare], ids=["class", "projected", "none"])
def test_pooled_takes_norm_and_projection_first_and_the_mean_over_frames_behind_them(make):
    tower = build(make).double()
    tokens, grid = stream(tower)
    normed = plain.norm(tokens, tower.norm)
    frames = normed[:, 0] if grid.prefix else normed[:, :4].mean(1)
    frames = frames @ tower.proj.weight.T if make is projected else frames
    reader = PooledReader(tower)
    torch.testing.assert_close(reader(tokens, grid, tower), frames.view(CLIPS, FRAMES, -1).mean(1))
    assert (reader.reads, reader.out_dim) == ("prefix" if grid.prefix else "all", 7 if make is projected else DIM)
    torch.testing.assert_close(PooledReader(tower)(tokens[:, :5], None, tower), tower.pool(normed[:, :5]))


def probe_of(tower, heads):
    return refill(AttentiveProbe(tower, 1, heads, per_frame=True, num_frames=FRAMES), 0.5).double()


@pytest.mark.parametrize("heads", [None, 4])
@pytest.mark.parametrize("make", [vit, bare], ids=["class", "none"])
def test_the_probe_attends_to_normed_frames_with_positions_in_time(make, heads):
    tower = build(make).double()
    probe = probe_of(tower, heads)
    tokens, grid = stream(tower)
    normed = plain.norm(tokens, tower.norm)
    frames = (normed[:, 0] if grid.prefix else normed[:, :4].mean(1)).view(CLIPS, FRAMES, DIM)
    cross = probe.cross
    frames = plain.norm(frames + probe.time, cross.norm1)
    q = (probe.query @ cross.q.weight.T + cross.q.bias).expand(CLIPS, -1, -1)
    k, v = (frames @ cross.kv.weight.T + cross.kv.bias).chunk(2, -1)
    y = probe.query + plain.attention(q, k, v, heads or 3)
    hidden = plain.norm(y, cross.norm2) @ cross.mlp.fc1.weight.T + cross.mlp.fc1.bias
    want = y + torch.nn.functional.gelu(hidden) @ cross.mlp.fc2.weight.T + cross.mlp.fc2.bias
    torch.testing.assert_close(probe(tokens, grid, tower), want[:, 0])
    assert (probe.reads, probe.out_dim) == ("prefix" if grid.prefix else "all", DIM)


@pytest.mark.parametrize("per_frame", [True, False])
def test_the_probe_tells_the_order_of_frames_by_its_positions_alone(per_frame):
    tower = build(vit).double()
    probe = refill(AttentiveProbe(tower, 1, per_frame=per_frame, num_frames=FRAMES), 0.5).double()
    tokens, grid = stream(tower, prompts=0)
    backwards = tokens.unflatten(0, (CLIPS, FRAMES)).flip(1).flatten(0, 1)
    assert (probe(tokens, grid, tower) - probe(backwards, grid, tower)).abs().max() > 1e-2
    probe.time.data.zero_()
    torch.testing.assert_close(probe(tokens, grid, tower), probe(backwards, grid, tower))


def test_all_of_the_probe_trains():
    tower = build(vit).double()
    probe = probe_of(tower, None)
    assert sum(p.numel() for p in probe.parameters()) == 11 * DIM * DIM + 13 * DIM + FRAMES * DIM
    tokens, grid = stream(tower)
    probe(tokens, grid, tower).square().sum().backward()
    assert [n for n, p in probe.named_parameters() if p.grad is None or p.grad.abs().max() < 1e-9] == []
    assert probe.cross.kv.bias.grad[:DIM].abs().max() == 0  # of the keys, which shifts all scores alike


@pytest.mark.parametrize("frames", [2, 4])
def test_the_probe_refuses_clips_of_another_length(frames):
    tower = build(vit)
    with pytest.raises(ValueError, match=f"num_frames=3, this clip has {frames}"):
        AttentiveProbe(tower, 1, num_frames=FRAMES)(torch.randn(4, 5, DIM), Grid(frames, 2, 2, 1), tower)
    with pytest.raises(ValueError, match="TimeMeanReader"):
        TimeMeanReader(tower)(torch.randn(4, 5, DIM), None, tower)
