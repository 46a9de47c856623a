"""Define the transformer block that every vision and text transformer is made of.

Names and arithmetic are timm's; what is ours are the sites (see `sites.py`), the taps (see `taps.py`), and `rows`: when
only the first tokens of the output will be read, only they are computed.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from xmodal.encoders.attention import Attention, short
from xmodal.encoders.branches import BranchLayout
from xmodal.encoders.frozen_mlp import frozen_mlp
from xmodal.encoders.parts import DropPath, QuickGELU, make_activation, make_norm
from xmodal.encoders.sites import Branch, Edits, LayerScale, Linear, Pointwise, Stream, autocasting
from xmodal.encoders.taps import Slot
from xmodal.structures import Grid


class Mlp(nn.Module):
    """Two linear layers around an activation. Sites: `fc1`, `act`, `fc2`, and the whole (`mlp`).

    Args:
        dim: width D.
        hidden: rows of the first layer.
        act: a name in `parts.ACTIVATIONS`.
        gated: the first half of the hidden layer gates the second (SwiGLU with `act="silu"`).
        bias: bias of both layers.
        norm: norm of what the second layer reads, a name in `parts.NORMS`; None for none.
        norm_eps: of that norm.
        norm_in: norm of what the first layer reads, a name in `parts.NORMS`; None for none.
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
        norm_in: str | None = None,
    ):
        super().__init__()
        self.gated = gated
        self.norm_in = nn.Identity() if norm_in is None else make_norm(norm_in, dim, norm_eps)
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
        hidden = self.fc1(self.norm_in(x), grid)
        if self.gated:
            gate, hidden = hidden.chunk(2, dim=-1)
            hidden = self.act(gate, grid) * hidden
        else:
            hidden = self.act(hidden, grid)
        return self.edits(self.fc2(self.norm(hidden), grid), x, grid)

    @property
    def normed(self) -> bool:
        """Return whether there is a norm inside."""
        return not (isinstance(self.norm, nn.Identity) and isinstance(self.norm_in, nn.Identity))

    def plain(self, x: Tensor) -> bool:
        """Return whether `frozen_mlp` computes the same: QuickGELU, nothing trained or placed inside, no autocast."""
        if self.gated or not isinstance(self.act.op, QuickGELU) or autocasting(x):
            return False
        if self.fc1.edits or self.act.edits or self.fc2.edits or self.normed:
            return False
        weights = (self.fc1.weight, self.fc1.bias, self.fc2.weight, self.fc2.bias)
        return all(type(w) is nn.Parameter and not w.requires_grad for w in weights)  # no quantized ones either


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
        act: a name in `parts.ACTIVATIONS`.
        gated: gated MLP (SwiGLU with `act="silu"`).
        causal: a token sees only those before it (text).
        norm_eps: of every norm.
        drop_path: stochastic depth, in training only.
        norm: kind of the norms, a name in `parts.NORMS`.
        attn_norm: a norm in front of the attention's output projection.
        mlp_norm: a norm in front of the MLP's second layer.
        mlp_norm_in: a norm in front of the MLP's first layer, behind `norm2` (ViTamin).
        bias: bias of the attention's output projection and of the MLP.
        rotary: arguments of `rotary.Rotary`, None for no rotary positions.
        joint: attend over all frames of a clip.
        relative: grid of a bias by relative position, None for no such bias.
    """

    post_norm = False
    parallel = False

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
        mlp_norm_in: bool = False,
        bias: bool = True,
        rotary: dict | None = None,
        joint: bool = False,
        relative: Sequence[int] | None = None,
    ):
        super().__init__()
        self.pre_attn = Stream()
        self.norm1 = make_norm(norm, dim, norm_eps)
        inside = dict(norm=norm, out_norm=attn_norm, bias=bias, rotary=rotary, joint=joint, relative=relative)
        self.attn = Attention(dim, num_heads, qkv_bias, qk_norm, causal, norm_eps, **inside)  # type: ignore[arg-type]
        self.ls1 = LayerScale(dim, init_values) if init_values is not None else Pointwise()
        self.drop_path1 = DropPath(drop_path)
        self.attn_branch = Branch()
        self.pre_mlp = Stream()
        self.norm2 = make_norm(norm, dim, norm_eps)
        norms = (norm if mlp_norm else None, norm_eps, norm if mlp_norm_in else None)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), act, gated, bias, *norms)
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
        branches: BranchLayout | None = None,
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
        before = x
        x = x + self.attn_branch(self.drop_path1(self.ls1(y, grid)), x, grid)
        x = self.pre_mlp(x, grid)
        y = self.second_branch(before if self.parallel else x, grid)
        x = x + self.mlp_branch(self.drop_path2(self.ls2(y, grid)), x, grid)
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


class ParallelBlock(Block):
    """A block whose MLP reads what its attention reads, and not what attention has added (ViT-22B, arXiv 2302.05442).

    A module at `pre_mlp` acts on the stream behind attention; the MLP does not see it.
    """

    parallel = True


def run_block(
    block: nn.Module,
    x: Tensor,
    grid: Grid | None,
    rows: int | None,
    tap: Slot | None,
    recompute: bool,
    *layout: BranchLayout,
) -> Tensor:
    """Run one block, recomputing its activations in the backward pass when asked and when there is one."""
    if recompute and torch.is_grad_enabled() and (x.requires_grad or block.trains):
        return torch.utils.checkpoint.checkpoint(block, x, grid, rows, tap, *layout, use_reentrant=False)
    return block(x, grid, rows, tap, *layout)
