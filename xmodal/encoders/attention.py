"""Multi-head self-attention with sites, taps, rotary positions and rows."""

from collections.abc import Sequence

from torch import Tensor, nn

from xmodal.encoders.attend import attend
from xmodal.encoders.branches import BranchLayout
from xmodal.encoders.mixed_sizes import seen
from xmodal.encoders.parts import make_norm
from xmodal.encoders.relative import RelativeBias
from xmodal.encoders.rotary import make_rotary
from xmodal.encoders.sites import Edits, Linear, linear
from xmodal.encoders.taps import Slot
from xmodal.structures import Grid


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
        norm: a name in `parts.NORMS`.
        out_norm: normalize what the heads give, in front of the output projection.
        bias: bias of the output projection.
        rotary: arguments of `rotary.Rotary`, None for no rotary positions.
        joint: let the tokens of all frames of a clip attend to each other.
        relative: rows and columns of the grid that a bias by relative position belongs to, None for no such bias.
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
        relative: Sequence[int] | None = None,
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
        self.relative = None if relative is None else RelativeBias(num_heads, relative)
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
        branches: BranchLayout | None = None,
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
            y = attend(q, k, v, self.causal and rows is None, self.mask(grid, rows, k.shape[2]))
        y = self.proj(self.norm(y.transpose(1, 2).flatten(2)), short(grid, rows))  # (B, N, D)
        return self.edits(y, x if rows is None else x[:, :rows], short(grid, rows)) if self.edits else y

    def mask(self, grid: Grid | None, rows: int | None, tokens: int) -> Tensor | None:
        """Return what is added to the scores of the first `rows` queries, or which keys they see; None for neither."""
        kept = seen(grid, tokens)
        kept = None if kept is None else kept[:, None, None]  # (B, 1, 1, N)
        if self.relative is None or grid is None:
            return kept
        bias = self.relative(grid, tokens)[:, :, :rows]
        return bias if kept is None else bias.masked_fill(~kept, float("-inf"))

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


def short(grid: Grid | None, rows: int | None) -> Grid | None:
    """Return the grid that is left when only the first `rows` tokens are computed."""
    return grid if rows is None or grid is None else grid.prefix_only()
