"""The vision transformer: pooling beside prompts, stochastic depth over its blocks, statistics, positions."""

import pytest
import timm
import torch

from tests.xmodal.adapters import plain
from tests.xmodal.adapters.towers import build, refill, vit
from tests.xmodal.test_encoders import OPEN_CLIP_SMALL, SMALL
from xmodal.adapters.noah import noah
from xmodal.adapters.vpt import vpt
from xmodal.encoders.files import unfilled
from xmodal.encoders.openclip_configs import config_of, describe_visual, text_of, visual_of
from xmodal.encoders.openclip_weights import build as build_clip
from xmodal.encoders.openclip_weights import open_clip_clip, open_clip_encoder
from xmodal.encoders.parts import DropPath
from xmodal.encoders.patches import resize_positions
from xmodal.encoders.statistics import with_statistics
from xmodal.encoders.timm_weights import from_timm, timm_encoder
from xmodal.encoders.tiny import tiny_clip, tiny_clip_encoder
from xmodal.encoders.unicl import unicl
from xmodal.encoders.vit import VisionTransformer

# as published with the weights: CLIP's repository, torchvision's and timm's ImageNet, Inception's for AugReg and SigLIP
OPENAI = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
NONE = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)


def average():
    return vit(pool="avg", num_registers=2)


def average_without_class_token():
    return vit(pool="avg", class_token=False, fc_norm=True)


def mapped():
    return vit(pool="map", class_token=False)


def mapped_with_prefix():
    return vit(pool="map", num_registers=1)


TOWERS = [average, average_without_class_token, mapped, mapped_with_prefix]


@pytest.mark.parametrize("make", TOWERS, ids=lambda make: make.__name__)
def test_pooling_counts_neither_prefix_nor_prompts(make):
    tower = build(make).double()
    tokens, grid = tower.embed(torch.randn(2, 3, 16, 16, dtype=torch.double))
    patches = tokens[:, grid.prefix :]
    assert patches.shape[1] == 4
    if tower.attn_pool is None:
        want = patches.mean(1)
        want = plain.norm(want, tower.fc_norm) if hasattr(tower.fc_norm, "eps") else want
    else:
        want = tower.attn_pool(patches)
    torch.testing.assert_close(tower.pool(tokens, grid), want)
    prompts = torch.cat([tokens, 100 * torch.randn(2, 3, 24, dtype=torch.double)], 1)
    torch.testing.assert_close(tower.pool(prompts, grid), want)
    torch.testing.assert_close(tower.pool(tokens, None), want)  # where there is no grid, all behind the prefix counts


@pytest.mark.parametrize("method", [vpt, noah], ids=["vpt", "noah"])
@pytest.mark.parametrize("make", TOWERS, ids=lambda make: make.__name__)
def test_the_feature_of_a_tower_with_prompts_is_made_of_its_patches(make, method):
    tower = build(make).double()
    method(tower)
    refill(tower.double(), only=lambda p: p.requires_grad).eval()
    images = torch.randn(2, 3, 16, 16, dtype=torch.double)
    tokens, grid = tower.embed(images)
    tokens = tower.norm(tower.forward_blocks(tokens, grid), grid)
    assert tokens.shape[1] == grid.prefix + 4 + 10
    torch.testing.assert_close(tower(images), tower.pool(tokens[:, : grid.prefix + 4], None))


def test_a_token_tower_reads_its_class_token_through_norm_and_projection():
    tower = build(lambda: vit(out_dim=7, num_registers=2)).double()
    tokens = torch.randn(2, 7, 24, dtype=torch.double)
    torch.testing.assert_close(tower.pool(tokens), tokens[:, 0] @ tower.proj.weight.T)


def rates(tower):
    return [[m.drop_prob for m in block.modules() if isinstance(m, DropPath)] for block in tower.blocks]


def both(values):
    return [[pytest.approx(v)] * 2 for v in values]


def test_stochastic_depth_grows_linearly_from_zero_to_the_last_block():
    assert rates(vit(depth=5, drop_path=0.4)) == both([0, 0.1, 0.2, 0.3, 0.4])
    assert rates(vit(depth=2, drop_path=0.3)) == both([0, 0.3])
    assert rates(vit(depth=1, drop_path=0.3)) == both([0])
    assert rates(vit(depth=3)) == both([0, 0, 0])


