"""The transformer block against its formulas: activations, stochastic depth, options, taps, sites."""

import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.xmodal.adapters import plain
from xmodal.encoders.attention import Attention
from xmodal.encoders.block import Block, Mlp, run_block
from xmodal.encoders.branches import Branches
from xmodal.encoders.frozen_mlp import frozen_mlp
from xmodal.encoders.parts import ACTIVATIONS, DropPath, QuickGELU, make_activation
from xmodal.encoders.pooling import AttentionPool
from xmodal.encoders.sites import LayerNorm, LayerScale, Linear, place, remove
from xmodal.encoders.taps import Slot
from xmodal.structures import Grid


def random(module):
    torch.manual_seed(0)
    for p in module.parameters():
        nn.init.normal_(p, std=0.3)
    return module.double()


def tokens(*shape):
    return torch.randn(*(shape or (2, 5, 12)), dtype=torch.double)


def sigmoid(v):
    return 1 / (1 + math.exp(-v))


BY_HAND = {
    "gelu": lambda v: v * 0.5 * (1 + math.erf(v / math.sqrt(2))),
    "gelu_tanh": lambda v: 0.5 * v * (1 + math.tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * v**3))),
    "quick_gelu": lambda v: v * sigmoid(1.702 * v),
    "relu": lambda v: max(v, 0.0),
    "silu": lambda v: v * sigmoid(v),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_by_their_formulas(name):
    x = torch.linspace(-4, 4, 33, dtype=torch.double)
    want = torch.tensor([BY_HAND[name](v) for v in x.tolist()], dtype=torch.double)
    torch.testing.assert_close(make_activation(name)(x), want, atol=1e-9, rtol=1e-9)


def test_quick_gelu_of_one_and_its_slope():
    x = torch.tensor([1.0], dtype=torch.double, requires_grad=True)
    y = QuickGELU()(x)
    s = 0.8457957659328212  # sigmoid(1.702)
    assert y.item() == pytest.approx(s, abs=1e-12)
    y.backward()
    assert x.grad.item() == pytest.approx(s + 1.702 * s * (1 - s), abs=1e-12)


def test_the_fused_frozen_mlp_is_two_layers_around_quick_gelu():
    w1, b1, w2, b2, x = tokens(8, 4), tokens(8), tokens(4, 8), tokens(4), tokens(2, 3, 4)
    want = plain.quick_gelu(x @ w1.T + b1) @ w2.T + b2
    torch.testing.assert_close(frozen_mlp(x, w1, b1, w2, b2), want)
    x.requires_grad_()
    got, want = frozen_mlp(x, w1, b1, w2, b2), plain.quick_gelu(x @ w1.T + b1) @ w2.T + b2
    slope = tokens(2, 3, 4)
    torch.testing.assert_close(torch.autograd.grad(got, x, slope)[0], torch.autograd.grad(want, x, slope)[0])


@pytest.mark.parametrize("rate", [0.25, 0.6])
def test_stochastic_depth_drops_whole_samples_and_scales_the_rest_by_one_over_keep(rate):
    torch.manual_seed(0)
    drop, x = DropPath(rate), torch.ones(4000, 3, 2)
    y = drop.train()(x)
    kept = y[:, 0, 0] != 0
    assert torch.equal(y, kept[:, None, None].float().expand_as(x) * y)
    torch.testing.assert_close(y[kept], torch.full_like(y[kept], 1 / (1 - rate)))
    assert kept.float().mean().item() == pytest.approx(1 - rate, abs=0.03)
    assert y.mean().item() == pytest.approx(1, abs=0.06)
    assert torch.equal(drop.eval()(x), x)
    assert torch.equal(DropPath(0.0).train()(x), x)
    assert drop.train()(torch.ones(50, 3, 2, 2))[:, 0, 0, 0].unique().numel() == 2


