"""Convpass: where a bypass reads and how strong it is, its grid, its start and its dropout."""

import copy

import pytest
import torch
import torch.nn.functional as F

from tests.xmodal.adapters import plain
from tests.xmodal.adapters.towers import build, refill, vit
from xmodal.adapters.convpass import Bypass, convpass
from xmodal.structures import Grid


def through(bypass, x, grid, drop=lambda t: t):
    """Up(a(conv(a(down x)))) of the patches on their grid, and of every other token as a map of one pixel."""
    u = plain.quick_gelu(x @ bypass.down.weight.T + bypass.down.bias)
    start, end = grid.prefix, grid.prefix + grid.num_patches
    rows = []
    for i in range(x.shape[1]):
        if start <= i < end:
            r, c = divmod(i - start, grid.w)
            near = [(r + dr, c + dc, dr + 1, dc + 1) for dr in (-1, 0, 1) for dc in (-1, 0, 1)]
            near = [(a, b, ka, kb) for a, b, ka, kb in near if 0 <= a < grid.h and 0 <= b < grid.w]
            sums = [u[:, start + a * grid.w + b] @ bypass.conv.weight[:, :, ka, kb].T for a, b, ka, kb in near]
            rows.append(sum(sums) + bypass.conv.bias)
        else:
            rows.append(u[:, i] @ bypass.conv.weight[:, :, 1, 1].T + bypass.conv.bias)
    v = drop(plain.quick_gelu(torch.stack(rows, 1)))
    return v @ bypass.up.weight.T + bypass.up.bias


@pytest.mark.parametrize("grid", [Grid(1, 2, 3), Grid(1, 3, 2, prefix=0), Grid(2, 1, 4, prefix=2)])
def test_the_convolution_runs_on_the_rows_and_columns_of_patches(grid):
    bypass = refill(Bypass(12, 4, scale=3.0)).double().eval()
    y, x = torch.randn(2, 2, grid.prefix + grid.num_patches + 2, 12, dtype=torch.double)
    torch.testing.assert_close(bypass(y, x, grid), y + 3 * through(bypass, x, grid))


@pytest.mark.parametrize(("sites", "scale"), [(("attn", "mlp"), 0.1), (("mlp",), 10.0), ("attn", 2.0)])
def test_bypasses_read_what_their_operations_read(sites, scale):
    encoder = build(vit)
    convpass(encoder, 4, scale, sites)
    refill(encoder.double(), only=lambda p: p.requires_grad)
    block, grid, x = encoder.blocks[1].eval(), Grid(1, 2, 2), torch.randn(2, 5, 24, dtype=torch.double)
    edits = {site: block.get_submodule(site).edits for site in ("attn", "mlp")}
    assert {site for site in edits if edits[site]} == ({sites} if isinstance(sites, str) else set(sites))

    def beside(site):
        if not edits[site]:
            return plain.same
        return lambda y, u: y + scale * through(edits[site]["convpass"], u, grid)

    torch.testing.assert_close(block(x, grid), plain.run(block, x, plain.same, beside("attn"), beside("mlp")))


def test_dropout_acts_before_the_up_projection():
    bypass = refill(Bypass(12, 4, dropout=0.5)).double()
    y, x, grid = *torch.randn(2, 2, 5, 12, dtype=torch.double), Grid(1, 2, 2)
    assert not torch.allclose(bypass.train()(y, x, grid), bypass.eval()(y, x, grid))
    bypass.dropout = plain.Square()
    torch.testing.assert_close(bypass(y, x, grid), y + through(bypass, x, grid, torch.square))
    assert [m.dropout.p for m in convpass(build(vit), dropout=0.3)] == [0.3] * 6
    assert [m.dropout.p for m in convpass(build(vit))] == [0.1] * 6


def test_kernels_start_as_the_identity_or_by_xavier():
    torch.manual_seed(0)
    identity = Bypass(24, 4)
    x = torch.randn(1, 4, 5, 5)
    torch.testing.assert_close(F.conv2d(x, identity.conv.weight, identity.conv.bias, padding=1), x)
    drawn = Bypass(24, 40, xavier_init=True)
    bound = (6 / (2 * 40 * 9)) ** 0.5
    assert 0.98 * bound < drawn.conv.weight.abs().max() <= bound
    for bypass in (identity, drawn):
        assert not any(p.any() for p in (bypass.up.weight, bypass.up.bias, bypass.down.bias, bypass.conv.bias))
        bound = (6 / (24 + len(bypass.down.bias))) ** 0.5
        assert 0.8 * bound < bypass.down.weight.abs().max() <= bound
    assert convpass(build(vit), 8, xavier_init=True)[0].conv.weight[:, :, 0, 0].any()
    assert not convpass(build(vit), 8)[0].conv.weight[:, :, 0, 0].any()


def test_a_layer_scale_does_not_act_on_a_bypass_and_a_copy_has_its_own():
    encoder = vit(init_values=0.1)
    convpass(encoder, 4, sites="mlp")
    copied = copy.deepcopy(refill(encoder)).double().eval()
    block, grid, x = copied.blocks[1], Grid(1, 2, 2), torch.randn(2, 5, 24, dtype=torch.double)
    block.ls2.gamma.data.mul_(3)[:2] = 0  # those of the copy
    bypass = block.mlp.edits["convpass"]
    found = block(x, grid)
    u = block.norm2(x + block.ls1(block.attn(block.norm1(x), grid)), grid)
    change = through(bypass, u, grid)
    del block.mlp.edits["convpass"]
    torch.testing.assert_close((found - block(x, grid))[..., 2:], change[..., 2:])
    torch.testing.assert_close(found[..., :2], block(x, grid)[..., :2])
