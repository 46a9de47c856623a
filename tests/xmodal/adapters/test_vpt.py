"""VPT against its forward pass written out: where prompts stand, which ones, how they start."""

import pytest
import torch

from tests.xmodal.adapters import plain
from tests.xmodal.adapters.towers import build, refill, vit
from xmodal.adapters.vpt import vpt


def tower(**options):
    encoder = build(vit)
    prompts = vpt(encoder, **options)[0]
    refill(encoder.double(), only=lambda p: p.requires_grad)
    return encoder.eval(), prompts


@pytest.mark.parametrize("projection", [None, 7])
@pytest.mark.parametrize("deep", [True, False])
def test_every_block_sees_its_prompts_behind_the_patches(deep, projection):
    encoder, prompts = tower(num_tokens=3, deep=deep, projection=projection)
    tokens, grid = encoder.embed(torch.randn(2, 3, 16, 16, dtype=torch.double))

    def project(rows):
        rows = rows if projection is None else rows @ prompts.projection.weight.T + prompts.projection.bias
        return rows.expand(2, -1, -1)

    x = torch.cat([tokens, project(prompts.tokens)], 1)
    for i, block in enumerate(encoder.blocks):
        if i and deep:
            x = torch.cat([x[:, :5], project(prompts.deep[i - 1 : i])], 1)
        x = plain.run(block, x)
    torch.testing.assert_close(encoder.forward_blocks(tokens, grid), x)


@pytest.mark.parametrize(("projection", "width"), [(None, 24), (7, 7)])
def test_prompts_start_uniform_in_the_bound_of_a_patch_projection_of_their_width(projection, width):
    torch.manual_seed(0)
    encoder = build(vit)
    prompts = vpt(encoder, 100, projection=projection)[0]
    bound = (6 / (3 * 8 * 8 + width)) ** 0.5
    for rows in (prompts.tokens, prompts.deep):
        assert 0.98 * bound < rows.max() <= bound
        assert -bound <= rows.min() < -0.98 * bound
    if projection:  # Kaiming normal by the number of outputs
        assert prompts.projection.weight.std().item() == pytest.approx((2 / 24) ** 0.5, rel=0.2)


def test_dropout_acts_on_all_prompts_in_training_only():
    encoder, prompts = tower(num_tokens=3, dropout=0.4)
    x = torch.zeros(2, 5, 24, dtype=torch.double)
    assert prompts.dropout.p == 0.4
    assert vpt(build(vit))[0].dropout.p == 0
    second = encoder.blocks[1].pre_attn["vpt"]
    encoder.train()
    assert (prompts(x)[:, 5:] == 0).any()
    assert (second(prompts(x))[:, 5:] == 0).any()
    encoder.eval()
    torch.testing.assert_close(prompts(x)[:, 5:], prompts.tokens.expand(2, -1, -1))
    prompts.dropout = plain.Square()
    torch.testing.assert_close(second(prompts(x))[:, 5:], prompts.deep[:1].square().expand(2, -1, -1))
