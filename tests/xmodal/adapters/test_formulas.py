"""Methods against their formulas, written out plainly."""

import pytest
import torch
import torch.nn.functional as F

from tests.xmodal.adapters.towers import build, refill, swin, vit
from xmodal.adapters.bottleneck import adaptformer
from xmodal.adapters.conv_adapter import conv_adapter
from xmodal.adapters.convpass import convpass
from xmodal.adapters.kadaptation import kadaptation, local_intrinsic_dimension, lowest_dimension
from xmodal.encoders.block import Block, PostNormBlock
from xmodal.encoders.sites import placed, scale_behind
from xmodal.encoders.taps import Taps
from xmodal.structures import Grid
from xmodal.vqt import VisualQueries, most_used


def test_convpass_gives_other_tokens_the_center_of_the_kernel():
    encoder = build(vit)
    bypass = refill(convpass(encoder, hidden=4, scale=0.5)[0]).eval()
    x, y = torch.randn(2, 8, 24), torch.randn(2, 8, 24)  # class token, 2x2 patches, 3 prompts
    u = F.silu(1.702 * bypass.down(x)) / 1.702
    patches = bypass.conv(u[:, 1:5].transpose(1, 2).reshape(2, 4, 2, 2)).flatten(2).transpose(1, 2)
    others = [bypass.conv(u[:, i].reshape(2, 4, 1, 1)).flatten(1)[:, None] for i in (0, 5, 6, 7)]
    v = torch.cat([others[0], patches, *others[1:]], 1)
    expected = y + 0.5 * bypass.up(F.silu(1.702 * v) / 1.702)
    torch.testing.assert_close(bypass(y, x, Grid(1, 2, 2, 1)), expected)


