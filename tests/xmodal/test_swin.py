"""The Swin encoder against timm's with the same weights: eps, mean and projection, stages, options."""

from functools import partial

import pytest
import torch
from timm.models.swin_transformer import SwinTransformer
from torch import nn

from tests.xmodal.adapters import plain
from tests.xmodal.test_text import stirred
from xmodal.encoders.parts import DropPath
from xmodal.encoders.swin import ConvEmbed, SwinEncoder

SIZES = dict(image_size=32, patch_size=4, dim=16, depths=(2, 2), num_heads=(2, 4), window_size=4)


def pair(eps, out_dim):
    torch.manual_seed(0)
    ours = stirred(SwinEncoder(**SIZES, norm_eps=eps, out_dim=out_dim), 0.1)
    theirs = SwinTransformer(
        img_size=32, patch_size=4, embed_dim=16, depths=(2, 2), num_heads=(2, 4), window_size=4, num_classes=0,
        norm_layer=partial(nn.LayerNorm, eps=eps),
    )  # fmt: skip
    state = {k.replace("stages.", "layers."): v for k, v in ours.state_dict().items() if not k.startswith("proj.")}
    missing, unexpected = theirs.load_state_dict(state, strict=False)
    assert not unexpected
    assert all("index" in k or "mask" in k for k in missing)
    return ours.double().eval(), theirs.double().eval()


@pytest.mark.parametrize("out_dim", [12, None])
@pytest.mark.parametrize("eps", [1e-5, 0.1])
def test_it_is_timms_tower_with_the_projected_mean_of_its_normed_tokens(eps, out_dim):
    ours, theirs = pair(eps, out_dim)
    images = torch.randn(2, 3, 32, 32, dtype=torch.double)
    with torch.no_grad():
        want = theirs.forward_features(images).flatten(1, 2).mean(1)  # (2, 32)
        want = want @ ours.proj.weight.T if out_dim else want
        torch.testing.assert_close(ours(images), want)
    assert ours.out_dim == (out_dim or 32)


def test_some_blocks_then_the_others_and_recomputation_give_the_same():
    tower, _ = pair(1e-5, 12)
    tokens, grid = tower.embed(torch.randn(2, 3, 32, 32, dtype=torch.double))
    whole = tower.forward_blocks(tokens, grid)
    for cut in (1, 2, 3):
        part = tower.forward_blocks(tokens, grid, stop=cut)
        torch.testing.assert_close(tower.forward_blocks(part, grid, start=cut), whole)
    for tower.recompute in (True, 2):
        torch.testing.assert_close(tower.forward_blocks(tokens, grid), whole)
    with pytest.raises(ValueError, match="no taps"):
        tower.forward_blocks(tokens, grid, taps=object())
    with pytest.raises(ValueError, match="32 x 32"):
        tower.embed(torch.zeros(1, 3, 64, 64))


def test_the_final_norm_uses_its_own_eps():
    norm = SwinEncoder(**SIZES, norm_eps=0.2).double().norm
    assert norm.eps == 0.2
    x = torch.randn(2, 3, 32, dtype=torch.double) * 0.1
    torch.testing.assert_close(norm(x, None), plain.norm(x, norm))


def test_convolutional_embeddings_overlap_and_norm_behind():
    torch.manual_seed(0)
    embed = ConvEmbed(3, 8, 7, 4, 1e-5, images=True).double()
    images = torch.randn(2, 3, 32, 32, dtype=torch.double)
    maps = nn.functional.conv2d(images, embed.proj.weight, embed.proj.bias, 4, 3).permute(0, 2, 3, 1)
    torch.testing.assert_close(embed(images), plain.norm(maps, embed.norm))
    inner = ConvEmbed(8, 16, 3, 2, 1e-5).double()
    torch.testing.assert_close(inner(maps), inner.norm(inner.proj(maps.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)))
    tower = SwinEncoder(**SIZES, stem="conv", merge="conv")
    assert tower.patch_embed.proj.kernel_size == (7, 7)
    assert tower.stages[1].downsample.proj.kernel_size == (3, 3)
    assert tower(torch.randn(1, 3, 32, 32)).shape == (1, 512)


def test_statistics_depth_rates_and_a_tower_without_the_first_norm():
    tower = SwinEncoder(**SIZES, drop_path=0.3, patch_norm=False)
    assert tower.family == "swin"
    assert not any(isinstance(module, DropPath) for module in SwinEncoder(**SIZES).modules())
    assert (tower.pixel_mean, tower.pixel_std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    rates = [getattr(block.drop_path1, "drop_prob", 0.0) for block in tower.blocks]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3])
    assert isinstance(tower.patch_embed.norm, nn.Identity)
    assert isinstance(SwinEncoder(**SIZES).patch_embed.norm, nn.LayerNorm)
    assert tower.proj.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert DropPath is type(tower.blocks[3].drop_path1)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (dict(stem="convolution"), "choose patch or conv"),
        (dict(merge="pool"), "choose patch or conv"),
        (dict(num_heads=(2, 4, 8)), "one of each"),
        (dict(image_size=36), "take image_size 32"),
        (dict(image_size=34), "no whole grid"),
        (dict(image_size=12, window_size=3), r"stage 0 .* \(3 tokens an edge\); take image_size 24"),
    ],
)
def test_mistakes_are_named(options, said):
    with pytest.raises(ValueError, match=said):
        SwinEncoder(**{**SIZES, **options})
