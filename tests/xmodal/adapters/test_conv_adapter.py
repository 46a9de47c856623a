"""Conv-Adapter: its formula, what it reads between stages and at an attention pooling, and which norms train."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.xmodal.adapters.towers import bit, build, clip_resnet, convnext, efficientnet, refill, resnet, swin
from xmodal.adapters.conv_adapter import ConvAdapter, ExtraNorm, LinearAdapter, conv_adapter
from xmodal.encoders.sites import placed


def names(encoder):
    """What of the tower itself trains."""
    own = {id(p) for _, m in placed(encoder) for p in m.parameters()}
    return {n for n, p in encoder.named_parameters() if p.requires_grad and id(p) not in own}


def test_an_adapter_is_alpha_times_a_pointwise_of_a_grouped_convolution():
    adapter = refill(ConvAdapter(8, 6, reduction=2, kernel=5, stride=2, padding=2, act="gelu"))
    x = torch.randn(2, 8, 7, 7)
    groups = [
        F.conv2d(x[:, 2 * g : 2 * g + 2], adapter.conv.weight[g : g + 1], adapter.conv.bias[g : g + 1], 2, 2)
        for g in range(4)
    ]
    hidden = F.gelu(torch.cat(groups, 1))
    up = torch.einsum("bchw,dc->bdhw", hidden, adapter.up.weight[:, :, 0, 0]) + adapter.up.bias[:, None, None]
    torch.testing.assert_close(adapter.adapt(x), adapter.alpha * up, atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="8 channels"):
        ConvAdapter(8, 8, reduction=2.5)


def test_the_linear_one_adds_alpha_times_two_layers():
    adapter = refill(LinearAdapter(8, 6, reduction=2))
    y, x = torch.randn(3, 6), torch.randn(3, 8)
    hidden = (x @ adapter.fc1.weight.T + adapter.fc1.bias).relu()
    torch.testing.assert_close(adapter(y, x), y + adapter.alpha * (hidden @ adapter.fc2.weight.T + adapter.fc2.bias))
    assert torch.equal(LinearAdapter(8, 6).alpha, torch.ones(1, 6))


def test_it_starts_as_released_for_every_family():
    torch.manual_seed(0)
    for init, std in (("kaiming", (2 / (32 * 9)) ** 0.5), ("trunc_normal", 0.02)):
        adapter = ConvAdapter(64, 64, reduction=2, init=init)
        assert adapter.conv.weight.std().item() == pytest.approx(std, rel=0.15)
        assert not any(layer.bias.any() for layer in (adapter.conv, adapter.up))
        assert torch.equal(adapter.alpha, torch.ones(1, 64, 1, 1))
    wanted = {resnet: "kaiming", convnext: "trunc_normal", swin: "trunc_normal", bit: "default"}
    for make, init in wanted.items():
        weight = conv_adapter(build(make), 2, norms="none")[-4 if make is convnext else -1].conv.weight
        stds = {"kaiming": (2 / weight[:, 0].numel()) ** 0.5, "trunc_normal": 0.02}
        stds["default"] = (1 / 3 / weight[0].numel()) ** 0.5
        assert weight.std().item() == pytest.approx(stds[init], rel=0.25), make.__name__


@pytest.mark.parametrize("scheme", ["conv_parallel", "conv_sequential"])
def test_between_the_stages_of_convnext(scheme):
    encoder = build(convnext)
    conv_adapter(encoder, 2, scheme, norms="none")
    refill(encoder, only=lambda p: p.requires_grad)
    down = encoder.body.stages[1].downsample[1]
    adapter, x = down.edits["conv_adapter"], torch.randn(2, 8, 4, 4)
    plain = F.conv2d(x, down.weight, down.bias, stride=2)
    read, stride, padding = (x, 2, 0) if scheme == "conv_parallel" else (plain, 1, 1)
    hidden = F.gelu(F.conv2d(read, adapter.conv.weight, adapter.conv.bias, stride, padding, groups=adapter.conv.groups))
    torch.testing.assert_close(
        down(x), plain + adapter.alpha * F.conv2d(hidden, adapter.up.weight, adapter.up.bias), atol=1e-5, rtol=1e-5
    )


def test_beside_clips_attention_pooling():
    encoder = build(clip_resnet)
    pool, x = encoder.body.attnpool, torch.randn(2, 256, 1, 1)
    before = pool(x)
    conv_adapter(encoder, 4, norms="none")
    adapter = refill(pool.edits["conv_adapter"])
    token = x.flatten(2).mean(-1) + pool.positional_embedding[0]
    hidden = (token @ adapter.fc1.weight.T + adapter.fc1.bias).relu()
    torch.testing.assert_close(
        pool(x), before + adapter.alpha * (hidden @ adapter.fc2.weight.T + adapter.fc2.bias), atol=1e-5, rtol=1e-5
    )


def test_some_blocks_get_no_adapters_between_stages():
    for make, further in ((convnext, 3), (clip_resnet, 1)):
        assert len(conv_adapter(build(make), 4, norms="none")) == 4 + further
        assert len(conv_adapter(build(make), 4, norms="none", blocks=2)) == 2
        assert len(conv_adapter(build(make), 4, "residual_parallel", norms="none")) == 4


def test_a_kernel_of_ones_own_choice():
    for kernel in (None, 5):
        adapters = conv_adapter(build(resnet), 4, norms="none", kernel_size=kernel)
        assert {a.conv.kernel_size for a in adapters} == {(kernel or 3,) * 2}
        assert {a.conv.padding for a in adapters} == {((kernel or 3) // 2,) * 2}
    assert {a.conv.kernel_size for a in conv_adapter(build(swin), 4, norms="none")} == {(7, 7)}
    with pytest.raises(ValueError, match="odd"):
        conv_adapter(build(resnet), 4, kernel_size=4)


NORMS = {
    resnet: set(),
    efficientnet: set(),
    clip_resnet: set(),
    bit: {"body.norm"},
    convnext: {f"body.stages.{i}.blocks.0.norm" for i in range(4)} | {"body.head.norm"},
    swin: {
        *(f"body.layers.{i}.blocks.{j}.norm{n}" for i, j in ((0, 0), (0, 1), (1, 0)) for n in (1, 2)),
        "body.patch_embed.norm",
        "body.layers.1.downsample.norm",
        "body.norm",
    },
}


@pytest.mark.parametrize("make", NORMS, ids=lambda make: make.__name__)
def test_the_norms_of_the_paper_train(make):
    encoder = build(make)
    conv_adapter(encoder, 4)
    assert names(encoder) == {f"{name}.{part}" for name in NORMS[make] for part in ("weight", "bias")}
    extra = [m for _, m in placed(encoder) if isinstance(m, ExtraNorm)]
    assert len(extra) == (make in (resnet, efficientnet))
    assert all(m.num_features == encoder.dim for m in extra)


@pytest.mark.parametrize("make", NORMS, ids=lambda make: make.__name__)
def test_none_or_all_norms_and_all_biases_train(make):
    kinds = (nn.LayerNorm, nn.GroupNorm, nn.BatchNorm2d)
    encoder = build(make)
    conv_adapter(encoder, 4, norms="none")
    assert names(encoder) == set()
    assert not any(isinstance(m, ExtraNorm) for _, m in placed(encoder))
    encoder = build(make)
    every = {
        f"body.{n}.{p}" for n, m in encoder.body.named_modules() if isinstance(m, kinds) for p in ("weight", "bias")
    }
    conv_adapter(encoder, 4, norms="all")
    assert names(encoder) == every
    encoder = build(make)
    every = {n for n, _ in encoder.named_parameters() if n.endswith("bias")}
    conv_adapter(encoder, 4, norms="none", biases=True)
    assert names(encoder) == every