def test_every_door_hands_stochastic_depth_on():
    wanted = both([0, 0.2])
    assert rates(open_clip_encoder("ViT-B-32", "random", drop_path=0.2, arch=OPEN_CLIP_SMALL)) == wanted
    assert rates(timm_encoder("vit_small_patch16_224", "random", drop_path=0.2, arch=SMALL)) == wanted
    theirs = timm.create_model("vit_small_patch16_224", num_classes=0, **SMALL)
    assert rates(from_timm(theirs, drop_path=0.2)) == wanted
    for door in (tiny_clip_encoder, lambda **kw: tiny_clip(**kw).visual):
        for weights in ("random", "pretrained"):
            assert rates(door(weights=weights, drop_path=0.3)) == both([0, 0.1, 0.2, 0.3])
    swin = unicl(32, 8, (1, 2), (1, 2), 4, text_depth=1, vocab_size=9, drop_path=0.2).visual
    assert [b.drop_path1.drop_prob if hasattr(b.drop_path1, "drop_prob") else 0 for b in swin.blocks] == [
        0,
        pytest.approx(0.1),
        pytest.approx(0.2),
    ]


def test_stochastic_depth_is_on_in_training_only():
    torch.manual_seed(0)
    tower, images = vit(depth=4, drop_path=0.9), torch.randn(8, 3, 16, 16)
    refill(tower, 0.2)
    plain_tower = vit(depth=4)
    plain_tower.load_state_dict(tower.state_dict())
    torch.testing.assert_close(tower.eval()(images), plain_tower.eval()(images))
    assert not torch.allclose(tower.train()(images), plain_tower.train()(images))


@pytest.mark.parametrize(
    ("name", "wanted"), [("imagenet", IMAGENET), ("clip", OPENAI), ("half", HALF), ("none", NONE), ("own", HALF)]
)
def test_statistics_by_name(name, wanted):
    tower = with_statistics(vit(pixel_mean=HALF[0], pixel_std=HALF[1]), name)
    assert (tuple(tower.pixel_mean), tuple(tower.pixel_std)) == wanted
    with pytest.raises(ValueError, match="did you mean 'half'"):
        with_statistics(vit(), "halve")


def test_statistics_of_every_door():
    def of(tower):
        return tuple(tower.pixel_mean), tuple(tower.pixel_std)

    assert of(VisionTransformer(dim=24, depth=1, num_heads=3)) == OPENAI
    assert of(open_clip_encoder("ViT-B-32", "random", arch=OPEN_CLIP_SMALL)) == OPENAI
    assert of(unicl(32, 8, (1, 1), (1, 2), 4, text_depth=1, vocab_size=9).visual) == IMAGENET
    for name, wanted in {
        "vit_base_patch16_clip_224.openai": OPENAI,
        "vit_small_patch16_224.augreg_in21k": HALF,
        "vit_small_patch16_224.dino": IMAGENET,
        "deit_small_patch16_224": IMAGENET,
        "vit_base_patch16_224.mae": IMAGENET,
        "vit_small_patch14_dinov2": IMAGENET,
        "vit_base_patch16_siglip_224": HALF,
    }.items():
        assert of(timm_encoder(name, "random", arch=SMALL)) == wanted, name


def test_statistics_of_a_tag_are_used():
    config = {"quick_gelu": False, **config_of("ViT-B-32", OPEN_CLIP_SMALL)}
    tower = build_clip(config, "ViT-B-32", "x", origin={"mean": HALF[0], "std": (0.4, 0.5, 0.6)}).visual
    assert (tower.pixel_mean, tower.pixel_std) == (HALF[0], (0.4, 0.5, 0.6))


def test_a_table_of_positions_is_resized_by_rows_and_columns():
    row, column = torch.meshgrid(torch.arange(4.0), torch.arange(4.0), indexing="ij")
    table = torch.stack([row, column], -1).reshape(1, 16, 2)  # a plane, which bicubic keeps away from the edges
    table = torch.cat([torch.full((1, 2, 2), 77.0), table], 1)
    same = resize_positions(table, 2, 4, 4)
    torch.testing.assert_close(same, table)
    resized = resize_positions(table, 2, 4, 8)
    assert torch.equal(resized[:, :2], table[:, :2])
    maps = resized[0, 2:].view(4, 8, 2)
    torch.testing.assert_close(maps[:, 4, 0], torch.arange(4.0))
    torch.testing.assert_close(maps[1, 3:5, 1], torch.tensor([1.25, 1.75]))


