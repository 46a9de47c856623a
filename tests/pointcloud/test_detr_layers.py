"""The layers of 3DETR against their formulas in float64."""

import numpy as np
import pytest
import torch

from pointcloud.box_decoder import Decoder, DecoderLayer, FourierPositions, PointMLP
from pointcloud.detr_encoder import DETREncoder, EncoderLayer
from tests.pointcloud.test_tokens import refill

DIM, HEADS = 6, 2


def state(module):
    return {k: v.numpy() for k, v in module.state_dict().items()}


def norm(s, name, x):
    mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / np.sqrt(var + 1e-5) * s[f"{name}.weight"] + s[f"{name}.bias"]


def attention(s, name, q, k, v, forbidden=None):
    """Attention with heads of neighboring channels; `forbidden` (B, M, M) is True where nothing may be seen."""
    parts = np.split(s[f"{name}.in_proj_weight"], 3), np.split(s[f"{name}.in_proj_bias"], 3)
    q, k, v = (x @ w.T + b for x, w, b in zip((q, k, v), *parts, strict=True))
    out, width = np.zeros_like(q), DIM // HEADS
    for h in range(0, DIM, width):
        score = q[..., h : h + width] @ k[..., h : h + width].swapaxes(-1, -2) / np.sqrt(width)
        score = np.exp(score if forbidden is None else np.where(forbidden, -np.inf, score))
        out[..., h : h + width] = score / score.sum(-1, keepdims=True) @ v[..., h : h + width]
    return out @ s[f"{name}.out_proj.weight"].T + s[f"{name}.out_proj.bias"]


def feed(s, x):
    hidden = np.maximum(x @ s["linear1.weight"].T + s["linear1.bias"], 0)
    return hidden @ s["linear2.weight"].T + s["linear2.bias"]


def draw(*shapes):
    rng = np.random.default_rng(0)
    return [rng.normal(size=shape) for shape in shapes]


def test_decoder_layer_adds_positions_to_queries_and_keys_and_not_to_values():
    layer = refill(DecoderLayer(DIM, HEADS, 5, 0.1).double())
    s, (x, memory, query_pos, pos) = state(layer), draw((2, 3, DIM), (2, 4, DIM), (2, 3, DIM), (2, 4, DIM))
    got = layer(*map(torch.from_numpy, (x, memory, query_pos, pos)))
    y = norm(s, "norm1", x)
    x = x + attention(s, "self_attn", y + query_pos, y + query_pos, y)
    y = norm(s, "norm2", x)
    x = x + attention(s, "multihead_attn", y + query_pos, memory + pos, memory)
    want = x + feed(s, norm(s, "norm3", x))
    assert np.allclose(got.detach(), want, atol=1e-10)


def test_decoder_starts_at_zero_and_norms_every_output():
    decoder = refill(Decoder(DIM, HEADS, 5, 2, 0.1).double())
    memory, query_pos, pos, query = map(torch.from_numpy, draw((2, 4, DIM), (2, 3, DIM), (2, 4, DIM), (2, 3, DIM)))
    for start, given in ((torch.zeros_like(query_pos), None), (query, query)):
        one = decoder.layers[0](start, memory, query_pos, pos)
        two = decoder.layers[1](one, memory, query_pos, pos)
        want = np.stack([norm(state(decoder), "norm", x.detach().numpy()) for x in (one, two)])
        assert np.allclose(decoder(memory, query_pos, pos, given).detach(), want, atol=1e-10)


@pytest.mark.parametrize("masked", [False, True])
def test_encoder_layer(masked):
    layer = refill(EncoderLayer(DIM, HEADS, 5, 0.1).double())
    s, (x,) = state(layer), draw((2, 4, DIM))
    forbidden = np.zeros((2, 4, 4), bool)
    if masked:
        forbidden[0, 0, 1:] = forbidden[1, 2, :2] = True
    got = layer(torch.from_numpy(x), torch.from_numpy(forbidden) if masked else None)
    y = norm(s, "norm1", x)
    x = x + attention(s, "self_attn", y, y, y, forbidden)
    assert np.allclose(got.detach(), x + feed(s, norm(s, "norm2", x)), atol=1e-10)


def test_masked_layers_see_what_is_nearer_than_their_radius():
    """At the radius itself nothing is seen; after the first layer half of the points are left."""
    model = DETREncoder(masked=True, dim=DIM, num_heads=HEADS, ffn_dim=4, num_points=4, radii=(1.0, 2.0, 9.0)).eval()
    masks = []
    for layer in model.layers:
        layer.forward = lambda x, mask: masks.append(mask) or x
    x = torch.tensor([0.0, 4.0, 1.0, 1.5])
    model(torch.stack([x, 0 * x, 0 * x], dim=1)[None])
    order = [0.0, 4.0, 1.5, 1.0]  # far points first
    assert masks[0][0].tolist() == [[abs(a - b) >= 1.0 for b in order] for a in order]
    assert masks[1][0].tolist() == [[False, True], [True, False]]  # 0 and 4 are left
    assert not masks[2].any()


def test_fourier_positions():
    model = FourierPositions(8)
    assert model.gauss_B.shape == (3, 4)
    xyz, low, high = (
        torch.rand(2, 5, 3),
        torch.tensor([[0.0, 0, 0], [-1, 0, 0]]),
        torch.tensor([[1.0, 2, 4], [3, 1, 1]]),
    )
    share = (xyz.double() - low[:, None]) / (high - low)[:, None]
    angle = 2 * np.pi * share.numpy() @ model.gauss_B.double().numpy()
    want = np.concatenate([np.sin(angle), np.cos(angle)], axis=-1)
    assert np.allclose(model(xyz, low, high), want, atol=1e-4)


def test_heads_norm_their_hidden_layers_only():
    """Conv without bias, norm, ReLU, dropout, twice; then a plain convolution with bias."""
    kinds = [type(m).__name__ for m in PointMLP([4, 5, 6, 2], dropout=0.3).layers]
    assert kinds == ["PointConv", "PointNorm", "ReLU", "Dropout"] * 2 + ["PointConv"]
    layers = PointMLP([4, 5, 6, 2], dropout=0.3).layers
    assert [m.bias is None for m in layers if type(m).__name__ == "PointConv"] == [True, True, False]
    between = PointMLP([4, 5, 6], norm_output=True, output_bias=False).layers
    assert [type(m).__name__ for m in between] == ["PointConv", "PointNorm", "ReLU"] * 2
    assert all(m.bias is None for m in between if type(m).__name__ == "PointConv")
    query = PointMLP([4, 5, 6], norm=False, act_output=True).layers
    assert [type(m).__name__ for m in query] == ["PointConv", "ReLU"] * 2
