"""Define the transformer block that every vision and text transformer is made of.

Names and arithmetic are timm's; what is ours are the sites (see `sites.py`), the taps (see `taps.py`), and `rows`: when
only the first tokens of the output will be read, only they are computed.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xmodal.encoders.attend import attend
from xmodal.encoders.branches import Branches
from xmodal.encoders.frozen_mlp import frozen_mlp
from xmodal.encoders.rotary import make_rotary
from xmodal.encoders.sites import Branch, Edits, LayerNorm, LayerScale, Linear, Pointwise, RMSNorm, Stream, linear
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


NORMS: dict[str, Callable[[int, float], nn.Module]] = {"layer": LayerNorm, "rms": RMSNorm}


def make_norm(name: str, dim: int, eps: float) -> nn.Module:
    """Build a norm by name.

    Raises:
        ValueError: an unknown name.
    """
    if name not in NORMS:
        raise ValueError(f"no norm is called {name!r}; {did_you_mean(name, NORMS)}")
    return NORMS[name](dim, eps)


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
    """Multi-head self-attention, optionally causal, with rotary positions or over all frames of a video.

    Sites: `qkv`, `proj`, and the whole (`attn`).

    Args:
        dim: width D.
        num_heads: heads H.
        qkv_bias: bias of queries, keys and values; towers without a bias of the keys have zeros there.
        qk_norm: normalize queries and keys per head.
        causal: a token sees only those before it.
        norm_eps: of every norm.
        norm: a name in `NORMS`.
        out_norm: normalize what the heads give, in front of the output projection.
        bias: bias of the output projection.
        rotary: arguments of `rotary.Rotary`, None for no rotary positions.
        joint: let the tokens of all frames of a clip attend to each other.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        qkv_bias: bool = True,
        qk_norm: bool = False,
        causal: bool = False,
        norm_eps: float = 1e-6,
        norm: str = "layer",
        out_norm: bool = False,
        bias: bool = True,
        rotary: dict | None = None,
        joint: bool = False,
    ):
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"dim {dim} does not divide into {num_heads} heads")
        self.num_heads = num_heads
        self.causal, self.joint = causal, joint
        self.qkv = Linear(dim, 3 * dim, bias=qkv_bias)
        self.q_norm = make_norm(norm, dim // num_heads, norm_eps) if qk_norm else nn.Identity()
        self.k_norm = make_norm(norm, dim // num_heads, norm_eps) if qk_norm else nn.Identity()
        self.rotary = make_rotary(rotary, num_heads, dim // num_heads)
        self.norm = make_norm(norm, dim, norm_eps) if out_norm else nn.Identity()
        self.proj = Linear(dim, dim, bias)
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
        q, k = self.q_norm(q), self.k_norm(k)
        if self.rotary is not None and grid is not None:
            q, k = self.rotary(q, grid), self.rotary(k, grid)
        return q, k, v

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
        elif self.joint and grid is not None and grid.t > 1:
            y = attend_frames(q, k, v, grid.t)
        else:
            y = attend(q, k, v, is_causal=self.causal and rows is None)
        y = self.proj(self.norm(y.transpose(1, 2).flatten(2)), short(grid, rows))  # (B, N, D)
        return self.edits(y, x if rows is None else x[:, :rows], short(grid, rows)) if self.edits else y

    def query(self, x: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Let extra tokens x (B, Q, D) attend to given keys and values (B, H, N, D/H); nothing attends to them."""
        dim = x.shape[-1]
        bias = self.qkv.bias
        q = self.q_norm(self.heads(linear(x, self.qkv.weight[:dim], None if bias is None else bias[:dim])))
        q = q.to(k.dtype)
        y = attend(q, k, v)
        return self.proj(self.norm(y.transpose(1, 2).flatten(2)))  # (B, Q, D)


def attend_frames(q: Tensor, k: Tensor, v: Tensor, frames: int) -> Tensor:
    """Attend within the tokens of all frames of a clip: (B*T, H, N, d) each to the same shape."""
    joined = (x.unflatten(0, (-1, frames)).transpose(1, 2).flatten(2, 3) for x in (q, k, v))  # (B, H, T*N, d)
    return attend(*joined).unflatten(2, (frames, -1)).transpose(1, 2).flatten(0, 1)


class Mlp(nn.Module):
    """Two linear layers around an activation. Sites: `fc1`, `act`, `fc2`, and the whole (`mlp`).

    Args:
        dim: width D.
        hidden: rows of the first layer.
        act: a name in `ACTIVATIONS`.
        gated: the first half of the hidden layer gates the second (SwiGLU with `act="silu"`).
        bias: bias of both layers.
        norm: norm of what the second layer reads, a name in `NORMS`; None for none.
        norm_eps: of that norm.
    """

    def __init__(
        self,
        dim: int,
        hidden: int,
        act: str = "gelu",
        gated: bool = False,
        bias: bool = True,
        norm: str | None = None,
        norm_eps: float = 1e-6,
    ):
        super().__init__()
        self.gated = gated
        inner = hidden // 2 if gated else hidden
        self.fc1 = Linear(dim, hidden, bias)
        self.act = Pointwise(make_activation(act))
        self.norm = nn.Identity() if norm is None else make_norm(norm, inner, norm_eps)
        self.fc2 = Linear(inner, dim, bias)
        self.edits = Edits()

    def forward(self, x: Tensor, grid: Grid | None = None) -> Tensor:
        """Map (B, N, D) to (B, N, D)."""
        if self.plain(x):
            return self.edits(frozen_mlp(x, self.fc1.weight, self.fc1.bias, self.fc2.weight, self.fc2.bias), x, grid)
        hidden = self.fc1(x, grid)
        if self.gated:
            gate, hidden = hidden.chunk(2, dim=-1)
            hidden = self.act(gate, grid) * hidden
        else:
            hidden = self.act(hidden, grid)
        return self.edits(self.fc2(self.norm(hidden), grid), x, grid)

    def plain(self, x: Tensor) -> bool:
        """Return whether `frozen_mlp` computes the same: QuickGELU, nothing trained or placed inside, no autocast."""
        if self.gated or not isinstance(self.act.op, QuickGELU) or torch.is_autocast_enabled(x.device.type):
            return False
        if self.fc1.edits or self.act.edits or self.fc2.edits or not isinstance(self.norm, nn.Identity):
            return False
        weights = (self.fc1.weight, self.fc1.bias, self.fc2.weight, self.fc2.bias)
        return all(type(w) is nn.Parameter and not w.requires_grad for w in weights)  # no quantized ones either


def short(grid: Grid | None, rows: int | None) -> Grid | None:
    """Return the grid that is left when only the first `rows` tokens are computed."""
    return grid if rows is None or grid is None else grid.prefix_only()


class Block(nn.Module):
    """A pre-norm transformer block with named sites.

    Sites in order: `pre_attn`, `norm1`, `attn.qkv`, `attn.proj`, `attn`, `ls1`, `attn_branch`, `pre_mlp`, `norm2`,
    `mlp.fc1`, `mlp.act`, `mlp.fc2`, `mlp`, `ls2`, `mlp_branch`, `post`. `pre_attn`, `pre_mlp` and `post` are on the
    residual stream; at `attn_branch` and `mlp_branch` a module gets what a branch adds to the stream, and the stream.

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
        norm_eps: of every norm.
        drop_path: stochastic depth, in training only.
        norm: kind of the norms, a name in `NORMS`.
        attn_norm: a norm in front of the attention's output projection.
        mlp_norm: a norm in front of the MLP's second layer.
        bias: bias of the attention's output projection and of the MLP.
        rotary: arguments of `rotary.Rotary`, None for no rotary positions.
        joint: attend over all frames of a clip.
    """

    post_norm = False

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
        norm: str = "layer",
        attn_norm: bool = False,
        mlp_norm: bool = False,
        bias: bool = True,
        rotary: dict | None = None,
        joint: bool = False,
    ):
        super().__init__()
        self.pre_attn = Stream()
        self.norm1 = make_norm(norm, dim, norm_eps)
        inside = dict(norm=norm, out_norm=attn_norm, bias=bias, rotary=rotary, joint=joint)
        self.attn = Attention(dim, num_heads, qkv_bias, qk_norm, causal, norm_eps, **inside)  # type: ignore[arg-type]
        self.ls1 = LayerScale(dim, init_values) if init_values is not None else Pointwise()
        self.drop_path1 = DropPath(drop_path)
        self.attn_branch = Branch()
        self.pre_mlp = Stream()
        self.norm2 = make_norm(norm, dim, norm_eps)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), act, gated, bias, norm if mlp_norm else None, norm_eps)
        self.ls2 = LayerScale(dim, init_values) if init_values is not None else Pointwise()
        self.drop_path2 = DropPath(drop_path)
        self.mlp_branch = Branch()
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
        y = self.first_branch(x, grid, rows, tap, branches)
        if rows is not None:
            x, grid = x[:, :rows], short(grid, rows)
        x = x + self.attn_branch(self.drop_path1(self.ls1(y, grid)), x, grid)
        x = self.pre_mlp(x, grid)
        x = x + self.mlp_branch(self.drop_path2(self.ls2(self.second_branch(x, grid), grid)), x, grid)
        x = self.post(x, grid)
        if tap is not None:
            tap.write("post", x)
        return x

    def first_branch(self, x: Tensor, grid: Grid | None, rows: int | None, *more: Any) -> Tensor:
        """Norm and attention."""
        return self.attn(self.norm1(x, grid), grid, rows, *more)

    def second_branch(self, x: Tensor, grid: Grid | None) -> Tensor:
        """Norm and MLP."""
        return self.mlp(self.norm2(x, grid), grid)

    @property
    def trains(self) -> bool:
        """Return whether any weight of the block or of its placed modules trains."""
        return any(p.requires_grad for p in self.parameters())


class PostNormBlock(Block):
    """A block whose norms stand behind attention and MLP, inside the residual branches (EVA-02 E, Swin V2's order)."""

    post_norm = True

    def first_branch(self, x: Tensor, grid: Grid | None, rows: int | None, *more: Any) -> Tensor:
        """Attention and norm."""
        return self.norm1(self.attn(x, grid, rows, *more), short(grid, rows))

    def second_branch(self, x: Tensor, grid: Grid | None) -> Tensor:
        """MLP and norm."""
        return self.norm2(self.mlp(x, grid), grid)


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
