"""Rotary positions and timm's Eva family: hand formulas, equality with timm, who is rotated, layouts of weights."""

import copy
import math
import pickle

import pytest
import timm
import torch

from tests.xmodal.adapters.towers import refill, vit
from video.aim import aim
from xmodal.adapters.lora import lora
from xmodal.adapters.vpt import vpt
from xmodal.encoders.attention import Attention
from xmodal.encoders.block import Mlp, PostNormBlock
from xmodal.encoders.rotary import MixedRotary, Rotary
from xmodal.encoders.timm_weights import from_timm, timm_encoder
from xmodal.merge import merge_adapters
from xmodal.structures import Grid
from xmodal.vqt import VisualQueries

# a few of each group; all of them are tried in `test_registry.py`
EVA = {
    "vit_small_patch16_dinov3": dict(embed_dim=128, num_heads=2),
    "vit_small_plus_patch16_dinov3_qkvb": dict(embed_dim=128, num_heads=2),
    "eva02_tiny_patch14_224": dict(embed_dim=128, num_heads=2),
    "eva02_base_patch14_224": dict(embed_dim=128, num_heads=2),
    "eva02_base_patch16_clip_224": dict(embed_dim=128, num_heads=2),
    "eva02_enormous_patch14_clip_224": dict(embed_dim=96, num_heads=3, mlp_ratio=2),
    "vit_pe_core_base_patch16_224": dict(embed_dim=128, num_heads=2),
    "vit_pe_spatial_base_patch16_512": dict(embed_dim=64, num_heads=1, img_size=96),
    "vit_small_patch16_rope_224": dict(embed_dim=64, num_heads=2),
    "vit_small_patch16_rope_mixed_ape_224": dict(embed_dim=64, num_heads=2),
    "vit_mediumd_patch16_rope_reg1_gap_256": dict(embed_dim=64, num_heads=2),
    "deit_small_distilled_patch16_224": dict(embed_dim=64, num_heads=2),
    "aimv2_large_patch14_224": dict(embed_dim=64, num_heads=2),
}


def redrawn(name, **changes):
    """A timm model of two blocks whose every weight counts."""
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=0, depth=2, **{**EVA[name], **changes})
    with torch.no_grad():
        for key, p in model.named_parameters():
            scale = 0.1 if p.ndim == 1 else 0.3 if p.ndim == 3 else p[0].numel() ** -0.5
            if not key.endswith("freqs"):
                p.copy_(scale * torch.randn_like(p) + float(p.ndim == 1 and ("gamma" in key or "weight" in key)))
    return model.eval()


@pytest.mark.parametrize("name", EVA)
@torch.no_grad()
def test_it_equals_timm_at_both_sizes_and_gives_the_weights_back(name):
    theirs = redrawn(name)
    ours, patch = from_timm(theirs), theirs.patch_embed.patch_size[0]
    other = copy.deepcopy(theirs)
    other.set_input_size(img_size=(3 * patch, 5 * patch))
    for model, size in ((theirs, theirs.patch_embed.img_size), (other, (3 * patch, 5 * patch))):
        images = torch.randn(2, 3, *size)
        want = model(images)
        assert want.std() > 0.1
        assert (ours(images) - want).abs().max() < 1e-5
        tokens = ours.norm(ours.forward_blocks(*ours.embed(images)))
        assert (tokens - model.forward_features(images)).abs().max() < 1e-5
    back = ours.library_state()
    assert back.keys() == theirs.state_dict().keys()
    theirs.load_state_dict(back)


def test_a_trained_key_bias_has_no_place_in_timms_model():
    ours = from_timm(redrawn("eva02_tiny_patch14_224"))
    with torch.no_grad():
        ours.blocks[1].attn.qkv.bias[130] = 1
    with pytest.raises(ValueError, match=r"blocks\.1\.attn\.qkv\.bias: the keys have a trained bias"):
        ours.library_state()


def by_hand(x, angle, layout):
    """Rotate a vector pair by pair with complex numbers: pair i is (x[2i], x[2i+1]), or (x[i], x[i + d/2])."""
    pairs = x.view(-1, 2) if layout == "interleaved" else x.view(2, -1).T
    turned = torch.view_as_complex(pairs.contiguous()) * torch.polar(torch.ones(len(angle)), torch.tensor(angle))
    return torch.view_as_real(turned).flatten() if layout == "interleaved" else torch.view_as_real(turned).T.flatten()


@pytest.mark.parametrize("layout", ["interleaved", "half"])
@pytest.mark.parametrize("order", ["ij", "xy"])
def test_axial_angles_by_hand(layout, order):
    rotary = Rotary(8, "axial", 100.0, order, 1.0, (4, 6), layout)
    x = torch.randn(1, 1, 1 + 6, 8)
    out = rotary(x, Grid(1, 2, 3, 1))
    assert torch.equal(out[0, 0, 0], x[0, 0, 0])  # the class token
    y, z = (1 + 1) / 2 * 4, (2 + 1) / 3 * 6  # row 1, column 2: offset, then the reference grid
    first, second = (y, z) if order == "ij" else (z, y)
    torch.testing.assert_close(out[0, 0, 6], by_hand(x[0, 0, 6], [first, first / 10, second, second / 10], layout))


