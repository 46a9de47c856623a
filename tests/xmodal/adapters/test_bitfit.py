"""BitFit trains biases and nothing else, where it was asked to."""

import pytest

from tests.xmodal.adapters.towers import build, resnet, vit
from xmodal.adapters.bitfit import bitfit


def names(encoder):
    return {n for n, p in encoder.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("make", [vit, resnet])
def test_every_bias_and_nothing_else(make):
    encoder = build(make)
    bitfit(encoder)
    assert names(encoder) == {n for n, _ in encoder.named_parameters() if n.endswith("bias")}
    assert names(encoder)


@pytest.mark.parametrize(("blocks", "chosen"), [(1, (2,)), (2, (1, 2)), ([0], (0,)), ([-3, 2], (0, 2))])
def test_those_of_some_blocks(blocks, chosen):
    encoder = build(vit)
    bitfit(encoder, blocks)
    starts = tuple(f"blocks.{i}." for i in chosen)
    wanted = {n for n, _ in encoder.named_parameters() if n.endswith("bias") and n.startswith(starts)}
    assert names(encoder) == wanted
    assert len(wanted) == 6 * len(chosen)
