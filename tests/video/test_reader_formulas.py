"""Readers of clips against their formulas in float64."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from video.readers import AttentionProbe, TimeMeanReader
from xmodal.structures import Grid

DIM, FRAMES = 6, 3


def tower(prefix=1):
    """What a reader takes from a tower: its width, heads and final norm."""
    norm = nn.LayerNorm(DIM).double()
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    return SimpleNamespace(dim=DIM, num_heads=2, num_prefix=prefix, norm=norm)


def layer_norm(x, layer):
    mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / np.sqrt(var + layer.eps) * layer.weight.detach().numpy() + layer.bias.detach().numpy()


@pytest.mark.parametrize("prefix", [0, 1])
def test_time_mean_is_taken_before_the_norm(prefix):
    encoder, tokens = tower(prefix), torch.randn(2 * FRAMES, prefix + 4, DIM, dtype=torch.float64)
    reader = TimeMeanReader(encoder)
    assert (reader.reads, reader.out_dim) == (("prefix" if prefix else "all"), DIM)
    got = reader(tokens, Grid(FRAMES, 2, 2, prefix=prefix), encoder)
    frames = tokens.numpy().reshape(2, FRAMES, prefix + 4, DIM)
    frames = frames[:, :, 0] if prefix else frames.mean(2)  # the class token, or the mean of the patches
    assert np.allclose(got.detach(), layer_norm(frames.mean(1), encoder.norm), atol=1e-10)


@pytest.mark.parametrize("heads", [None, 3])
def test_attention_probe_is_attention_over_frames_and_their_times(heads):
    encoder, tokens = tower(), torch.randn(2 * FRAMES, 5, DIM, dtype=torch.float64)
    probe = AttentionProbe(encoder, FRAMES, heads).double()
    for p in probe.parameters():
        nn.init.normal_(p)
    got = probe(tokens, Grid(FRAMES, 2, 2, prefix=1), encoder)
    s = {k: v.numpy() for k, v in probe.state_dict().items()}
    linear = lambda x, name: x @ s[f"{name}.weight"].T + s[f"{name}.bias"]  # noqa: E731
    frames = layer_norm(tokens[:, 0].numpy().reshape(2, FRAMES, DIM), encoder.norm) + s["time"]
    frames = layer_norm(frames, probe.norm)
    q, k, v = linear(s["query"][0, 0], "q"), linear(frames, "k"), linear(frames, "v")
    width = DIM // (heads or 2)
    out = np.zeros((2, DIM))
    for b in range(2):
        for h in range(0, DIM, width):
            score = np.exp(k[b, :, h : h + width] @ q[h : h + width] / np.sqrt(width))
            out[b, h : h + width] = score / score.sum() @ v[b, :, h : h + width]
    assert np.allclose(got.detach(), linear(out, "proj"), atol=1e-10)


def test_attention_probe_starts_as_the_projected_mean_and_knows_its_length():
    encoder, tokens = tower(), torch.randn(FRAMES, 5, DIM, dtype=torch.float64)
    probe = AttentionProbe(encoder, FRAMES).double()
    nn.init.zeros_(probe.q.bias)
    grid = Grid(FRAMES, 2, 2, prefix=1)
    frames = probe.norm(encoder.norm(tokens[:, 0]))
    assert torch.allclose(probe(tokens, grid, encoder), probe.proj(probe.v(frames).mean(0, keepdim=True)))
    with pytest.raises(ValueError, match="num_frames=3, this clip has 4"):
        probe(torch.randn(4, 5, DIM, dtype=torch.float64), Grid(4, 2, 2, prefix=1), encoder)