def test_centered_angles_by_hand():
    x = torch.randn(1, 1, 6, 8)
    out = Rotary(8, "centered", 100.0, layout="half")(x, Grid(1, 2, 3, 0))
    y, z = 2 * (1.5 / 2) - 1, 2 * (0.5 / 3) - 1  # row 1, column 0
    want = by_hand(x[0, 0, 3], [2 * math.pi * a for a in (y, y / 10, z, z / 10)], "half")
    torch.testing.assert_close(out[0, 0, 3], want)


def test_frames_rows_and_columns_of_a_video_by_hand():
    x = torch.randn(2, 1, 6, 14)  # 2 frames of 2 x 3 patches; 4 channels an axis and 2 left over
    out = Rotary(14, "spacetime", 10000.0)(x, Grid(2, 2, 3, 0))
    want = by_hand(x[1, 0, 5, :12], [1.0, 0.01, 1.0, 0.01, 2.0, 0.02], "interleaved")
    torch.testing.assert_close(out[1, 0, 5], torch.cat([want, x[1, 0, 5, 12:]]))
    tiled = Rotary(14, "spacetime", 10000.0, layout="tiled")(x, Grid(2, 2, 3, 0))[1, 0, 5]
    a, b = x[1, 0, 5, 0], x[1, 0, 5, 1]  # the pair of channels 0 and 1 with the angles 1 and 0.01
    torch.testing.assert_close(tiled[0], a * math.cos(1.0) - b * math.sin(1.0))
    torch.testing.assert_close(tiled[1], b * math.cos(0.01) + a * math.sin(0.01))
    rescaled = Rotary(14, "spacetime", 10000.0, reference=(4, 7))(x, Grid(2, 2, 3, 0))[1, 0, 5]
    torch.testing.assert_close(rescaled[:12], by_hand(x[1, 0, 5, :12], [1, 0.01, 3, 0.03, 6, 0.06], "interleaved"))
    side = Rotary(14, "spacetime", 10000.0, reference=(4, 7))(x[:, :, :3], Grid(2, 1, 3, 0))
    assert side.isfinite().all()


def test_kept_patches_have_the_positions_of_their_numbers():
    rotary = Rotary(14, "spacetime", 10000.0)
    x = torch.randn(2, 1, 6, 14)
    whole = rotary(x, Grid(2, 2, 3, 0)).transpose(0, 1).flatten(1, 2)  # (1, 12, 14)
    kept = torch.tensor([[1, 5, 10]])
    part = x.transpose(0, 1).flatten(1, 2)[:, kept[0]][:, None]
    torch.testing.assert_close(rotary(part, Grid(1, 2, 3, 0, kept=kept))[:, 0], whole[:, kept[0]])


def test_learned_frequencies_train_and_rotate_each_head_by_its_own():
    rotary = MixedRotary(2, 8)
    x = torch.randn(1, 2, 6, 8)
    out = rotary(x, Grid(1, 2, 3, 0))
    out.sum().backward()
    assert rotary.freqs.grad.abs().sum() > 0
    freqs = rotary.freqs.detach()
    angle = 2 * freqs[0, 1] + 1 * freqs[1, 1]  # column 2, row 1, head 1
    torch.testing.assert_close(out[0, 1, 5].detach(), by_hand(x[0, 1, 5], angle.tolist(), "interleaved"))


def rotary_vit(**changes):
    return vit(num_heads=2, rotary=dict(kind="axial"), positions=False, **changes)