@pytest.mark.parametrize("branch", ["attn", "mlp"])
def test_both_branches_of_a_block_have_stochastic_depth(branch):
    block = random(Block(12, 3, drop_path=0.5)).train()
    other = block.mlp.fc2 if branch == "attn" else block.attn.proj
    for p in other.parameters():
        nn.init.zeros_(p)
    x = tokens(64, 5, 12)
    full = block.eval()(x) - x
    got = block.train()(x) - x
    ratio = (got / full).flatten(1)
    torch.testing.assert_close(ratio, ratio[:, :1].expand_as(ratio))
    assert {round(r, 6) for r in ratio[:, 0].tolist()} == {0.0, 2.0}


def test_a_block_equals_its_formula_with_scales_of_its_branches():
    block, x = random(Block(12, 3, init_values=0.1)), tokens()
    torch.testing.assert_close(block(x), plain.run(block, x, scales=(block.ls1.gamma, block.ls2.gamma)))
    plain_block = random(Block(12, 3))
    torch.testing.assert_close(plain_block(x), plain.run(plain_block, x))
    fresh = Block(12, 3, init_values=0.25)
    assert torch.equal(fresh.ls1.gamma, torch.full((12,), 0.25))
    assert torch.equal(fresh.ls2.gamma, torch.full((12,), 0.25))
    assert torch.equal(LayerScale(3).gamma, torch.full((3,), 1e-5))


def test_queries_and_keys_are_normed_head_by_head_each_by_its_own():
    attn, x = random(Attention(12, 3, qk_norm=True)), tokens()
    q, k, v = (x @ attn.qkv.weight.T + attn.qkv.bias).chunk(3, -1)
    q, k = (
        torch.cat([plain.norm(head, layer) for head in part.chunk(3, -1)], -1)
        for part, layer in ((q, attn.q_norm), (k, attn.k_norm))
    )
    torch.testing.assert_close(attn(x), plain.attention(q, k, v, 3) @ attn.proj.weight.T + attn.proj.bias)
    extra = tokens(2, 2, 12)
    own = torch.cat(
        [plain.norm(h, attn.q_norm) for h in (extra @ attn.qkv.weight[:12].T + attn.qkv.bias[:12]).chunk(3, -1)], -1
    )
    want = plain.attention(own, k, v, 3) @ attn.proj.weight.T + attn.proj.bias
    torch.testing.assert_close(attn.query(extra, attn.heads(k), attn.heads(v)), want)


def test_a_causal_token_sees_itself_and_those_before():
    attn, x = random(Attention(12, 3, causal=True)), tokens()
    q, k, v = (x @ attn.qkv.weight.T + attn.qkv.bias).chunk(3, -1)
    rows = [plain.attention(q[:, i : i + 1], k[:, : i + 1], v[:, : i + 1], 3) for i in range(5)]
    torch.testing.assert_close(attn(x), torch.cat(rows, 1) @ attn.proj.weight.T + attn.proj.bias)


def test_the_first_half_of_a_gated_mlp_gates_the_second():
    mlp, x = random(Mlp(6, 8, act="silu", gated=True)), tokens(2, 3, 6)
    hidden = x @ mlp.fc1.weight.T + mlp.fc1.bias
    gate = hidden[..., :4]
    want = (gate * torch.sigmoid(gate) * hidden[..., 4:]) @ mlp.fc2.weight.T + mlp.fc2.bias
    torch.testing.assert_close(mlp(x), want)


@pytest.mark.parametrize("eps", [1e-6, 1e-5, 0.1])
def test_a_norm_uses_its_own_eps_in_every_precision(eps):
    layer, x = random(LayerNorm(12, eps)), tokens() * 0.01
    formula = SimpleNamespace(weight=layer.weight, bias=layer.bias, eps=eps)
    torch.testing.assert_close(layer(x), plain.norm(x, formula))
    half, single = x.bfloat16(), layer.float()
    want = plain.norm(half.float(), formula)
    assert single(half).dtype == torch.bfloat16
    torch.testing.assert_close(single(half).float(), want, atol=1e-2, rtol=1e-2)


