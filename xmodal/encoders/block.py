"""Define the transformer block that every vision and text transformer is made of.

Names and arithmetic are timm's; what is ours are the sites (see `sites.py`), the taps (see `taps.py`), and `rows`: when
only the first tokens of the output will be read, only they are computed.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xmodal.encoders.attend import attend
from xmodal.encoders.branches import Branches
from xmodal.encoders.frozen_mlp import frozen_mlp
from xmodal.encoders.sites import Edits, LayerNorm, LayerScale, Linear, Pointwise, Stream, linear
from xmodal.encoders.taps import Slot
from xmodal.registry import did_you_mean
from xmodal.structures import Grid


class QuickGELU(nn.Module):
    """x * sigmoid(1.702 x), the activation of OpenAI's CLIP, keeping one tensor for the backward pass."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply elementwise."""
        return F.silu(x * 1.702) * (1 / 1.702)


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "gelu": nn.GELU,
    "gelu_tanh": lambda: nn.GELU(approximate="tanh"),
    "quick_gelu": QuickGELU,
    "relu": nn.ReLU,
    "silu": nn.SiLU,
}


def make_activation(name: str) -> nn.Module:
    """Build an activation by name.

    Raises:
        ValueError: an unknown name.
    """
    if name not in ACTIVATIONS:
        raise ValueError(f"no activation is called {name!r}; {did_you_mean(name, ACTIVATIONS)}")
    return ACTIVATIONS[name]()


