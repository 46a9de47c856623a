"""Merging: every fold in its order, what stays, what is refused, and how the error is measured."""

import pytest
import torch
from torch import nn

from tests.xmodal.adapters.towers import build, refill, vit
from xmodal.adapters.bottleneck import houlsby
from xmodal.adapters.lora import lora
from xmodal.adapters.ssf import ssf
from xmodal.adapters.vpt import vpt
from xmodal.encoders.sites import placed
from xmodal.merge import largest_error, merge_adapters


def both():
    """LoRA and, behind it, SSF in one tower."""
    encoder = build(vit)
    lora(encoder, rank=2, alpha=6, targets="proj")
    ssf(encoder)
    return refill(encoder, only=lambda p: p.requires_grad).eval()


def test_several_edits_of_a_layer_are_folded_in_their_order():
    encoder = both()
    for block, own in zip(merge_adapters(encoder).blocks, encoder.blocks, strict=True):
        low, ssf_edit = own.attn.proj.edits["lora"].parts["whole"], own.attn.proj.edits["ssf"]
        weight = ssf_edit.scale[:, None] * (own.attn.proj.weight + 3 * low.b @ low.a)
        torch.testing.assert_close(block.attn.proj.weight, weight)
        torch.testing.assert_close(block.attn.proj.bias, ssf_edit.scale * own.attn.proj.bias + ssf_edit.shift)


def test_the_tower_given_stays_as_it_is():
    encoder = both()
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    names = [name for name, _ in placed(encoder)]
    merged = merge_adapters(encoder)
    assert [name for name, _ in placed(encoder)] == names
    assert all(torch.equal(v, before[k]) for k, v in encoder.state_dict().items())
    assert not list(placed(merged))
    assert not any(p.requires_grad for p in merged.parameters())


def test_a_layer_without_bias_gets_the_one_that_is_needed():
    encoder = build(lambda: vit(qkv_bias=False, patch_bias=False))
    assert encoder.blocks[0].attn.qkv.bias is None
    ssf(encoder)
    refill(encoder, only=lambda p: p.requires_grad)
    merged = merge_adapters(encoder)
    torch.testing.assert_close(merged.blocks[0].attn.qkv.bias, encoder.blocks[0].attn.qkv.edits["ssf"].shift)
    images = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(merged(images), encoder(images), atol=1e-4, rtol=1e-4)


def test_half_precision_weights_are_folded_in_float32_and_stay_half():
    encoder = build(vit)
    lora(encoder, rank=2, targets="proj")
    refill(encoder, only=lambda p: p.requires_grad)
    layer = encoder.blocks[0].attn.proj
    layer.weight.data = layer.weight.data.bfloat16()
    low = layer.edits["lora"].parts["whole"]
    merged = merge_adapters(encoder).blocks[0].attn.proj.weight
    assert merged.dtype == torch.bfloat16
    assert torch.equal(merged, (layer.weight.float() + low.b @ low.a).bfloat16())


def test_what_cannot_be_folded_is_refused_by_its_name_or_left_where_it_is():
    encoder = build(vit)
    lora(encoder, rank=2, targets=["q", "proj"])
    vpt(encoder, 2, deep=False)
    houlsby(encoder, 2, blocks=1)
    refill(encoder, only=lambda p: p.requires_grad)
    with pytest.raises(ValueError, match=r"pre_blocks\.vpt acts on the residual stream"):
        merge_adapters(encoder)
    encoder.eval()
    merged = merge_adapters(encoder, partial=True)
    assert {name for name, _ in placed(merged)} == {
        "pre_blocks.vpt",
        "blocks.2.attn.edits.houlsby",
        "blocks.2.mlp.edits.houlsby",
    }
    images = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(merged(images), encoder(images), atol=1e-4, rtol=1e-4)


class Double(nn.Module):
    """An edit without a fold."""

    def forward(self, y, x, grid=None):
        return 2 * y


def test_a_site_with_one_edit_that_cannot_be_folded_is_left_whole():
    encoder = build(vit)
    lora(encoder, rank=2, targets="proj")
    refill(encoder, only=lambda p: p.requires_grad)
    encoder.blocks[0].attn.proj.edits["twice"] = Double()
    with pytest.raises(ValueError, match=r"blocks\.0\.attn\.proj"):
        merge_adapters(encoder)
    merged = merge_adapters(encoder, partial=True)
    assert list(merged.blocks[0].attn.proj.edits) == ["lora", "twice"]
    assert [len(block.attn.proj.edits) for block in merged.blocks] == [2, 0, 0]


class Line(nn.Module):
    """Doubles its input in evaluation mode, and answers nonsense in training mode."""

    def __init__(self, offset):
        super().__init__()
        self.offset = torch.tensor(offset)

    def forward(self, x):
        return x * 99 if self.training else 2 * x + self.offset


def test_the_error_is_the_largest_difference_in_evaluation_mode():
    one, two = Line([[0.0, 0.0, 0.0]]).train(), Line([[0.5, -3.0, 1.0]]).eval()
    assert largest_error(one, two, torch.ones(4, 3)) == 3
    assert one.training
    assert not two.training
    assert largest_error(two, one.eval(), torch.ones(4, 3)) == 3