@pytest.mark.parametrize("embed_prefix", [True, False])
def test_embedding_puts_class_and_registers_first_and_positions_on_what_has_some(embed_prefix):
    tower = build(lambda: vit(num_registers=2, embed_prefix=embed_prefix)).double()
    images = torch.randn(2, 3, 16, 16, dtype=torch.double)
    cut = images.unfold(2, 8, 8).unfold(3, 8, 8).permute(0, 2, 3, 1, 4, 5).reshape(2, 4, -1)
    patches = cut @ tower.patch_embed.proj.weight.flatten(1).T + tower.patch_embed.proj.bias
    first = torch.cat([tower.cls_token, tower.reg_token], 1).expand(2, -1, -1)
    if embed_prefix:
        want = torch.cat([first, patches], 1) + tower.pos_embed
    else:
        want = torch.cat([first, patches + tower.pos_embed], 1)
    tokens, grid = tower.embed(images, num_frames=2)
    torch.testing.assert_close(tokens, want)
    assert (grid.t, grid.h, grid.w, grid.prefix) == (2, 2, 2, 3)


def test_blocks_from_one_to_another_make_up_the_whole():
    tower = build(vit)
    vpt(tower, 2)
    refill(tower, only=lambda p: p.requires_grad)
    tokens, grid = tower.embed(torch.randn(2, 3, 16, 16))
    whole = tower.forward_blocks(tokens, grid)
    for cut in (1, 2):
        part = tower.forward_blocks(tokens, grid, stop=cut)
        assert part.shape == (2, 7, 24)
        torch.testing.assert_close(tower.forward_blocks(part, grid, start=cut), whole)


def test_the_first_n_blocks_are_recomputed_and_no_others(monkeypatch):
    seen = []
    monkeypatch.setattr(
        "xmodal.encoders.vit.run_block", lambda block, x, grid, rows, tap, recompute: seen.append(recompute) or x
    )
    tower = vit()
    for tower.recompute, wanted in ((False, [0, 0, 0]), (True, [1, 1, 1]), (2, [1, 1, 0]), (0, [0, 0, 0])):
        seen.clear()
        tower(torch.randn(1, 3, 16, 16))
        assert seen == [bool(w) for w in wanted]


@pytest.mark.parametrize(
    ("name", "heads", "text_heads", "act"),
    [
        ("ViT-B-32", 12, 8, "gelu"),
        ("ViT-B-16-quickgelu", 12, 8, "quick_gelu"),
        ("ViT-L-14", 16, 12, "gelu"),
        ("ViT-H-14", 16, 16, "gelu"),
        ("ViT-g-14", 16, 16, "gelu"),
        ("ViT-bigG-14", 16, 20, "gelu"),
    ],
)
def test_heads_and_activation_of_the_published_towers(name, heads, text_heads, act):
    config = {"quick_gelu": False, **config_of(name, None)}
    vision, text = describe_visual(unfilled(lambda: visual_of(config, name)), name), text_of(config, name)
    assert (vision["num_heads"], text["num_heads"], vision["act"], text["act"]) == (heads, text_heads, act, act)


def eps_of(tower):
    return {m.eps for m in tower.modules() if isinstance(m, torch.nn.LayerNorm)}


def test_every_norm_has_the_eps_of_its_tower():
    options = dict(pre_norm=True, qk_norm=True, fc_norm=True, pool="map", depth=1)
    assert eps_of(vit(**options, norm_eps=1e-3)) == {1e-3}
    assert eps_of(vit(**options)) == {1e-6}
    towers = unicl(32, 8, (1, 1), (1, 2), 4, text_depth=1, vocab_size=9)
    assert (eps_of(towers.visual), eps_of(towers.text)) == ({1e-5}, {1e-12})
    clip = open_clip_clip("ViT-B-32", "random", arch=OPEN_CLIP_SMALL)
    assert (eps_of(clip.visual), eps_of(clip.text)) == ({1e-5}, {1e-5})
    assert eps_of(timm_encoder("vit_small_patch16_224", "random", arch=SMALL)) == {1e-6}
    assert eps_of(timm_encoder("vit_base_patch16_clip_224", "random", arch=SMALL)) == {1e-5}