def test_convpass_and_conv_adapter_on_swin_see_the_unshifted_map():
    encoder = build(swin)
    block = encoder.blocks[1]
    assert block.shift_size == (2, 2)
    x = torch.randn(2, 8, 8, 16)
    attended = x + block._attn(block.norm1(x))
    u = block.norm1(x)
    plain = attended + block.mlp(block.norm2(attended))
    torch.testing.assert_close(block(x), plain)
    convpass(encoder, hidden=4, scale=0.5, sites=["attn"])
    conv_adapter(encoder, 4, norms="none")
    refill(encoder, only=lambda p: p.requires_grad).eval()
    bypass, adapter = block.attn.edits["convpass"], block.attn.edits["conv_adapter"]
    quick = lambda t: F.silu(1.702 * t) / 1.702  # noqa: E731
    v = quick(bypass.conv(quick(bypass.down(u)).permute(0, 3, 1, 2))).permute(0, 2, 3, 1)
    attended = attended + 0.5 * bypass.up(v)
    m = adapter.up(F.gelu(adapter.conv(u.permute(0, 3, 1, 2)))) * adapter.alpha
    attended = attended + m.permute(0, 2, 3, 1)
    torch.testing.assert_close(block(x), attended + block.mlp(block.norm2(attended)), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("scheme", ["conv_sequential", "residual_parallel", "residual_sequential"])
def test_schemes_on_a_bottleneck(scheme):
    from tests.xmodal.adapters.towers import resnet

    encoder = build(resnet)
    conv_adapter(encoder, 2, scheme, norms="none")
    refill(encoder, only=lambda p: p.requires_grad)
    block = encoder.blocks[1]  # stride 2
    ((_, a),) = placed(block)
    x = torch.randn(2, 32, 8, 8)
    ca = lambda t: a.up(F.relu(a.conv(t))) * a.alpha  # noqa: E731
    h = F.relu(block.bn2(block.conv2(F.relu(block.bn1(block.conv1(x))))))
    h = h + ca(h) if scheme == "conv_sequential" else h
    branch = block.bn3(block.conv3(h))
    branch = branch + ca(x) if scheme == "residual_parallel" else branch
    out = F.relu(branch + block.downsample(x))
    out = out + ca(out) if scheme == "residual_sequential" else out
    torch.testing.assert_close(block(x), out)


def test_kadaptation_is_a_sum_of_kronecker_products():
    encoder = build(vit)
    update = refill(kadaptation(encoder, terms=4, rank=2, scale=3.0)[1])
    part, slow = update.parts["v"], encoder.blocks[0].attn.qkv.edits["kadaptation"].parts["v"].slow
    a, b = slow.left @ slow.right, part.left @ part.right  # (t, t, t), (t, D/t, D/t)
    h = sum(torch.kron(a[i], b[i]) for i in range(4))
    torch.testing.assert_close(part.matrix(), h)
    x, y = torch.randn(2, 5, 24), torch.randn(2, 5, 72)
    out = update(y, x)
    torch.testing.assert_close(out[..., 48:], y[..., 48:] + 3 * x @ h + update.bias)
    torch.testing.assert_close(out[..., 24:48], y[..., 24:48])


def test_local_intrinsic_dimension_of_known_manifolds():
    generator = torch.Generator().manual_seed(0)
    for dimension in (2, 5):
        points = torch.rand(1500, dimension, generator=generator) @ torch.randn(dimension, 30, generator=generator)
        assert local_intrinsic_dimension(points, 20) == pytest.approx(dimension, rel=0.2)
    with pytest.raises(ValueError, match="neighbors"):
        local_intrinsic_dimension(torch.randn(5, 3), 20)
    encoder = build(vit)
    ranked = lowest_dimension(encoder, torch.randn(12, 3, 16, 16), neighbors=5)
    assert len(ranked) == 6
    assert [v for _, v in ranked] == sorted(v for _, v in ranked)
    assert not list(placed(encoder))


def run_vqt(encoder, reader, images):
    tokens, grid = encoder.embed(images)
    taps = Taps(*reader.taps, layers=reader.layers)
    tokens = encoder.forward_blocks(tokens, grid, read=reader.reads, taps=taps)
    return reader(tokens, grid, encoder, taps), tokens, taps


def test_vqt_leaves_no_graph_in_the_tower_and_keeps_its_feature():
    encoder = build(vit)
    reader = VisualQueries(encoder, 2, normalize=False).eval()
    images = torch.randn(3, 3, 16, 16)
    feature, tokens, taps = run_vqt(encoder, reader, images)
    assert not tokens.requires_grad
    assert not any(taps[name, i].requires_grad for name in reader.taps for i in reader.layers)
    torch.testing.assert_close(feature[:, :24], encoder(images))
    feature.sum().backward()
    assert reader.queries.grad.abs().amin(dim=-1).min() > 0
    # the same as putting the queries in front of the sequence, as queries only
    x, _ = encoder.embed(images)
    found = []
    for i, block in enumerate(encoder.blocks):
        both = torch.cat([reader.queries[i].expand(3, -1, -1), x], 1)
        u = block.norm1(both)
        q, k, v = (block.attn.heads(part) for part in block.attn.qkv(u).chunk(3, -1))
        y = F.scaled_dot_product_attention(q, k[:, :, 2:], v[:, :, 2:])
        both = both + block.attn.proj(y.transpose(1, 2).flatten(2))
        both = both + block.mlp(block.norm2(both))
        found.append(both[:, :2].flatten(1))
        x = both[:, 2:]
    torch.testing.assert_close(feature[:, 24:], torch.cat(found, 1))


def test_vqt_feature_selection_keeps_the_heaviest_columns():
    encoder = build(vit)
    weight = torch.zeros(4, 24 * (1 + 3 * 2))
    weight[:, [5, 30, 100]] = 1
    keep = most_used(weight, 3 / weight.shape[1])
    assert keep.tolist() == [5, 30, 100]
    whole = VisualQueries(encoder, 2)
    part = VisualQueries(encoder, 2, keep=keep)
    part.queries = whole.queries
    images = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(run_vqt(encoder, part, images)[0], run_vqt(encoder, whole, images)[0][:, keep])
    assert part.out_dim == 3
    with pytest.raises(ValueError, match="concat, mean or sum"):
        VisualQueries(encoder, 2, combine="max")


@pytest.mark.parametrize("reads", ["stream", "normed"])
def test_a_layer_scale_does_not_act_on_what_stands_beside_the_mlp(reads):
    encoder = vit(init_values=0.1)
    adaptformer(encoder, 4, scale=0.7, reads=reads)
    block = refill(encoder).double().eval().blocks[1]
    block.ls2.gamma.data[:2] = 0
    x, grid = torch.randn(2, 5, 24, dtype=torch.double), Grid(1, 2, 2)
    found, site = block(x, grid), block.mlp if reads == "normed" else block.mlp_branch
    adapter = site.edits.pop("adaptformer")
    u = x + block.ls1(block.attn(block.norm1(x), grid))
    added = 0.7 * adapter.up(adapter.down(u if reads == "stream" else block.norm2(u)).relu())
    rest = slice(2 if reads == "normed" else 0, None)  # in front of a scale of zero nothing passes
    torch.testing.assert_close((found - block(x, grid))[..., rest], added[..., rest])


def test_a_norm_between_an_operation_and_its_layer_scale():
    block = Block(8, 2, init_values=0.1)
    assert (scale_behind(block, "attn"), scale_behind(block, "mlp")) == (block.ls1, block.ls2)
    assert (
        scale_behind(block, "mlp_branch") is scale_behind(block, "pre_mlp") is scale_behind(Block(8, 2), "mlp") is None
    )
    assert scale_behind(PostNormBlock(8, 2, init_values=0.1), "mlp") is None