class DropPath(nn.Module):
    """Stochastic depth: in training, drop the branch of a whole sample with probability `drop_prob`."""

    def __init__(self, drop_prob: float = 0.0):
        super().__init__()
        self.drop_prob = drop_prob

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, ...) to (B, ...)."""
        if self.drop_prob == 0.0 or not self.training:
            return x
        keep = 1 - self.drop_prob
        mask = x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(keep)
        return x * (mask / keep)


class Attention(nn.Module):
    """Multi-head self-attention, optionally causal, optionally with normalized queries and keys.

    Sites: `qkv`, `proj`, and the whole (`attn`).
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        qkv_bias: bool = True,
        qk_norm: bool = False,
        causal: bool = False,
        norm_eps: float = 1e-6,
    ):
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"dim {dim} does not divide into {num_heads} heads")
        self.num_heads = num_heads
        self.causal = causal
        self.qkv = Linear(dim, 3 * dim, bias=qkv_bias)
        self.q_norm = LayerNorm(dim // num_heads, norm_eps) if qk_norm else nn.Identity()
        self.k_norm = LayerNorm(dim // num_heads, norm_eps) if qk_norm else nn.Identity()
        self.proj = Linear(dim, dim)
        self.edits = Edits()

    def heads(self, x: Tensor) -> Tensor:
        """Split (B, N, D) into heads (B, H, N, D/H)."""
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def project(self, x: Tensor, grid: Grid | None, rows: int | None) -> tuple[Tensor, Tensor, Tensor]:
        """Project to queries of the first `rows` tokens and keys and values of all, each (B, H, N, D/H)."""
        if rows is None or self.qkv.edits:
            q, k, v = self.qkv(x, grid).chunk(3, dim=-1)
            q = q if rows is None else q[:, :rows]
        else:
            dim = x.shape[-1]
            weight, bias = self.qkv.weight, self.qkv.bias
            q = linear(x[:, :rows], weight[:dim], None if bias is None else bias[:dim])
            k, v = linear(x, weight[dim:], None if bias is None else bias[dim:]).chunk(2, dim=-1)
        q, k, v = self.heads(q), self.heads(k), self.heads(v)  # (B, H, N, D/H)
        return self.q_norm(q), self.k_norm(k), v

    def forward(
        self,
        x: Tensor,
        grid: Grid | None = None,
        rows: int | None = None,
        tap: Slot | None = None,
        branches: Branches | None = None,
    ) -> Tensor:
        """Map x (B, N, D) to (B, N or rows, D)."""
        q, k, v = self.project(x, grid, rows)
        if tap is not None:
            tap.write("attn.q", q)
            tap.write("attn.k", k)
            tap.write("attn.v", v)
        if branches is not None:
            y = branches.attend(q, k, v)
        else:
            y = attend(q, k, v, is_causal=self.causal and rows is None)
        y = self.proj(y.transpose(1, 2).flatten(2), short(grid, rows))  # (B, N, D)
        return self.edits(y, x if rows is None else x[:, :rows], short(grid, rows)) if self.edits else y

    def query(self, x: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Let extra tokens x (B, Q, D) attend to given keys and values (B, H, N, D/H); nothing attends to them."""
        dim = x.shape[-1]
        bias = self.qkv.bias
        q = self.q_norm(self.heads(linear(x, self.qkv.weight[:dim], None if bias is None else bias[:dim])))
        q = q.to(k.dtype)
        y = attend(q, k, v)
        return self.proj(y.transpose(1, 2).flatten(2))  # (B, Q, D)


class Mlp(nn.Module):
    """Two linear layers around an activation. Sites: `fc1`, `act`, `fc2`, and the whole (`mlp`)."""

    def __init__(self, dim: int, hidden: int, act: str = "gelu", gated: bool = False):
        super().__init__()
        self.gated = gated
        self.fc1 = Linear(dim, hidden)
        self.act = Pointwise(make_activation(act))
        self.fc2 = Linear(hidden // 2 if gated else hidden, dim)
        self.edits = Edits()

    def forward(self, x: Tensor, grid: Grid | None = None) -> Tensor:
        """Map (B, N, D) to (B, N, D); gated, the first half of the hidden layer gates the second (SwiGLU)."""
        if self.plain(x):
            return self.edits(frozen_mlp(x, self.fc1.weight, self.fc1.bias, self.fc2.weight, self.fc2.bias), x, grid)
        hidden = self.fc1(x, grid)
        if self.gated:
            gate, hidden = hidden.chunk(2, dim=-1)
            hidden = self.act(gate, grid) * hidden
        else:
            hidden = self.act(hidden, grid)
        return self.edits(self.fc2(hidden, grid), x, grid)

    def plain(self, x: Tensor) -> bool:
        """Return whether `frozen_mlp` computes the same: QuickGELU, nothing trained or placed inside, no autocast."""
        if self.gated or not isinstance(self.act.op, QuickGELU) or torch.is_autocast_enabled(x.device.type):
            return False
        if self.fc1.edits or self.act.edits or self.fc2.edits:
            return False
        weights = (self.fc1.weight, self.fc1.bias, self.fc2.weight, self.fc2.bias)
        return all(type(w) is nn.Parameter and not w.requires_grad for w in weights)  # no quantized ones either


def short(grid: Grid | None, rows: int | None) -> Grid | None:
    """Return the grid that is left when only the first `rows` tokens are computed."""
    return grid if rows is None or grid is None else grid.prefix_only()


class Block(nn.Module):
    """A pre-norm transformer block with named sites.

    Sites in order: `pre_attn`, `norm1`, `attn.qkv`, `attn.proj`, `attn`, `ls1`, `pre_mlp`, `norm2`, `mlp.fc1`,
    `mlp.act`, `mlp.fc2`, `mlp`, `ls2`, `post`. The first, the seventh and the last are on the residual stream.

    Args:
        dim: width D.
        num_heads: attention heads H.
        mlp_ratio: hidden width of the MLP over D.
        qkv_bias: bias of the query, key and value projection.
        qk_norm: normalize queries and keys per head.
        init_values: initial LayerScale, None for no LayerScale.
        act: a name in `ACTIVATIONS`.
        gated: gated MLP (SwiGLU with `act="silu"`).
        causal: a token sees only those before it (text).
        norm_eps: of every LayerNorm.
        drop_path: stochastic depth, in training only.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        qk_norm: bool = False,
        init_values: float | None = None,
        act: str = "gelu",
        gated: bool = False,
        causal: bool = False,
        norm_eps: float = 1e-6,
        drop_path: float = 0.0,
    ):
        super().__init__()
        self.pre_attn = Stream()
        self.norm1 = LayerNorm(dim, norm_eps)
        self.attn = Attention(dim, num_heads, qkv_bias, qk_norm, causal, norm_eps)
        self.ls1 = LayerScale(dim, init_values) if init_values is not None else Pointwise()
        self.drop_path1 = DropPath(drop_path)
        self.pre_mlp = Stream()
        self.norm2 = LayerNorm(dim, norm_eps)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), act, gated)
        self.ls2 = LayerScale(dim, init_values) if init_values is not None else Pointwise()
        self.drop_path2 = DropPath(drop_path)
        self.post = Stream()

    def forward(
        self,
        x: Tensor,
        grid: Grid | None = None,
        rows: int | None = None,
        tap: Slot | None = None,
        branches: Branches | None = None,
    ) -> Tensor:
        """Run the block.

        Args:
            x: tokens (B, N, D).
            grid: where the patches sit, None where there is no grid.
            rows: compute only the first `rows` tokens of the output; keys and values still come from all.
            tap: where to write what a reader listens to.
            branches: layout of several sequences in one; None for a plain sequence.

        Returns:
            Tokens (B, N or rows, D).
        """
        x = self.pre_attn(x, grid)
        y = self.attn(self.norm1(x, grid), grid, rows, tap, branches)
        if rows is not None:
            x, grid = x[:, :rows], short(grid, rows)
        x = x + self.drop_path1(self.ls1(y, grid))
        x = self.pre_mlp(x, grid)
        x = x + self.drop_path2(self.ls2(self.mlp(self.norm2(x, grid), grid), grid))
        x = self.post(x, grid)
        if tap is not None:
            tap.write("post", x)
        return x

    @property
    def trains(self) -> bool:
        """Return whether any weight of the block or of its placed modules trains."""
        return any(p.requires_grad for p in self.parameters())


def run_block(
    block: nn.Module,
    x: Tensor,
    grid: Grid | None,
    rows: int | None,
    tap: Slot | None,
    recompute: bool,
    *layout: Branches,
) -> Tensor:
    """Run one block, recomputing its activations in the backward pass when asked and when there is one."""
    if recompute and torch.is_grad_enabled() and (x.requires_grad or block.trains):
        return torch.utils.checkpoint.checkpoint(block, x, grid, rows, tap, *layout, use_reentrant=False)
    return block(x, grid, rows, tap, *layout)