def test_attention_pooling_adds_the_mlp_to_what_the_latent_reads():
    pool, x = random(AttentionPool(12, 3)), tokens()
    q = (pool.latent @ pool.q.weight.T + pool.q.bias).expand(2, -1, -1)
    k, v = (x @ pool.kv.weight.T + pool.kv.bias).chunk(2, -1)
    y = plain.attention(q, k, v, 3) @ pool.proj.weight.T + pool.proj.bias
    hidden = F.gelu(plain.norm(y, pool.norm) @ pool.mlp.fc1.weight.T + pool.mlp.fc1.bias)
    torch.testing.assert_close(pool(x), (y + hidden @ pool.mlp.fc2.weight.T + pool.mlp.fc2.bias)[:, 0])


class Recorder(nn.Module):
    """Notes what it was given and adds its number."""

    def __init__(self, number, log):
        super().__init__()
        self.number, self.log = number, log

    def forward(self, y, *others):
        self.log.append((self.number, others[0] if len(others) == 2 else None))
        return y + self.number


def test_taps_are_what_their_names_say():
    block, x, grid = random(Block(12, 3)), tokens(), Grid(1, 2, 2)
    place(block, "post", "more", Recorder(3.0, []))
    slot = Slot(["attn.q", "attn.k", "attn.v", "post"])
    out = block(x, grid, tap=slot)
    u = plain.norm(x, block.norm1)
    for name, part in zip("qkv", (u @ block.attn.qkv.weight.T + block.attn.qkv.bias).chunk(3, -1), strict=True):
        torch.testing.assert_close(slot.values[f"attn.{name}"], torch.stack(part.chunk(3, -1), 1))
    assert torch.equal(slot.values["post"], out)
    torch.testing.assert_close(out, plain.run(block, x) + 3)
    quiet = Slot(["post"])
    block(x, grid, tap=quiet)
    assert list(quiet.values) == ["post"]


def test_modules_of_a_site_run_in_the_order_in_which_they_were_placed():
    block, log = random(Block(12, 3)), []
    for site in ("pre_mlp", "mlp.fc1"):
        for number in (2, 1, 3):
            place(block, site, f"n{number}", Recorder(number, log))
    block(tokens())
    assert [number for number, _ in log] == [2, 1, 3, 2, 1, 3]
    first = block.mlp.fc1.edits["n1"]
    assert remove(block, "mlp.fc1", "n1") is first
    assert list(block.mlp.fc1.edits) == ["n2", "n3"]
    with pytest.raises(ValueError, match="holds no 'n1'"):
        remove(block, "mlp.fc1", "n1")


def test_an_edit_sees_the_input_of_its_own_operation():
    layer, log, x = Linear(3, 4), [], torch.randn(2, 3)
    layer.edits["a"] = Recorder(1.0, log)
    torch.testing.assert_close(layer(x), F.linear(x, layer.weight, layer.bias) + 1)
    assert torch.equal(log[0][1], x)


@pytest.mark.parametrize("trained", [True, False])
def test_recomputing_a_block_keeps_its_arguments(trained):
    block, grid = random(Block(12, 3)).requires_grad_(trained), Grid(1, 2, 2)
    x = tokens().requires_grad_()
    slot = Slot(["post"])
    got = run_block(block, x, grid, 1, slot, recompute=True)
    torch.testing.assert_close(got, plain.run(block, x)[:, :1])
    assert torch.equal(slot.values["post"], got)
    want = torch.autograd.grad(plain.run(block, x)[:, :1].square().sum(), x)[0]
    torch.testing.assert_close(torch.autograd.grad(got.square().sum(), x)[0], want)


def test_branches_see_their_beginning_and_themselves():
    shared, count, size = 2, 3, 2
    q, k, v = (tokens(2, 3, shared + count * size, 4) for _ in range(3))
    got = Branches(shared=shared, count=count).attend(q, k, v)
    flat = [t.transpose(1, 2).flatten(2) for t in (q, k, v)]
    rows = []
    for row in range(shared + count * size):
        branch, place_in = divmod(row - shared, size)
        first = shared + branch * size
        seen = [*range(min(row + 1, shared)), *(range(first, first + place_in + 1) if row >= shared else ())]
        rows.append(plain.attention(flat[0][:, row : row + 1], flat[1][:, seen], flat[2][:, seen], 3))
    torch.testing.assert_close(got.transpose(1, 2).flatten(2), torch.cat(rows, 1))
