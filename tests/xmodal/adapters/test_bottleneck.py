"""Houlsby, Pfeiffer and AdaptFormer inside a block, written out in float64."""

import pytest
import torch
import torch.nn.functional as F

from tests.xmodal.adapters import plain
from tests.xmodal.adapters.towers import build, refill, vit
from xmodal.adapters.bottleneck import adaptformer, houlsby, pfeiffer
from xmodal.bottleneck import Bottleneck

ACTS = {"gelu": F.gelu, "relu": F.relu, "quick_gelu": plain.quick_gelu}


def block_with(method, **options):
    encoder = build(vit)
    modules = method(encoder, **options)
    refill(encoder.double(), only=lambda p: p.requires_grad)
    return encoder.blocks[1].eval(), modules


def through(adapter, u, act):
    hidden = ACTS[act](u @ adapter.down.weight.T + adapter.down.bias)
    return hidden @ adapter.up.weight.T + adapter.up.bias


def tokens():
    return torch.randn(2, 5, 24, dtype=torch.double)


@pytest.mark.parametrize("options", [{}, dict(scale=0.35), dict(scale=4.0, act="gelu", hidden=3)], ids=str)
@pytest.mark.parametrize("reads", ["stream", "normed", "output"])
def test_adaptformer_adds_what_it_makes_of_the_normed_input_times_its_scale(reads, options):
    block, _ = block_with(adaptformer, **options, **({} if reads == "stream" else dict(reads=reads)))
    where = block.mlp if reads == "normed" else block.mlp_branch
    adapter, scale, act = where.edits["adaptformer"], options.get("scale", 0.1), options.get("act", "relu")
    assert adapter.down.weight.shape == (options.get("hidden", 64), 24)
    x, seen = tokens(), {}

    def after_attn(y, u):
        seen["stream"] = x + y
        return y

    def after_mlp(y, u):
        return y + scale * through(adapter, {"normed": u, "output": y, **seen}[reads], act)

    torch.testing.assert_close(block(x), plain.run(block, x, after_attn=after_attn, after_mlp=after_mlp))


@pytest.mark.parametrize("act", ["gelu", "quick_gelu"])
def test_houlsby_reads_what_attention_and_mlp_give(act):
    block, modules = block_with(houlsby, hidden=4, act=act)
    assert len(modules) == 6
    one, two = block.attn.edits["houlsby"], block.mlp.edits["houlsby"]
    x = tokens()
    wanted = plain.run(
        block,
        x,
        after_attn=lambda y, u: y + through(one, y, act),
        after_mlp=lambda y, u: y + through(two, y, act),
    )
    torch.testing.assert_close(block(x), wanted)


@pytest.mark.parametrize("act", ["gelu", "relu"])
def test_pfeiffer_reads_what_the_mlp_gives(act):
    block, modules = block_with(pfeiffer, hidden=4, act=act)
    assert len(modules) == 3
    adapter = block.mlp.edits["pfeiffer"]
    x = tokens()
    torch.testing.assert_close(block(x), plain.run(block, x, after_mlp=lambda y, u: y + through(adapter, y, act)))


@pytest.mark.parametrize("parallel", [False, True])
def test_dropout_acts_between_the_layers_in_training_only(parallel):
    adapter = refill(Bottleneck(24, 6, parallel=parallel, scale=3.0, dropout=0.5).double())
    y, x = tokens(), tokens()
    read = x if parallel else y
    torch.testing.assert_close(adapter.eval()(y, x), y + 3 * through(adapter, read, "gelu"))
    assert not torch.allclose(adapter.train()(y, x), adapter.eval()(y, x))
    adapter.dropout = plain.Square()
    hidden = F.gelu(read @ adapter.down.weight.T + adapter.down.bias) ** 2
    torch.testing.assert_close(adapter(y, x), y + 3 * (hidden @ adapter.up.weight.T + adapter.up.bias))


def test_dropout_and_the_defaults_of_the_papers_are_handed_on():
    for method, default in ((houlsby, 0.0), (pfeiffer, 0.0), (adaptformer, 0.1)):
        assert method(build(vit))[0].dropout.p == default
        assert method(build(vit), dropout=0.3)[0].dropout.p == 0.3
    assert pfeiffer(build(vit))[0].down.out_features == 96
    assert houlsby(build(vit))[0].down.out_features == 8


def test_it_starts_as_a_random_layer_before_zeros():
    torch.manual_seed(0)
    adapter = Bottleneck(600, 40)
    assert not any(p.any() for p in (adapter.down.bias, adapter.up.weight, adapter.up.bias))
    assert 0.98 * 600**-0.5 < adapter.down.weight.abs().max() <= 600**-0.5
