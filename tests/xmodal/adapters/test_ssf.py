"""SSF: scale and shift behind an operation, merged by the published formula, and its start."""

import pytest
import torch
from torch import nn

from tests.xmodal.adapters.towers import build, convnext, refill, vit
from xmodal.adapters.ssf import FeatureScaleShift, ssf
from xmodal.encoders.sites import Linear, placed
from xmodal.merge import fold_into, merge_adapters


@pytest.mark.parametrize("bias", [True, False])
def test_merged_linear_layer_is_scaled_by_row_and_its_bias_scaled_and_shifted(bias):
    layer = refill(Linear(4, 6, bias=bias))
    edit = layer.edits["ssf"] = refill(FeatureScaleShift(6))
    weight, old, x = layer.weight.double(), layer.bias.double() if bias else torch.zeros(6), torch.randn(3, 4)
    expected = edit.scale * (x.double() @ weight.T + old) + edit.shift
    torch.testing.assert_close(layer(x), expected.float())
    fold_into(layer, layer.edits)
    torch.testing.assert_close(layer.weight, (edit.scale[:, None] * weight).float())
    torch.testing.assert_close(layer.bias, (edit.scale * old + edit.shift).float())


def test_merged_norm_has_both_scaled_and_its_bias_shifted():
    encoder = build(vit)
    ssf(encoder)
    refill(encoder, only=lambda p: p.requires_grad)
    norm, edit = encoder.norm, encoder.norm.edits["ssf"]
    merged = merge_adapters(encoder).norm
    torch.testing.assert_close(merged.weight, edit.scale * norm.weight)
    torch.testing.assert_close(merged.bias, edit.scale * norm.bias + edit.shift)


def test_channels_of_maps_are_their_second_axis():
    edit = refill(FeatureScaleShift(3, maps=True))
    x = torch.randn(2, 3, 3, 3)  # every axis has the same length
    torch.testing.assert_close(edit(x, x), torch.stack([x[:, c] * edit.scale[c] + edit.shift[c] for c in range(3)], 1))
    edit.maps = False
    torch.testing.assert_close(
        edit(x, x), torch.stack([x[..., c] * edit.scale[c] + edit.shift[c] for c in range(3)], -1)
    )
    encoder = build(convnext)
    ssf(encoder)
    edits = {name: module for name, module in placed(encoder) if isinstance(module, FeatureScaleShift)}
    assert {name.split(".edits")[0] for name, edit in edits.items() if not edit.maps} >= {
        "body.stages.0.blocks.0.mlp.fc1",
        "body.stages.0.blocks.0.norm",
    }
    assert edits["body.stem.0.edits.ssf"].maps


def test_scales_start_around_one_and_shifts_around_zero_with_deviation_one_fiftieth():
    torch.manual_seed(0)
    edit = FeatureScaleShift(4000)
    for values, mean in ((edit.scale, 1), (edit.shift, 0)):
        assert values.mean().item() == pytest.approx(mean, abs=2e-3)
        assert values.std().item() == pytest.approx(0.02, rel=0.05)


def test_some_blocks_get_scales_at_their_operations_alone():
    encoder = build(vit)
    placed = ssf(encoder, blocks=1)
    assert len(placed) == 6
    assert sum(p.numel() for p in encoder.blocks[2].parameters() if p.requires_grad) == 2 * 11 * 24
    assert not any(p.requires_grad for p in nn.ModuleList([*encoder.blocks[:2], encoder.norm]).parameters())
