"""Cheaper frozen parts: the fused MLP, a trunk in bfloat16, and towers that compile into one graph."""

import sys

import pytest
import torch
from torch import nn

from tests.xmodal.test_model import refill, tower
from video.aim import aim
from video.evl import EVLDecoder
from video.readers import TimeMeanReader
from video.st_adapter import st_adapter
from xmodal.encoders.attend import WidenedAttention, attend
from xmodal.encoders.block import Block
from xmodal.encoders.frozen import fingerprint, freeze
from xmodal.encoders.sites import Linear, place
from xmodal.heads.classification import ClassificationHead
from xmodal.model import TransferModel

HEAD = dict(type=ClassificationHead, num_classes=4)
TIME = dict(type=TimeMeanReader)
METHODS = {
    "st_adapter": dict(adapters=[dict(type=st_adapter, bottleneck=8, sites=["pre_attn", "pre_mlp"])], reader=TIME),
    "evl": dict(reader=dict(type=EVLDecoder, num_frames=3, num_layers=2)),
    "vqt": dict(reader=dict(type="vqt")),
    "aim": dict(adapters=[dict(type=aim, num_frames=3)], reader=TIME),
    **{name: dict(adapters=[dict(type=name)], reader=TIME) for name in ("lora", "vpt", "bitfit", "ssf", "noah")},
}


class Shift(nn.Module):
    """Adds one to the output of an operation."""

    def forward(self, y, x, grid=None):
        return y + 1


def block_and_tokens():
    torch.manual_seed(0)
    block = freeze(Block(16, 2, act="quick_gelu").double())
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.5)
    return block, torch.randn(2, 3, 16, dtype=torch.double, requires_grad=True)


def test_fused_mlp_gives_the_same_numbers():
    block, x = block_and_tokens()
    assert block.mlp.plain(x)
    got = block(x)
    got_grad = torch.autograd.grad(got.square().sum(), x)[0]
    assert torch.autograd.gradcheck(block.mlp, (x[:1, :2],))
    with torch.no_grad():
        torch.testing.assert_close(block(x), got)
    for weight in block.mlp.parameters():
        weight.requires_grad_(True)
    assert not block.mlp.plain(x)
    want = block(x)
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(got_grad, torch.autograd.grad(want.square().sum(), x)[0])


def test_fused_mlp_keeps_the_hidden_layer_once():
    block, x = block_and_tokens()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        block.mlp(x)
    assert [t.shape[-1] for t in kept if t.shape[0] == 6] == [64]


@pytest.mark.parametrize("site", ["mlp.fc1", "mlp.act", "mlp.fc2", "mlp"])
def test_fused_mlp_leaves_edits_their_place(site):
    block, x = block_and_tokens()
    before = block(x)
    place(block, site, "shift", Shift())
    assert block.mlp.plain(x) == (site == "mlp")
    assert (block(x) - before).abs().max() > 1e-3


