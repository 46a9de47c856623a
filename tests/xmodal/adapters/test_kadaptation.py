"""KAdaptation against W + s * (sum of Kronecker products)^T, written out in float64, forwards and merged."""

import pytest
import torch

from tests.xmodal.adapters import plain
from tests.xmodal.adapters.towers import build, refill, vit
from xmodal.adapters.kadaptation import kadaptation, local_intrinsic_dimension
from xmodal.merge import merge_adapters

ROWS = {"q": slice(0, 24), "k": slice(24, 48), "v": slice(48, 72)}
LAYER = {"q": "attn.qkv", "k": "attn.qkv", "v": "attn.qkv", "proj": "attn.proj", "fc1": "mlp.fc1", "fc2": "mlp.fc2"}


def tower(targets, scale, rank=2, **options):
    encoder = build(vit)
    kadaptation(encoder, terms=4, rank=rank, scale=scale, targets=targets, **options)
    refill(encoder.double(), only=lambda p: p.requires_grad)
    return encoder.eval()


def wanted(encoder, targets, scale):
    """(layer, weight, bias) of every layer that is updated."""
    slow = {}
    for block in encoder.blocks:
        new = {}
        for target in targets:
            layer = block.get_submodule(LAYER[target])
            edit = layer.edits["kadaptation"]
            part = edit.parts[target if target in ROWS else "whole"]
            slow.setdefault(target, getattr(part, "slow", None))  # the first block's are everybody's
            a, b = slow[target].left @ slow[target].right, part.left @ part.right
            update = scale * sum(torch.kron(a[i], b[i]) for i in range(4)).T
            weight, bias = new.get(layer, (layer.weight.clone(), layer.bias.clone()))
            rows = ROWS.get(target, slice(None))
            weight[rows] += update
            bias[rows] += edit.bias  # not scaled
            new[layer] = weight, bias
        yield from ((layer, *values) for layer, values in new.items())


TARGETS = [("q", "v"), ("k",), ("k", "proj", "fc1"), ("fc2",)]


@pytest.mark.parametrize("scale", [1.0, 2.5])
@pytest.mark.parametrize("targets", TARGETS, ids=str)
def test_every_target_gets_its_update_times_the_scale_and_a_bias(targets, scale):
    encoder = tower(targets, scale)
    for layer, weight, bias in wanted(encoder, targets, scale):
        x = torch.randn(2, 5, layer.in_features, dtype=torch.double)
        torch.testing.assert_close(layer(x), x @ weight.T + bias)


@pytest.mark.parametrize("targets", TARGETS, ids=str)
def test_merged_weights_are_those_of_the_formula(targets):
    encoder = tower(targets, 2.5)
    names = {id(m): n for n, m in encoder.named_modules()}
    merged = merge_adapters(encoder)
    for layer, weight, bias in wanted(encoder, targets, 2.5):
        own = merged.get_submodule(names[id(layer)])
        torch.testing.assert_close(own.weight, weight, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(own.bias, bias, atol=1e-5, rtol=1e-5)


def test_dropout_acts_on_the_update_and_not_on_its_bias():
    encoder = tower(("proj",), 2.0, dropout=0.5)
    edit = encoder.blocks[1].attn.proj.edits["kadaptation"]
    assert edit.dropout.p == 0.5
    y, x = torch.randn(2, 2, 5, 24, dtype=torch.double)
    assert not torch.allclose(edit.train()(y, x), edit.eval()(y, x))
    edit.dropout = plain.Square()
    torch.testing.assert_close(edit(y, x), y + 2 * (x @ edit.parts["whole"].matrix()) ** 2 + edit.bias)


def test_factors_start_so_that_the_update_is_zero_and_gradients_flow():
    torch.manual_seed(0)
    module = kadaptation(build(lambda: vit(dim=192, num_heads=3)), terms=32, rank=1)[0]
    part, slow = module.parts["q"], module.parts["q"].slow
    assert not part.right.any()
    assert not module.bias.any()
    assert part.left.std().item() == pytest.approx((192 / 32) ** -0.5, rel=0.2)
    for factor in (slow.left, slow.right):
        assert factor.std().item() == pytest.approx(32**-0.5, rel=0.1)
    part(torch.randn(3, 192)).sum().backward()
    assert part.right.grad.abs().min() > 0


def test_local_intrinsic_dimension_by_hand():
    """Points of a line: distances of each to its two nearest are known, and -1 / mean(ln(r_j / r_k)) of them."""
    points = torch.tensor([[0.0], [1.0], [3.0], [7.0]])
    radii = torch.tensor([[1.0, 3.0], [1.0, 2.0], [2.0, 3.0], [4.0, 6.0]], dtype=torch.double)
    expected = (-2 / (radii[:, 0] / radii[:, 1]).log()).mean()
    assert local_intrinsic_dimension(points, 2) == pytest.approx(float(expected))
