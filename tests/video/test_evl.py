"""EVL's shortcuts against the plain formulations."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.xmodal.adapters.plain import Square, attention, norm, quick_gelu, run
from video.evl import EVLDecoder, EVLLayer, QueryAttention
from video.motion import MotionTable, neighbor_attention
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
    past = gathered(neighbor_attention(qf[:, 1:].flatten(0, 1), kf[:, :-1].flatten(0, 1)), table.w1, 2, 3)
    future = gathered(neighbor_attention(qf[:, :-1].flatten(0, 1), kf[:, 1:].flatten(0, 1)), table.w2, 2, 3)
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


def test_one_frame_has_no_neighbors():
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


def written_out(encoder, reader, images):
    """Section 2 of the method's description, block by block: tokens of frames, motion, one query."""
    frames, x = reader.num_frames, reader.query.expand(len(images) // reader.num_frames, 1, -1)
    first = len(encoder.blocks) - len(reader.decoder)
    tokens, grid = encoder.embed(images, num_frames=frames)
    for i, block in enumerate(encoder.blocks):
        q, k, _ = (norm(tokens, block.norm1) @ block.attn.qkv.weight.T + block.attn.qkv.bias).chunk(3, -1)
        tokens = run(block, tokens)
        if i < first:
            continue
        layer, seen = reader.decoder[i - first], tokens.unflatten(0, (-1, frames))
        y = seen
        if layer.temporal_conv is not None:
            kernel, padded = layer.temporal_conv.weight[:, 0], F.pad(seen, (0, 0, 0, 0, 1, 1))
            y = y + sum(padded[:, j : j + frames] * kernel[:, j] for j in range(3)) + layer.temporal_conv.bias
        if layer.temporal_pos_embed is not None:
            y = y + layer.temporal_pos_embed[:, None]
        if layer.cross_attention is not None:
            q, k = (t.unflatten(0, (-1, frames))[:, :, 1:] for t in (q, k))
            y = y + F.pad(motion(q, k, layer.cross_attention, encoder.num_heads, grid), (0, 0, 1, 0))
        y = norm(y.flatten(1, 2), layer.norm3)
        u, at = norm(x, layer.norm1), layer.attn
        q, k, v = (p(t) for p, t in ((at.q_proj, u), (at.k_proj, y), (at.v_proj, y)))
        x = x + at.out_proj(attention(q, k, v, at.num_heads))
        x = x + layer.fc2(quick_gelu(layer.fc1(norm(x, layer.norm2))))
    return x[:, 0]


def motion(q, k, table, heads, grid):
    """Attention to the patches of the frame before and of the frame behind, as sums of relative vectors."""
    frames, found = q.shape[1], torch.zeros_like(q)
    for t in range(frames):
        for other, w in ((t - 1, table.w1), (t + 1, table.w2)):
            if 0 <= other < frames:
                pairs = zip(q[:, t].chunk(heads, -1), k[:, other].chunk(heads, -1), strict=True)
                maps = sum((a @ b.mT / a.shape[-1] ** 0.5).softmax(-1) for a, b in pairs) / heads
                found[:, t] += gathered(maps, w, grid.h, grid.w)
    return found


OPTIONS = [
    dict(),
    dict(num_layers=1, num_heads=2, qkv_dim=8, mlp_factor=1.5),
    dict(temporal_conv=False),
    dict(temporal_pos_embed=False),
    dict(temporal_cross_attention=False, num_layers=3),
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_whole_decoder_equals_its_formula(options):
    torch.manual_seed(0)
    encoder = VisionTransformer(image_size=16, patch_size=8, dim=12, depth=3, num_heads=3)
    encoder = refill(encoder).double().requires_grad_(False)
    reader = refill(EVLDecoder(encoder, **(dict(num_frames=3, num_layers=2) | options))).double().eval()
    images = torch.randn(2 * 3, 3, 16, 16, dtype=torch.double)
    taps = Taps(*reader.taps, layers=reader.layers)
    tokens, grid = encoder.embed(images, num_frames=3)
    out = encoder.forward_blocks(tokens, grid, read=reader.reads, taps=taps)
    want = written_out(encoder, reader, images)
    assert reader.decoder[0].fc1.out_features == round(options.get("mlp_factor", 4) * 12)
    assert reader.decoder[0].attn.q_proj.out_features == options.get("qkv_dim", 12)
    assert reader.decoder[0].attn.num_heads == options.get("num_heads", 3)
    torch.testing.assert_close(reader(out, grid, encoder, taps), want, atol=1e-5, rtol=1e-5)  # maps are float32
    kept = reader.frozen(out, grid, encoder, taps)
    torch.testing.assert_close(reader.from_frozen(kept, grid, encoder), want, atol=1e-5, rtol=1e-5)
    assert sorted(kept)[-1] == "post.2"


def test_it_reads_the_last_blocks_in_order():
    with torch.device("meta"):
        encoder = VisionTransformer()
        assert EVLDecoder(encoder, num_frames=8).layers == (8, 9, 10, 11)
        reader = EVLDecoder(encoder, num_frames=8, num_layers=2, temporal_cross_attention=False)
    assert reader.layers == (10, 11)
    assert reader.taps == ("post",)
    assert [layer.recompute for layer in EVLDecoder(small(), 2, num_layers=3, recompute=1).decoder] == [0, 0, 1]


def small():
    return VisionTransformer(image_size=16, patch_size=8, dim=12, depth=3, num_heads=3)


def test_dropout_acts_inside_the_mlp_in_training_only():
    reader = EVLDecoder(small(), num_frames=2, num_layers=1)
    layer = refill(reader.decoder[0])
    assert layer.dropout.p == 0.5
    assert EVLDecoder(small(), num_frames=2, num_layers=1, mlp_dropout=0.2).decoder[0].dropout.p == 0.2
    x, frames, grid = torch.randn(2, 1, 12), torch.randn(2, 2, 5, 12), Grid(2, 2, 2)
    maps = (torch.rand(2, 1, 4, 4), torch.rand(2, 1, 4, 4))
    assert torch.equal(layer.eval()(x, frames, maps, grid), layer(x, frames, maps, grid))
    assert not torch.allclose(layer.train()(x, frames, maps, grid), layer.eval()(x, frames, maps, grid))
    read = x + layer.read(x, frames, *maps, grid)
    layer.dropout = Square()
    want = read + layer.fc2(quick_gelu(layer.fc1(layer.norm2(read))) ** 2)
    torch.testing.assert_close(layer(x, frames, maps, grid), want, atol=1e-4, rtol=1e-4)


def test_it_starts_as_published():
    torch.manual_seed(0)
    reader = EVLDecoder(VisionTransformer(dim=120, depth=1, num_heads=3, image_size=32), num_frames=4, num_layers=1)
    (layer,) = reader.decoder
    zero = (reader.query, layer.temporal_pos_embed, layer.cross_attention.w1, layer.cross_attention.w2)
    assert not any(p.any() for p in (*zero, *(getattr(layer.attn, f"{n}_proj").bias for n in ("q", "k", "v", "out"))))
    assert layer.temporal_conv.weight.abs().max() > 0.3  # torch's own, not zero
    for linear in (layer.attn.q_proj, layer.attn.k_proj, layer.attn.v_proj, layer.attn.out_proj, layer.fc1, layer.fc2):
        bound = (6 / sum(linear.weight.shape)) ** 0.5
        assert 0.99 * bound < linear.weight.abs().max() <= bound
    for linear in (layer.fc1, layer.fc2):
        assert linear.bias.std().item() == pytest.approx(1e-6, rel=0.2)
    assert not layer.attn.k_proj.bias.requires_grad
    assert sum(not p.requires_grad for p in reader.parameters()) == 1


def test_clips_of_another_length_are_refused():
    encoder = small()
    reader = EVLDecoder(encoder, num_frames=2, num_layers=1)
    with pytest.raises(ValueError, match="num_frames=2, this clip has 3"):
        reader.from_frozen({"post.2": torch.zeros(3, 5, 12)}, Grid(3, 2, 2), encoder)