@pytest.mark.parametrize("method", list(METHODS))
def test_bf16_trunk_trains_in_float32(method):
    """The result is near the float32 one, and what trains, its gradient and the feature are float32."""
    clips = torch.randn(2, 1, 3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    features, grads, state = [], [], None
    for dtype in (None, "bf16"):
        torch.manual_seed(0)
        model = TransferModel(encoder=tower(act="quick_gelu"), head=HEAD, trunk_dtype=dtype, **METHODS[method]).eval()
        state = state or refill(model).state_dict()
        model.load_state_dict(state)
        out = model.features(clips=clips)
        (out * torch.linspace(-1, 1, out.shape[-1])).sum().backward()
        features.append(out.detach())
        grads.append([p.grad for p in model.parameters() if p.grad is not None])
    held = [m.weight.dtype for m in model.encoder.blocks.modules() if isinstance(m, Linear)]
    assert set(held) == {torch.bfloat16}
    assert {g.dtype for g in grads[1]} == {features[1].dtype} == {torch.float32}
    scale = features[0].abs().max()
    torch.testing.assert_close(features[1] / scale, features[0] / scale, atol=1e-2, rtol=0)
    assert not torch.equal(features[1], features[0])
    for a, b in zip(*grads, strict=True):
        assert (a - b).norm() <= 0.05 * a.norm() + 1e-4 * max(g.norm() for g in grads[0])


def test_bf16_trunk_refuses_what_it_cannot_do():
    with pytest.raises(ValueError, match="choose bf16"):
        TransferModel(encoder=tower(), head=HEAD, trunk_dtype="half")
    with pytest.raises(ValueError, match="no frozen linear layer"):
        TransferModel(encoder=tower(), head=HEAD, trunk_dtype="bf16", freeze_encoder=False)


@pytest.mark.parametrize("method", ["evl", "st_adapter", "lora"])
def test_int8_trunk_extracts_and_predicts(method):
    pytest.importorskip("torchao")
    clips = torch.randn(2, 1, 3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    plain = refill(TransferModel(encoder=tower(act="quick_gelu"), head=HEAD, **METHODS[method])).eval()
    torch.manual_seed(0)
    small = TransferModel(encoder=tower(act="quick_gelu"), head=HEAD, trunk_dtype="int8", **METHODS[method]).eval()
    small.load_state_dict({k: v for k, v in plain.state_dict().items() if k in plain.saved_keys()}, strict=False)
    with torch.no_grad():
        want, got = plain.features(clips=clips), small.features(clips=clips)
    assert got.dtype == torch.float32
    assert 0 < (got - want).norm() < 0.1 * want.norm()
    assert fingerprint(small.encoder) != fingerprint(plain.encoder)
    if method != "evl":
        with pytest.raises(ValueError, match="no gradient passes"):
            small.train()
        return
    small.train()(mode="loss", clips=clips, label=torch.tensor([0, 1]))["loss"].backward()


def test_int8_without_torchao_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    with pytest.raises(ValueError, match="pip install torchao"):
        TransferModel(encoder=tower(), head=HEAD, trunk_dtype="int8")


@pytest.mark.slow
@pytest.mark.parametrize("method", ["st_adapter", "evl"])
def test_a_training_pass_is_one_graph(method):
    torch._dynamo.reset()
    torch.manual_seed(0)
    model = refill(TransferModel(encoder=tower(act="quick_gelu"), head=HEAD, **METHODS[method])).eval()
    clips = torch.randn(2, 1, 3, 3, 16, 16)
    compiled = torch.compile(lambda c: model.features(clips=c), backend="aot_eager", fullgraph=True)
    got, want = compiled(clips), model.features(clips=clips)
    torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)
    got.square().sum().backward()


@pytest.mark.slow
def test_conv_adapter_is_one_graph():
    from tests.xmodal.adapters.towers import resnet
    from xmodal.adapters.conv_adapter import conv_adapter

    torch._dynamo.reset()
    torch.manual_seed(0)
    model = TransferModel(encoder=resnet(), head=HEAD, adapters=[dict(type=conv_adapter, reduction=4)]).eval()
    images = torch.randn(2, 3, 32, 32)
    compiled = torch.compile(lambda x: model.features(image=x), backend="aot_eager", fullgraph=True)
    got, want = compiled(images), model.features(image=images)
    torch.testing.assert_close(got, want, atol=1e-3, rtol=1e-3)
    got.square().sum().backward()


@pytest.mark.parametrize("causal", [False, True])
def test_attention_widened_on_a_cpu(causal):
    q, k, v = (torch.randn(2, 3, 5, 8).bfloat16().requires_grad_() for _ in range(3))
    out = WidenedAttention.apply(q, k, v, causal)
    grad = torch.randn_like(out)
    wide = [x.detach().float().requires_grad_() for x in (q, k, v)]
    want = torch.nn.functional.scaled_dot_product_attention(*wide, is_causal=causal)
    got = torch.autograd.grad(out, (q, k, v), grad)
    assert out.dtype == got[0].dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), want, atol=1e-2, rtol=1e-2)
    for a, b in zip(got, torch.autograd.grad(want, wide, grad.float()), strict=True):
        torch.testing.assert_close(a.float(), b, atol=2e-2, rtol=2e-2)


def test_attention_does_without_the_private_kernel(monkeypatch):
    q, k, v = (torch.randn(2, 3, 5, 8).bfloat16() for _ in range(3))
    monkeypatch.setattr("xmodal.encoders.attend.HALF_IS_SLOWER", True)
    want = attend(q, k, v, is_causal=True)
    monkeypatch.setattr("xmodal.encoders.attend.FUSED", "_no_such_kernel")
    torch.testing.assert_close(attend(q, k, v, is_causal=True), want, atol=2e-2, rtol=2e-2)


@pytest.mark.slow
def test_widened_attention_is_one_graph(monkeypatch):
    torch._dynamo.reset()
    monkeypatch.setattr("xmodal.encoders.attend.HALF_IS_SLOWER", True)
    q, k, v = (torch.randn(2, 3, 5, 8).bfloat16() for _ in range(3))
    compiled = torch.compile(attend, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(q, k, v), attend(q, k, v))
