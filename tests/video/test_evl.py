"""EVL's shortcuts against the plain formulations."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from video.evl import EVLDecoder, EVLLayer, QueryAttention
from video.motion import MotionTable, neighbour_attention
from xmodal.encoders.taps import Taps
from xmodal.encoders.vit import VisionTransformer
from xmodal.structures import Grid


def refill(module):
    for p in module.parameters():
        nn.init.normal_(p, std=0.3)
    return module


def gathered(maps, table, h, w):
    """The released formulation: an (n, n, D) table of relative-offset vectors."""
    q, k = torch.arange(h * w)[:, None], torch.arange(h * w)[None]
    index = (q // w - k // w + h - 1) * (2 * w - 1) + (q % w - k % w + w - 1)
    return torch.einsum("pqk,qkc->pqc", maps, table[index])


@pytest.mark.parametrize(("h", "w"), [(3, 3), (2, 4), (1, 5), (4, 1), (2, 8), (3, 10), (2, 11)])
def test_motion_and_its_gradients_equal_the_gathered_tables(h, w):
    past, future = (torch.rand(2, 3, h * w, h * w) for _ in range(2))
    table, grad = refill(MotionTable(6, (h, w))), torch.randn(2, 4, h * w, 6)
    got = table((past, future))
    before = gathered(past.flatten(0, 1), table.w1, h, w).unflatten(0, (2, 3))
    after = gathered(future.flatten(0, 1), table.w2, h, w).unflatten(0, (2, 3))
    want = F.pad(before, (0, 0, 0, 0, 1, 0)) + F.pad(after, (0, 0, 0, 0, 0, 1))
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)
    weights = list(table.parameters())
    for a, b in zip(torch.autograd.grad(got, weights, grad), torch.autograd.grad(want, weights, grad), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_query_attention_equals_projected_keys_and_values():
    attn, norm = refill(QueryAttention(12, 8, 2)), refill(nn.LayerNorm(12))
    x, tokens = (torch.randn(3, n, 12).mul(3).add(1).requires_grad_() for n in (1, 7))
    q, k, v = (
        p(t).unflatten(-1, (2, 4)).transpose(1, 2)
        for p, t in ((attn.q_proj, x), (attn.k_proj, norm(tokens)), (attn.v_proj, norm(tokens)))
    )
    plain = attn.out_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
    got = attn(x, tokens, norm)
    torch.testing.assert_close(got, plain, atol=1e-5, rtol=1e-5)
    wanted = [x, tokens, *norm.parameters(), *(p for p in attn.parameters() if p.requires_grad)]
    grad = torch.randn_like(got)
    for a, b in zip(torch.autograd.grad(got, wanted, grad), torch.autograd.grad(plain, wanted, grad), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_augment_equals_the_plain_modules_and_keeps_its_input():
    grid = Grid(4, 2, 3, prefix=2)
    layer = refill(EVLLayer(12, 4, (2, 3), 12, 3))
    frames = torch.randn(2, 4, 8, 12, requires_grad=True)
    q, k = torch.randn(8, 3, 8, 4), torch.randn(8, 3, 8, 4)
    before = frames.clone()
    got = layer.augment(frames, layer.cross_attention(layer.cross_attention.maps(q, k, grid)), grid)
    conv = layer.temporal_conv(frames.permute(0, 2, 3, 1).reshape(16, 12, 4)).view(2, 8, 12, 4).permute(0, 3, 1, 2)
    want = frames + conv + layer.temporal_pos_embed[:, None]
    qf, kf = (x[:, :, 2:].unflatten(0, (2, 4)) for x in (q, k))
    table = layer.cross_attention
    past = gathered(neighbour_attention(qf[:, 1:].flatten(0, 1), kf[:, :-1].flatten(0, 1)), table.w1, 2, 3)
    future = gathered(neighbour_attention(qf[:, :-1].flatten(0, 1), kf[:, 1:].flatten(0, 1)), table.w2, 2, 3)
    want[:, 1:, 2:] += past.unflatten(0, (2, 3))
    want[:, :-1, 2:] += future.unflatten(0, (2, 3))
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)
    assert torch.equal(frames, before)
    grad, weights = torch.randn_like(got), [frames, *layer.temporal_conv.parameters(), layer.temporal_pos_embed]
    weights += [table.w1, table.w2]
    for a, b in zip(torch.autograd.grad(got, weights, grad), torch.autograd.grad(want, weights, grad), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_parameter_count_of_the_paper():
    with torch.device("meta"):
        encoder = VisionTransformer()
        reader = EVLDecoder(encoder, num_frames=8, num_layers=4)
    assert sum(p.numel() for p in reader.parameters()) == 33_183_376 - 309_136


def test_no_gradient_reaches_the_encoder():
    encoder = VisionTransformer(image_size=16, patch_size=8, dim=12, depth=3, num_heads=3).requires_grad_(False)
    reader = EVLDecoder(encoder, num_frames=2, num_layers=2)
    taps = Taps(*reader.taps, layers=reader.layers)
    tokens, grid = encoder.embed(torch.randn(4, 3, 16, 16), num_frames=2)
    out = encoder.forward_blocks(tokens, grid, read=reader.reads, taps=taps)
    assert not out.requires_grad
    reader(out, grid, encoder, taps).sum().backward()
    assert all(p.grad is not None for p in reader.parameters() if p.requires_grad)


def test_one_frame_has_no_neighbours():
    table = refill(MotionTable(4, (2, 2)))
    q = torch.randn(3, 1, 5, 4)
    assert torch.equal(table(table.maps(q, q, Grid(1, 2, 2))), torch.zeros(3, 1, 4, 4))


def test_bad_input():
    encoder = VisionTransformer(image_size=16, patch_size=8, dim=12, depth=2, num_heads=3)
    with pytest.raises(ValueError, match="2 blocks"):
        EVLDecoder(encoder, num_frames=2, num_layers=3)
    with pytest.raises(ValueError, match="divide"):
        EVLDecoder(encoder, num_frames=2, num_layers=1, qkv_dim=10, num_heads=3)
    with pytest.raises(ValueError, match="grid"):
        MotionTable(4, (2, 2)).maps(torch.randn(2, 1, 10, 4), torch.randn(2, 1, 10, 4), Grid(2, 3, 3))
