"""ST-Adapter against a plain Conv3d formulation, and its rules."""

import pytest
import torch
from torch import nn

from video.st_adapter import STAdapter, st_adapter
from xmodal.encoders.vit import VisionTransformer
from xmodal.structures import Grid


def plain(adapter, x, grid):
    """The released formulation: Conv3d on (B, Ca, T, H, W), class token untouched."""
    u = adapter.fc1(x[:, grid.prefix :]).view(-1, grid.t, grid.h, grid.w, adapter.fc1.out_features)
    v = adapter.conv(u.permute(0, 4, 1, 2, 3)).permute(0, 2, 3, 4, 1).reshape(len(x), grid.num_patches, -1)
    return torch.cat([x[:, : grid.prefix], x[:, grid.prefix :] + adapter.fc2(v)], 1)


@pytest.mark.parametrize("kernel_size", [(3, 1, 1), (5, 1, 1), (3, 3, 3), (1, 3, 3), (1, 1, 1)])
@pytest.mark.parametrize("grid", [Grid(4, 3, 3), Grid(2, 2, 4, prefix=5), Grid(1, 3, 3), Grid(3, 2, 2, prefix=0)])
def test_equals_conv3d(kernel_size, grid):
    adapter = STAdapter(12, 8, kernel_size)
    for p in adapter.parameters():
        nn.init.normal_(p)
    x = torch.randn(2 * grid.t, grid.prefix + grid.num_patches, 12)
    torch.testing.assert_close(adapter(x, grid), plain(adapter, x, grid), atol=1e-4, rtol=1e-4)


def test_identity_at_start_and_prompts_pass():
    adapter, grid = STAdapter(12, 8), Grid(2, 2, 2)
    x = torch.randn(4, 5 + 3, 12)
    assert torch.equal(adapter(x, grid), x)
    nn.init.normal_(adapter.conv.weight)
    y = adapter(x, grid)
    assert torch.equal(y[:, 0], x[:, 0])
    assert torch.equal(y[:, 5:], x[:, 5:])
    assert not torch.equal(y[:, 1:5], x[:, 1:5])


def test_prefix_only_passes():
    adapter, x = STAdapter(12, 8), torch.randn(4, 1, 12)
    assert adapter(x, Grid(2, 2, 2).prefix_only()) is x


def test_parameter_formula():
    encoder = VisionTransformer(image_size=32, patch_size=16, depth=1)
    (adapter,) = st_adapter(encoder, 384)
    assert sum(p.numel() for p in adapter.parameters()) == 592_512


def test_bad_input():
    encoder = VisionTransformer(image_size=16, patch_size=8, dim=8, depth=2, num_heads=2)
    with pytest.raises(ValueError, match="odd"):
        st_adapter(encoder, 4, kernel_size=(2, 1, 1))
    with pytest.raises(ValueError, match="pre_attn"):
        st_adapter(encoder, 4, sites=["mlp"])
    with pytest.raises(ValueError, match="2 blocks"):
        st_adapter(encoder, 4, blocks=3)
    with pytest.raises(ValueError, match="st_adapter"):
        st_adapter(encoder, 4)[0](torch.randn(2, 5, 8), None)
