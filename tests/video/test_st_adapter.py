"""ST-Adapter against a plain Conv3d formulation, and its rules."""

import pytest
import torch
from torch import nn

from tests.xmodal.adapters.plain import attention, norm
from video.st_adapter import STAdapter, st_adapter
from xmodal.encoders.sites import placed
from xmodal.encoders.vit import VisionTransformer
from xmodal.model import TransferModel
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


@pytest.mark.parametrize("sites", [["pre_attn"], ["pre_mlp"], ["pre_attn", "pre_mlp"]])
def test_adapters_stand_at_their_sites_of_the_last_blocks(sites):
    encoder = VisionTransformer(image_size=16, patch_size=8, dim=12, depth=3, num_heads=2)
    adapters = st_adapter(encoder, 4, sites=sites, blocks=2)
    assert [name for name, _ in placed(encoder)] == [f"blocks.{i}.{site}.st_adapter" for i in (1, 2) for site in sites]
    assert len(adapters) == 2 * len(sites)


def test_a_block_edits_its_patches_before_attention_and_before_the_mlp():
    encoder = VisionTransformer(image_size=16, patch_size=8, dim=12, depth=2, num_heads=2)
    for p in encoder.parameters():
        nn.init.normal_(p, std=0.3)
    one, two = st_adapter(encoder, 4, sites=["pre_attn", "pre_mlp"], blocks=1)
    for p in (*one.parameters(), *two.parameters()):
        nn.init.normal_(p, std=0.3)
    block, grid, x = encoder.double().blocks[1], Grid(2, 2, 2), torch.randn(4, 5, 12, dtype=torch.double)
    x1 = formula(one, x, grid)
    u = norm(x1, block.norm1)
    q, k, v = (u @ block.attn.qkv.weight.T + block.attn.qkv.bias).chunk(3, -1)
    x2 = formula(two, x1 + attention(q, k, v, 2) @ block.attn.proj.weight.T + block.attn.proj.bias, grid)
    hidden = nn.functional.gelu(norm(x2, block.norm2) @ block.mlp.fc1.weight.T + block.mlp.fc1.bias)
    want = x2 + hidden @ block.mlp.fc2.weight.T + block.mlp.fc2.bias
    torch.testing.assert_close(block(x, grid), want)


def formula(adapter, x, grid):
    """fc2(conv(fc1 x)) of the patches, a kernel of three frames over each patch, no activation anywhere."""
    u = (x[:, 1:] @ adapter.fc1.weight.T + adapter.fc1.bias).view(-1, grid.t, grid.num_patches, 4)
    padded = nn.functional.pad(u, (0, 0, 0, 0, 1, 1))
    kernel = adapter.conv.weight[:, 0, :, 0, 0]  # (Ca, 3)
    v = sum(padded[:, i : i + grid.t] * kernel[:, i] for i in range(3)) + adapter.conv.bias
    change = v.flatten(0, 1) @ adapter.fc2.weight.T + adapter.fc2.bias
    return torch.cat([x[:, :1], x[:, 1:] + change], 1)


def test_it_starts_with_random_layers_around_a_zero_convolution():
    torch.manual_seed(0)
    adapter = STAdapter(100, 64)
    assert not any(p.any() for p in (adapter.conv.weight, adapter.conv.bias, adapter.fc1.bias, adapter.fc2.bias))
    for layer, width in ((adapter.fc1, 100), (adapter.fc2, 64)):
        assert 0.95 * width**-0.5 < layer.weight.abs().max() <= width**-0.5
    assert STAdapter(8).conv.weight.shape == (384, 1, 3, 1, 1)


@pytest.mark.parametrize("reader", ["time_mean", "pooled"])
def test_of_the_last_block_the_adapter_before_attention_trains_and_that_behind_it_does_not(reader):
    model = TransferModel(
        VisionTransformer(image_size=16, patch_size=8, dim=12, depth=2, num_heads=2),
        head=dict(type="classification", num_classes=3),
        adapters=[dict(type="st_adapter", bottleneck=4, sites=["pre_attn", "pre_mlp"])],
        reader=dict(type=reader),
    )
    trains = {name: all(p.requires_grad for p in module.parameters()) for name, module in placed(model.encoder)}
    assert trains == {
        "blocks.0.pre_attn.st_adapter": True,
        "blocks.0.pre_mlp.st_adapter": True,
        "blocks.1.pre_attn.st_adapter": True,
        "blocks.1.pre_mlp.st_adapter": False,
    }
    for p in model.parameters():
        nn.init.normal_(p, std=0.3)
    model(mode="loss", clips=torch.randn(2, 1, 3, 3, 16, 16), label=torch.tensor([0, 1]))["loss"].backward()
    for name, module in placed(model.encoder):
        grads = [p.grad for p in module.parameters()]
        assert all((g is not None and g.abs().max() > 0) == trains[name] for g in grads), name


def test_where_patches_are_read_the_last_adapters_train_too():
    model = TransferModel(
        VisionTransformer(image_size=16, patch_size=8, dim=12, depth=2, num_heads=2, pool="avg"),
        head=dict(type="classification", num_classes=3),
        adapters=[dict(type="st_adapter", bottleneck=4)],
    )
    assert all(p.requires_grad for _, module in placed(model.encoder) for p in module.parameters())