def test_learned_frequencies_start_on_circles_around_the_whole_turn():
    """Head by head an angle anywhere; the second half stands at a right angle to it; sizes fall by the temperature."""
    torch.manual_seed(0)
    x, y = MixedRotary(64, 16, temperature=100.0).freqs.detach().double()  # (64, 8) each
    sizes = torch.tensor([1.0, 100**-0.25, 100**-0.5, 100**-0.75] * 2, dtype=torch.double)
    torch.testing.assert_close(torch.hypot(x, y), sizes.expand(64, -1), rtol=1e-5, atol=1e-6)
    turn = torch.atan2(y, x)
    assert {round(float(a) // (torch.pi / 2)) for a in turn[:, 0]} == {-2, -1, 0, 1}
    torch.testing.assert_close(turn[:, :4], turn[:, :1].expand(-1, 4), rtol=1e-4, atol=1e-5)
    quarter = torch.remainder(turn[:, 4:] - turn[:, :4], 2 * torch.pi)
    torch.testing.assert_close(quarter, torch.full_like(quarter, torch.pi / 2), rtol=1e-4, atol=1e-5)


def test_prompts_and_queries_are_not_rotated():
    attention = Attention(24, 2, rotary=dict(kind="axial"))
    x, grid = torch.randn(1, 1 + 4 + 3, 24), Grid(1, 2, 2, 1)
    q, k, _ = attention.project(x, grid, None)
    plain_q, plain_k, _ = attention.project(x, None, None)
    for rotated, plain in ((q, plain_q), (k, plain_k)):
        assert torch.equal(rotated[:, :, :1], plain[:, :, :1])
        assert torch.equal(rotated[:, :, 5:], plain[:, :, 5:])
        assert torch.equal(rotated[:, :, 1], plain[:, :, 1])  # row 0, column 0
        assert ((rotated - plain)[:, :, 2:5].abs().amax((0, 1, 3)) > 1e-3).all()
    tower = refill(rotary_vit().eval())
    images = torch.randn(2, 3, 16, 24)
    before = tower(images)
    vpt(tower, 2)
    assert tower(images).shape == before.shape


@torch.no_grad()
def test_reading_only_the_prefix_changes_nothing():
    tower = refill(rotary_vit().eval())
    tokens, grid = tower.embed(torch.randn(2, 3, 24, 16))
    whole = tower.forward_blocks(tokens, grid)
    torch.testing.assert_close(tower.forward_blocks(tokens, grid, read="prefix"), whole[:, :1])


def test_tables_made_in_inference_mode_do_not_stay():
    tower = rotary_vit(image_size=56)
    images = torch.randn(1, 3, 56, 40)
    with torch.inference_mode():
        tower(images)
    tower(images).sum().backward()


def test_low_rank_updates_fold_into_a_rotary_tower():
    tower = from_timm(redrawn("eva02_base_patch14_224"))
    lora(tower, rank=2)
    refill(tower, 0.1, only=lambda p: p.requires_grad)
    images = torch.randn(1, 3, 28, 42)
    torch.testing.assert_close(merge_adapters(tower.eval())(images), tower(images), atol=1e-4, rtol=1e-4)


def test_norms_stand_where_their_options_say():
    block = PostNormBlock(12, 2).double()
    x = torch.randn(2, 3, 12).double()
    y = x + block.norm1(block.attn(x))
    torch.testing.assert_close(block(x), y + block.norm2(block.mlp(y)))
    attention = Attention(12, 2, out_norm=True).double()
    q, k, v = attention.project(x, None, None)
    heads = torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    torch.testing.assert_close(attention(x), attention.proj(attention.norm(heads)))
    mlp = Mlp(12, 20, "silu", gated=True, norm="rms").double()
    gate, value = mlp.fc1(x).chunk(2, -1)
    inner = torch.nn.functional.silu(gate) * value
    inner = inner / (inner.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    torch.testing.assert_close(mlp(x), inner @ mlp.fc2.weight.T + mlp.fc2.bias)


@torch.no_grad()
def test_joint_attention_is_one_sequence_over_all_frames():
    attention = Attention(12, 2, joint=True)
    x = torch.randn(2 * 3, 5, 12)
    whole = attention(x.view(2, 15, 12))
    torch.testing.assert_close(attention(x, Grid(3, 2, 2, 1)), whole.view(6, 5, 12))
    torch.testing.assert_close(attention(x, Grid(3, 2, 2, 1), rows=1), whole.view(6, 5, 12)[:, :1])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (dict(kind="axail"), "did you mean 'axial'"),
        (dict(layout="halve"), "did you mean 'half'"),
        (dict(head_dim=6), "heads of 6 channels"),
    ],
)
def test_rotary_settings_that_do_not_exist(settings, said):
    with pytest.raises(ValueError, match=said):
        Rotary(**{"head_dim": 8, **settings})


def test_methods_that_rebuild_a_block_refuse_norms_behind_it():
    for place in (lambda tower: aim(tower, 2), VisualQueries):
        with pytest.raises(ValueError, match="norms before attention and MLP"):
            place(vit(post_norm=True))


def test_the_architecture_decides_and_not_the_name():
    small = dict(depth=1, embed_dim=96, num_heads=3)
    for name in ("flexivit_small", "eva_large_patch14_196", "test_vit2"):
        assert timm_encoder(name, "random", arch=small).depth == 1
    with pytest.raises(ValueError, match="timm's family resnet"):
        timm_encoder("resnet50", "random")


@pytest.mark.parametrize("settings", [dict(kind="axial", reference=(4, 4)), dict(kind="mixed")], ids=["axial", "mixed"])
def test_a_rotary_tower_is_copied_pickled_and_exported_for_any_batch(settings):
    tower = refill(vit(num_heads=2, rotary=settings).eval(), 0.2)
    images = torch.randn(2, 3, 16, 16)
    want = tower(images)
    assert torch.equal(pickle.loads(pickle.dumps(copy.deepcopy(tower)))(images), want)
    batch = torch.export.Dim("batch", min=2, max=64)
    graph = torch.export.export(tower, (images,), dynamic_shapes=({0: batch},)).module()
    more = torch.randn(5, 3, 16, 16)
    torch.testing.assert_close(graph(more), tower(more))
    assert torch.equal(tower(images), want)  # nothing of the export stays in the tower
