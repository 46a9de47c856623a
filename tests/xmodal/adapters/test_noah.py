"""NOAH's supernet against its forward pass written out, and the weights of its subnets counted by hand."""

import pytest
import torch

from tests.xmodal.adapters import plain
from tests.xmodal.adapters.towers import build, refill, vit
from xmodal.adapters.noah import SlicedAdapter, choose_subnet, noah, searched_params, subnet_params
from xmodal.encoders.sites import placed
from xmodal.merge import merge_adapters

SUBNETS = {
    "fewer, then more prompts": dict(prompt=[3, 1, 2], lora=[2, 0, 4], adapter=[0, 2, 4]),
    "a block without prompts keeps those of the one before": dict(prompt=[2, 0, 3], lora=[1, 2, 0], adapter=[4, 0, 1]),
    "none at the start": dict(prompt=[0, 4, 1], lora=[0, 0, 3], adapter=[1, 3, 0]),
    "all of it": dict(prompt=[4, 4, 4], lora=[4, 4, 4], adapter=[4, 4, 4]),
    "nothing": dict(prompt=[0, 0, 0], lora=[0, 0, 0], adapter=[0, 0, 0]),
}


def supernet(**options):
    encoder = build(vit)
    noah(encoder, **(dict(prompt=4, lora=4, adapter=4) | options))
    return refill(encoder.double(), only=lambda p: p.requires_grad).eval()


def written_out(encoder, x, sizes):
    """Section 8 of the method's description: drop the last prompts of the block before, append one's own."""
    before = 0
    for i, block in enumerate(encoder.blocks):
        p, r, h = (sizes[kind][i] for kind in ("prompt", "lora", "adapter"))
        if p:
            kept = x[:, : x.shape[1] - before]
            x = torch.cat([kept, block.pre_attn["noah"].tokens[:, :p].expand(len(x), -1, -1)], 1)
        before = p
        low, side = block.attn.qkv.edits["noah"], block.mlp.edits["noah"]

        def qkv(y, u, low=low, r=r):
            return y + u @ low.a[:r].T @ low.b[:, :r].T

        def mlp(y, u, side=side, h=h):
            if not h:
                return y
            hidden = plain.quick_gelu(y @ side.down.weight[:h].T + side.down.bias[:h])
            return y + hidden @ side.up.weight[:, :h].T + side.up.bias

        x = plain.run(block, x, qkv, after_mlp=mlp)
    return x


@pytest.mark.parametrize("sizes", SUBNETS.values(), ids=SUBNETS)
def test_a_subnet_equals_the_forward_pass_written_out(sizes):
    encoder = supernet()
    choose_subnet(encoder, sizes)
    tokens, grid = encoder.embed(torch.randn(2, 3, 16, 16, dtype=torch.double))
    torch.testing.assert_close(encoder.forward_blocks(tokens, grid), written_out(encoder, tokens, sizes))


def test_a_subnet_built_alone_has_the_supernets_numbers():
    sizes = SUBNETS["fewer, then more prompts"]
    whole_net, alone = supernet(), supernet(**sizes)
    choose_subnet(whole_net, sizes)
    for block, own in zip(whole_net.blocks, alone.blocks, strict=True):
        for site in ("pre_attn", "attn.qkv.edits", "mlp.edits"):
            for key, value in dict(own.get_submodule(site).named_parameters()).items():
                given = dict(block.get_submodule(site).named_parameters())[key]
                value.data.copy_(given[tuple(slice(n) for n in value.shape)])
    x = torch.randn(2, 3, 16, 16, dtype=torch.double)
    torch.testing.assert_close(alone(x), whole_net(x))


def test_only_the_active_ranks_are_merged():
    encoder = supernet()
    choose_subnet(encoder, dict(prompt=[0] * 3, lora=[2, 4, 0], adapter=[0] * 3))
    for block in encoder.blocks:
        block.pre_attn.clear()
        block.mlp.edits.clear()
    wanted = []
    for block, rank in zip(encoder.blocks, (2, 4, 0), strict=True):
        low = block.attn.qkv.edits["noah"]
        wanted.append(block.attn.qkv.weight + low.b[:, :rank] @ low.a[:rank])
    for block, weight in zip(merge_adapters(encoder).blocks, wanted, strict=True):
        torch.testing.assert_close(block.attn.qkv.weight, weight, atol=1e-6, rtol=1e-6)


def test_dropout_acts_on_all_three_in_training_only():
    encoder = supernet(dropout=0.4)
    parts = [m for _, m in placed(encoder)]
    assert {part.dropout.p for part in parts} == {0.4}
    assert {m.dropout.p for m in noah(build(vit))} == {0.1}
    x, y = torch.randn(2, 5, 24, dtype=torch.double), torch.randn(2, 5, 72, dtype=torch.double)
    prompts, low, side = parts[:3]
    for part in parts[:3]:
        given = (x,) if part is prompts else (x if part is side else y, x)
        assert torch.equal(part.eval()(*given), part(*given))
        assert not torch.allclose(part.train()(*given), part.eval()(*given))
        part.dropout = plain.Square()
    torch.testing.assert_close(prompts(x)[:, 5:], (prompts.tokens**2).expand(2, -1, -1))
    torch.testing.assert_close(low(y, x), y + x**2 @ low.a.T @ low.b.T)
    hidden = plain.quick_gelu(x @ side.down.weight.T + side.down.bias) ** 2
    torch.testing.assert_close(side(x, y[..., :24]), x + hidden @ side.up.weight.T + side.up.bias)


def test_the_adapters_biases_start_small_but_not_at_zero():
    torch.manual_seed(0)
    adapter = SlicedAdapter(600, 500)
    for bias in (adapter.down.bias, adapter.up.bias):
        assert 0.8e-6 < bias.std() < 1.2e-6
    assert adapter.down.weight.abs().max() <= (6 / 1100) ** 0.5


def test_weights_are_counted_as_the_search_does():
    sizes = dict(prompt=[5, 0, 1], lora=[10, 1, 0], adapter=[1, 0, 5])
    # 6 prompts of 8; ranks 8 and 3 * 8 wide; adapters of 1 and 5 channels with both biases, none for the absent one
    assert subnet_params(sizes, 8) == 6 * 8 + 11 * (8 + 24) + (8 + 1 + 8 + 8) + (40 + 5 + 40 + 8)
    assert searched_params(sizes, 8, 10, positions=False) == subnet_params(sizes, 8) + 5 * 8
    assert searched_params(sizes, 8, 10) == subnet_params(sizes, 8) + 5 * 8 + 10 * 8
    assert searched_params({**sizes, "prompt": [0, 5, 1]}, 8, 10) == subnet_params(sizes, 8)
    encoder = supernet(**sizes)
    assert sum(p.numel() for p in encoder.parameters() if p.requires_grad) == subnet_params(sizes, 24)
