"""Bias by relative position, images of several sizes in one batch, and what refuses them."""

import pytest
import timm
import torch

import xmodal
from tests.xmodal.adapters import towers
from tools.benches.encoders import redraw
from xmodal.encoders.relative import RelativeBias
from xmodal.encoders.timm_weights import from_timm, timm_encoder
from xmodal.structures import Grid, need_grid


def test_the_bias_of_two_patches_depends_on_their_distance_alone():
    bias = RelativeBias(2, (2, 3))
    torch.nn.init.normal_(bias.table)
    found = bias(Grid(1, 2, 3, 1), 9)[0]  # class token, 6 patches, 2 prompts
    assert found.shape == (2, 9, 9)
    assert torch.equal(found[:, 1, 2], found[:, 4, 5])  # one to the right, in both rows
    assert torch.equal(found[:, 1, 5], found[:, 2, 6])
    assert not torch.equal(found[:, 1, 2], found[:, 2, 1])
    assert torch.equal(found[:, 0, 0], bias.table[-1])
    assert torch.equal(found[:, 0, 3], bias.table[-3])
    assert torch.equal(found[:, 3, 0], bias.table[-2])
    assert not found[:, 7:].any()
    assert not found[:, :, 7:].any()
    some = bias(Grid(1, 2, 3, 1, kept=torch.tensor([[5, 0]])), 3)
    assert torch.equal(some[0, :, 1, 2], found[:, 6, 1])
    with pytest.raises(ValueError, match="2 prefix tokens"):
        bias(Grid(1, 2, 3, 2), 8)


def naflex():
    torch.manual_seed(0)
    options = dict(depth=2, embed_dim=48, num_heads=3, num_classes=0)
    return redraw(timm.create_model("naflexvit_base_patch16_siglip", **options))


@torch.no_grad()
def test_images_of_several_sizes_in_one_batch_equal_timm():
    theirs = naflex()
    ours = from_timm(theirs)
    sizes = ((64, 48), (32, 96), (16, 16))
    images = [torch.randn(3, *size) for size in sizes]
    count = max(h * w // 256 for h, w in sizes)
    patches, coord = torch.zeros(3, count, 768), torch.zeros(3, count, 2, dtype=torch.long)
    valid = torch.zeros(3, count, dtype=torch.bool)
    for i, image in enumerate(images):
        h, w = image.shape[1] // 16, image.shape[2] // 16
        own = image.view(3, h, 16, w, 16).permute(1, 3, 2, 4, 0).reshape(h * w, 768)
        patches[i, : h * w], valid[i, : h * w] = own, True
        coord[i, : h * w] = torch.cartesian_prod(torch.arange(h), torch.arange(w))
    want = theirs(dict(patches=patches, patch_coord=coord, patch_valid=valid))
    tokens, grid = ours.embed(images)
    assert (grid.h, grid.w, grid.valid.sum().item()) == (4, 6, 12 + 12 + 1)
    found = ours.pool(ours.forward_tokens(tokens, grid), grid)
    torch.testing.assert_close(found, want, atol=1e-5, rtol=1e-5)
    alone = torch.cat([ours(image[None]) for image in images])
    torch.testing.assert_close(found, alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("method", ["lora", "vpt", "houlsby", "ssf"])
@torch.no_grad()
def test_adapters_see_no_padding(method):
    ours = xmodal.adapt(from_timm(naflex()), method).eval()
    towers.refill(ours.encoder, 0.1, only=lambda p: p.requires_grad)
    images = [torch.randn(3, 64, 48), torch.randn(3, 32, 96)]
    tower = ours.encoder
    tokens, grid = tower.embed(images)
    found = tower.pool(tower.forward_tokens(tokens, grid), grid)
    alone = torch.cat([tower(image[None]) for image in images])
    torch.testing.assert_close(found, alone, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("pool", ["avg", "map"])
@torch.no_grad()
def test_pooling_leaves_padding_out(pool):
    tower = towers.build(lambda: towers.vit(pool=pool, num_registers=2, fc_norm=True)).eval()
    images = [torch.randn(3, 16, 8), torch.randn(3, 8, 24)]
    tokens, grid = tower.embed(images)
    found = tower.pool(tower.forward_tokens(tokens, grid), grid)
    alone = torch.cat([tower(image[None]) for image in images])
    torch.testing.assert_close(found, alone, atol=1e-5, rtol=1e-5)


def test_what_needs_a_whole_grid_refuses_images_of_several_sizes():
    images = [torch.randn(3, 16, 8), torch.randn(3, 8, 24)]
    tower = towers.vit()
    grid = tower.embed(images)[1]
    with pytest.raises(ValueError, match="convpass works on whole grids"):
        need_grid(grid, "convpass")
    with pytest.raises(ValueError, match="give images of one size"):
        tower.forward_blocks(*tower.embed(images), taps=object())
    for options in (dict(rotary=dict(kind="axial")), dict(relative=True)):
        with pytest.raises(ValueError, match="belong to one grid"):
            towers.vit(dim=24, num_heads=3, **options).embed(images)


def test_options_of_a_naflex_tower():
    tower = timm_encoder("naflexvit_base_patch16_siglip", "random", 96, arch=dict(depth=1, embed_dim=48, num_heads=3))
    assert (tower.image_size, tower.pos_embed.shape[1], tower.resize.grid) == (96, 256, 16)
    assert tower(torch.randn(1, 3, 96, 96)).shape == (1, 48)
    with pytest.raises(ValueError, match="factorized"):
        timm_encoder("naflexvit_base_patch16_parfac_gap", "random")
