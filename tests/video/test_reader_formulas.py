"""Readers of clips against their formulas in float64."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from video.readers import TimeMeanReader
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
