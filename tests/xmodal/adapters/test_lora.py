"""LoRA against W + alpha / rank * B A, written out in float64, and against peft."""

import math

import pytest
import timm
import torch

import xmodal
from tests.xmodal.adapters import plain
from tests.xmodal.adapters.towers import build, refill, vit
from xmodal.adapters.lora import LowRank, lora
from xmodal.merge import merge_adapters

PLACE = {  # target: layer, rows of its weight
    "q": ("attn.qkv", slice(0, 24)),
    "k": ("attn.qkv", slice(24, 48)),
    "v": ("attn.qkv", slice(48, 72)),
    "qkv": ("attn.qkv", slice(0, 72)),
    "proj": ("attn.proj", slice(0, 24)),
    "fc1": ("mlp.fc1", slice(0, 96)),
    "fc2": ("mlp.fc2", slice(0, 24)),
}


def placed(targets, alpha=7.5, rank=3, **options):
    """A tower in float64 with random updates, and the weights that they should lead to."""
    encoder = build(vit)
    lora(encoder, rank=rank, alpha=alpha, targets=targets, **options)
    refill(encoder.double(), only=lambda p: p.requires_grad)
    scale = 1 if alpha is None else alpha / rank
    wanted = []
    for block in encoder.blocks:
        weights = {layer: block.get_submodule(layer).weight.detach().clone() for layer, _ in PLACE.values()}
        for target in targets:
            layer, rows = PLACE[target]
            update = block.get_submodule(layer).edits["lora"].parts[target if target in ("q", "k", "v") else "whole"]
            weights[layer][rows] += scale * (update.b @ update.a).detach()
        wanted.append(weights)
    return encoder.eval(), wanted


@pytest.mark.parametrize("alpha", [7.5, None, 0.5])
@pytest.mark.parametrize("targets", [("q",), ("k",), ("v",), ("v", "k"), ("qkv",), ("q", "proj", "fc1"), ("fc2",)])
def test_every_target_gets_its_update_times_alpha_over_rank(targets, alpha):
    encoder, wanted = placed(targets, alpha)
    for block, weights in zip(encoder.blocks, wanted, strict=True):
        for name, weight in weights.items():
            layer = block.get_submodule(name)
            x = torch.randn(2, 5, layer.in_features, dtype=torch.double)
            torch.testing.assert_close(layer(x), x @ weight.T + layer.bias)


@pytest.mark.parametrize("targets", [("q",), ("k",), ("q", "v"), ("qkv",), ("k", "proj", "fc1", "fc2")])
def test_merged_weights_are_those_of_the_formula(targets):
    encoder, wanted = placed(targets)
    merged = merge_adapters(encoder)
    before = build(vit)
    for block, own, weights in zip(merged.blocks, before.blocks, wanted, strict=True):
        for name, weight in weights.items():
            layer = block.get_submodule(name)
            torch.testing.assert_close(layer.weight, weight, atol=1e-6, rtol=1e-6)
            torch.testing.assert_close(layer.bias, own.get_submodule(name).bias.double())
            assert not layer.weight.requires_grad


def test_a_whole_block_computes_with_the_updated_queries_and_values():
    encoder, _ = placed(("q", "v"))
    block = encoder.blocks[1]
    q, v = (block.attn.qkv.edits["lora"].parts[part] for part in "qv")

    def qkv(y, u):
        zero = torch.zeros_like(u)
        return y + 2.5 * torch.cat([u @ q.a.T @ q.b.T, zero, u @ v.a.T @ v.b.T], -1)

    x = torch.randn(2, 5, 24, dtype=torch.double)
    torch.testing.assert_close(block(x), plain.run(block, x, qkv))


def test_dropout_acts_on_the_input_in_training_only():
    update = refill(LowRank(24, 16, 3, scale=2.0, dropout=0.5))
    x = torch.randn(4, 24)
    torch.testing.assert_close(update.eval()(x), 2 * x @ update.a.T @ update.b.T)
    assert not torch.allclose(update.train()(x), update.eval()(x))
    update.dropout = plain.Square()
    torch.testing.assert_close(update(x), 2 * x**2 @ update.a.T @ update.b.T)
    (first, *_) = lora(build(vit), rank=2, dropout=0.25)
    assert [part.dropout.p for part in first.parts.values()] == [0.25, 0.25]


def test_it_starts_as_a_linear_layer_of_torch_does_beside_zeros():
    torch.manual_seed(0)
    update = LowRank(600, 16, 50)
    assert not update.b.any()
    bound = 1 / math.sqrt(600)
    assert 0.98 * bound < update.a.abs().max() <= bound


@pytest.mark.slow  # peft takes seconds to import
def test_peft_gives_the_same_numbers_and_the_same_merged_weights():
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, embed_dim=24, depth=2, num_heads=3, num_classes=5)
    names = ["attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"]
    adapted = xmodal.adapt(model.eval(), "lora", rank=3, alpha=7.5, targets=["qkv", "proj", "fc1", "fc2"])
    config = peft.LoraConfig(r=3, lora_alpha=7.5, target_modules=names)
    theirs = peft.get_peft_model(model, config).eval()
    for i, block in enumerate(adapted.encoder.blocks):
        for name in names:
            update = refill(block.get_submodule(name).edits["lora"].parts["whole"])
            other = theirs.base_model.model.blocks[i].get_submodule(name)
            other.lora_A["default"].weight.data.copy_(update.a)
            other.lora_B["default"].weight.data.copy_(update.b)
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(adapted.eval()(images), theirs(images), atol=1e-4, rtol=1e-4)
    merged = theirs.merge_and_unload()
    for ours, block in zip(adapted.merged().blocks, merged.blocks, strict=True):
        for name in names:
            torch.testing.assert_close(ours.get_submodule(name).weight, block.get_submodule(name).weight)
