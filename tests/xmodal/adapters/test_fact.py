"""FacT against dW = s V Sigma^T U of its description, written out in float64, forwards and merged."""

import pytest
import torch

from tests.xmodal.adapters import plain
from tests.xmodal.adapters.towers import build, refill, vit
from xmodal.adapters.fact import fact
from xmodal.merge import merge_adapters

RANK, DIM = 3, 24
LAYERS = {"attn.qkv": ("q", "k", "v"), "attn.proj": ("s",), "mlp.fc1": ("s",), "mlp.fc2": ("s",)}
COLUMNS = {"attn.qkv": (0, 3), "attn.proj": (3, 4), "mlp.fc1": (4, 8), "mlp.fc2": (8, 12)}  # of the 12 of a block


def tower(form, scale, **options):
    encoder = build(vit)
    factors = fact(encoder, rank=RANK, scale=scale, form=form, **options)[0].factors
    refill(encoder.double(), only=lambda p: p.requires_grad)
    return encoder.eval(), factors


def updates(encoder, factors, form, scale):
    """The weight updates of all layers of all blocks."""
    u, v = factors.u, factors.v
    for i, block in enumerate(encoder.blocks):
        for name, parts in LAYERS.items():
            if form == "tt":
                cores = block.get_submodule(name).edits["fact"].cores
                sigma = torch.cat(
                    [cores[part] for part in parts]
                )  # one for q, k, v each; (4r, r) of fc1, (r, 4r) of fc2
            else:
                columns = factors.p[:, slice(*(12 * i + c for c in COLUMNS[name]))]
                four = torch.einsum("abk,kj->abj", factors.c, columns)  # (r, r, slices)
                if name.startswith("attn"):
                    sigma = torch.cat([four[:, :, j].T for j in range(four.shape[2])])
                else:  # as released: reshaped with the slice index fastest
                    table = four.reshape(RANK, -1)
                    sigma = table if name == "mlp.fc2" else table.T
            rows = []
            for out in sigma.split(RANK):
                rows.append(torch.cat([v @ part @ u for part in out.split(RANK, 1)], 1))
            yield block.get_submodule(name), scale * torch.cat(rows)


@pytest.mark.parametrize("scale", [1.0, 0.1, 3.0])
@pytest.mark.parametrize("form", ["tt", "tk"])
def test_every_layer_gets_its_update_times_the_scale(form, scale):
    encoder, factors = tower(form, scale)
    for layer, update in updates(encoder, factors, form, scale):
        x = torch.randn(2, 5, layer.in_features, dtype=torch.double)
        torch.testing.assert_close(layer(x), x @ (layer.weight + update).T + layer.bias)


@pytest.mark.parametrize("form", ["tt", "tk"])
def test_merged_weights_are_those_of_the_formula(form):
    encoder, factors = tower(form, 3.0)
    wanted = [layer.weight + update for layer, update in updates(encoder, factors, form, 3.0)]
    merged = [block.get_submodule(name) for block in merge_adapters(encoder).blocks for name in LAYERS]
    for layer, weight in zip(merged, wanted, strict=True):
        torch.testing.assert_close(layer.weight, weight, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("form", ["tt", "tk"])
def test_dropout_acts_on_the_code_in_training_only(form):
    encoder, factors = tower(form, 2.0, dropout=0.4)
    layer = encoder.blocks[1].attn.proj
    update, x, zero = layer.edits["fact"], torch.randn(2, 5, DIM, dtype=torch.double), torch.zeros(2, 5, DIM)
    assert update.dropout.p == 0.4
    assert fact(build(vit), form=form)[0].dropout.p == 0.1
    assert not torch.allclose(update.train()(zero, x), update.eval()(zero, x))
    update.dropout = plain.Square()
    code = (x @ factors.u.T @ update.sigma().T) ** 2
    torch.testing.assert_close(update(zero, x), 2 * code @ factors.v.T)


def test_towers_share_nothing():
    first, second = (tower("tk", 1.0) for _ in range(2))
    second[1].u.data.zero_()
    layer, update = next(iter(updates(*first, "tk", 1.0)))
    assert update.abs().max() > 0.1
    x = torch.randn(2, 5, DIM, dtype=torch.double)
    torch.testing.assert_close(layer(x), x @ (layer.weight + update).T + layer.bias)


def test_factors_start_as_published():
    torch.manual_seed(0)
    factors = fact(build(vit), rank=16, form="tk")[0].factors
    assert not factors.v.any()
    assert 0.95 * DIM**-0.5 < factors.u.abs().max() <= DIM**-0.5
    bound = (6 / (16 + 36)) ** 0.5  # Xavier uniform of P (16, 12 * 3)
    assert 0.95 * bound < factors.p.abs().max() <= bound
