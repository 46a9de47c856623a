"""Readers of clips written out in float64: which tokens, in which order of mean and norm, with which positions."""

import pytest
import torch

from tests.xmodal.adapters import plain
from tests.xmodal.adapters.towers import build, refill, vit
from video.readers import AttentionProbe, TimeMeanReader, frame_stream
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
    return refill(AttentionProbe(tower, FRAMES, heads), 0.5).double()


@pytest.mark.parametrize("heads", [None, 4])
@pytest.mark.parametrize("make", [vit, bare], ids=["class", "none"])
def test_the_probe_attends_to_normed_frames_with_positions_in_time(make, heads):
    tower = build(make).double()
    probe = probe_of(tower, heads)
    assert probe.num_heads == (heads or 3)
    tokens, grid = stream(tower)
    frames = tokens[:, 0] if grid.prefix else tokens[:, :4].mean(1)
    frames = plain.norm(frames, tower.norm).view(CLIPS, FRAMES, DIM)
    frames = plain.norm(frames + probe.time, probe.norm)
    q, k, v = (layer.weight for layer in (probe.q, probe.k, probe.v))
    q = (probe.query @ q.T + probe.q.bias).expand(CLIPS, -1, -1)
    y = plain.attention(q, frames @ k.T + probe.k.bias, frames @ v.T + probe.v.bias, heads or 3)
    want = (y @ probe.proj.weight.T + probe.proj.bias)[:, 0]
    torch.testing.assert_close(probe(tokens, grid, tower), want)


def test_the_probe_tells_the_order_of_frames_by_its_positions_alone():
    tower = build(vit).double()
    probe = probe_of(tower, None)
    tokens, grid = stream(tower)
    backwards = tokens.unflatten(0, (CLIPS, FRAMES)).flip(1).flatten(0, 1)
    assert (probe(tokens, grid, tower) - probe(backwards, grid, tower)).abs().max() > 1e-2
    probe.time.data.zero_()
    torch.testing.assert_close(probe(tokens, grid, tower), probe(backwards, grid, tower))


def test_the_probe_starts_as_the_projected_mean_over_frames_and_all_of_it_trains():
    tower = build(vit).double()
    probe = AttentionProbe(tower, FRAMES).double()
    assert sum(p.numel() for p in probe.parameters()) == FRAMES * DIM + DIM + 4 * DIM * DIM + 4 * DIM + 2 * DIM
    tokens, grid = stream(tower)
    frames = plain.norm(plain.norm(tokens[:, 0], tower.norm).view(CLIPS, FRAMES, DIM), probe.norm)
    mean = frames.mean(1) @ probe.v.weight.T + probe.v.bias
    probe.q.bias.data.zero_()
    torch.testing.assert_close(probe(tokens, grid, tower), mean @ probe.proj.weight.T + probe.proj.bias)
    refill(probe)
    probe(tokens, grid, tower).square().sum().backward()
    dead = {n for n, p in probe.named_parameters() if p.grad is None or p.grad.abs().max() < 1e-9}
    assert dead <= {"k.bias"}  # which shifts all scores alike


@pytest.mark.parametrize("frames", [2, 4])
def test_the_probe_refuses_clips_of_another_length(frames):
    tower = build(vit)
    with pytest.raises(ValueError, match=f"num_frames=3, this clip has {frames}"):
        AttentionProbe(tower, FRAMES)(torch.randn(4, 5, DIM), Grid(frames, 2, 2), tower)
    with pytest.raises(ValueError, match="TimeMeanReader"):
        TimeMeanReader(tower)(torch.randn(4, 5, DIM), None, tower)
