"""EVL's cross-frame motion features: attention maps between neighboring frames as relative-offset vectors.

Paper: EVL (arXiv 2208.03550), temporal cross attention. Only w1 and w2 train: 2*(2h-1)*(2w-1)*D weights.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from xmodal.structures import Grid

SCORES_AT_ONCE = (2**26, 2**19)  # numbers, on an accelerator and on a CPU


def neighbor_attention(q: Tensor, k: Tensor) -> Tensor:
    """Head-averaged attention maps between patches of frame pairs.

    Args:
        q: queries (..., H, n, d).
        k: keys (..., H, n, d).

    Returns:
        (..., n, n), rows sum to one.
    """
    lead, (heads, n, width) = q.shape[:-3], q.shape[-3:]
    scale = width**-0.5
    if torch.compiler.is_compiling() or torch.compiler.is_exporting():  # a graph has a free batch: no loop over parts
        return torch.softmax(q.float() @ k.float().transpose(-1, -2) * scale, -1).mean(-3)
    pairs = q.flatten(0, -4), k.flatten(0, -4).transpose(-1, -2)
    at_once = max(1, min(len(pairs[0]), SCORES_AT_ONCE[q.device.type == "cpu"] // (heads * n * n)))
    maps = q.new_empty(len(pairs[0]), n, n, dtype=torch.float32)
    scores = q.new_empty(at_once, heads, n, n, dtype=torch.float32)  # one piece of memory, which a CPU's cache holds
    for i in range(0, len(maps), at_once):
        a, b = (x[i : i + at_once].float() for x in pairs)
        out = scores[: len(a)]
        torch.baddbmm(out.flatten(0, 1), a.flatten(0, 1), b.flatten(0, 1), beta=0, alpha=scale, out=out.flatten(0, 1))
        torch.mean(torch.softmax(out, -1, out=out), -3, out=maps[i : i + at_once])
    return maps.unflatten(0, lead)


class MotionTable(nn.Module):
    """Sum of learned relative-position vectors, weighted by the attention to the previous and to the next frame.

    Args:
        dim: width D.
        grid: patches (h, w) that the tables are for.

    At start: zero.
    Differs from the released code: the (n, n, D) table of gathered vectors is never made; the same numbers.
    """

    def __init__(self, dim: int, grid: tuple[int, int]):
        super().__init__()
        h, w = self.grid = grid
        self.w1 = nn.Parameter(torch.zeros((2 * h - 1) * (2 * w - 1), dim))
        self.w2 = nn.Parameter(torch.zeros((2 * h - 1) * (2 * w - 1), dim))

    @torch.no_grad()
    def maps(self, q: Tensor, k: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
        """Compute how patches attend to the previous and to the next frame.

        Args:
            q: queries of one block (B*T, H, N, D/H).
            k: keys.
            grid: where the patches sit.

        Returns:
            Two maps (B, T-1, n, n), averaged over heads, without gradient: the tower they come from is frozen.

        Raises:
            ValueError: another grid than the tables are for.
        """
        if (grid.h, grid.w) != self.grid:
            raise ValueError(f"evl was built for a grid of {self.grid} patches, this clip has {(grid.h, grid.w)}")
        patches = slice(grid.prefix, grid.prefix + grid.num_patches)
        q, k = (x[:, :, patches].unflatten(0, (-1, grid.t)) for x in (q, k))  # (B, T, H, n, d)
        return neighbor_attention(q[:, 1:], k[:, :-1]), neighbor_attention(q[:, :-1], k[:, 1:])

    def forward(self, maps: tuple[Tensor, Tensor]) -> Tensor:
        """Turn maps (B, T-1, n, n) into motion vectors (B, T, n, D); a single frame has no neighbor, and none."""
        past, future = (m.to(self.w1.dtype) for m in maps)
        if torch.compiler.is_exporting():
            return gathered_sum(past, future, self.w1, self.w2, *self.grid)
        return OffsetSum.apply(past, future, self.w1, self.w2, *self.grid)


def gathered_sum(past: Tensor, future: Tensor, w1: Tensor, w2: Tensor, h: int, w: int) -> Tensor:
    """Compute what `OffsetSum` does from the (n, n, D) tables of gathered vectors, for graphs: no memory is reused."""
    rows, columns = (torch.arange(size)[:, None] - torch.arange(size) + size - 1 for size in (h, w))
    offsets = (rows[:, None, :, None] * (2 * w - 1) + columns[None, :, None, :]).reshape(h * w, h * w)
    earlier, later = (maps @ table[offsets] for maps, table in ((past[..., None, :], w1), (future[..., None, :], w2)))
    return F.pad(earlier[..., 0, :], (0, 0, 0, 0, 1, 0)) + F.pad(later[..., 0, :], (0, 0, 0, 0, 0, 1))


def run_width(w: int) -> int:
    """Return how many query columns share a product: the largest divisor of w from 4 to 8, or w."""
    return next((c for c in range(min(w, 8), 3, -1) if w % c == 0), w)


def spread(maps: Tensor, h: int, w: int) -> Tensor:
    """Attention maps by offset instead of by key.

    Query columns come in runs of c, whose offsets to all keys are v = c + w - 1 columns of a table.

    Args:
        maps: (B, P, h*w, h*w), P pairs of frames.
        h: patch rows.
        w: patch columns.

    Returns:
        (w/c, h, P*B*c, h*v): run, query row; pair, clip and column; key row from the last and offset.
    """
    c, (b, pairs) = run_width(w), maps.shape[:2]
    maps = maps.reshape(b, pairs, h, w // c, c, h, w).flip(5, 6)  # keys counted from the last
    maps = maps.permute(3, 2, 1, 0, 4, 5, 6)  # (w/c, h, P, B, c, h, w)
    offsets = maps.new_zeros(w // c, h, pairs, b, c, h, c + w - 1)
    for j in range(c):  # offset qj-kj+w-1 = run*c + j + (w-1-kj)
        offsets[:, :, :, :, j, :, j : j + w] = maps[:, :, :, :, j]
    return offsets.flatten(5).flatten(2, 4)


class OffsetSum(torch.autograd.Function):
    """One product per run of query columns and query row, with its part of a table; the maps get no gradient."""

    @staticmethod
    def forward(ctx, past: Tensor, future: Tensor, w1: Tensor, w2: Tensor, h: int, w: int) -> Tensor:
        """Maps (B, T-1, h*w, h*w) and tables ((2h-1)*(2w-1), D) to vectors (B, T, h*w, D)."""
        ctx.save_for_backward(past, future)
        ctx.grid = h, w
        b, t, c = past.shape[0], past.shape[1] + 1, run_width(w)
        vectors = w1.new_zeros(w // c, h, t * b * c, w1.shape[-1])
        for maps, table, seen in ((past, w1, vectors[:, :, b * c :]), (future, w2, vectors[:, :, : -b * c])):
            parts = table.unflatten(0, (2 * h - 1, 2 * w - 1)).unfold(1, c + w - 1, c).permute(1, 0, 3, 2)
            for offsets, part, out in zip(spread(maps, h, w), parts.contiguous(), seen, strict=True):
                rows = part.unfold(0, h, 1).permute(0, 3, 1, 2).flatten(1, 2)  # (h, h*v, D), row offset qi-ki+h-1
                out.baddbmm_(offsets, rows)
        vectors = vectors.unflatten(2, (t, b, c)).permute(3, 2, 1, 0, 4, 5)  # (B, T, h, w/c, c, D)
        return vectors.flatten(2, 4)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[None, None, Tensor, Tensor, None, None]:  # type: ignore[override]
        """Gradients of the tables, summed in place."""
        (h, w), c, (b, _, _, dim) = ctx.grid, run_width(ctx.grid[1]), grad.shape
        grad = grad.unflatten(2, (h, w // c, c)).permute(3, 2, 1, 0, 4, 5).flatten(2, 4)  # (w/c, h, T*B*c, D)
        tables = grad.new_zeros(2, 2 * h - 1, 2 * w - 1, dim)
        for maps, table, seen in zip(
            ctx.saved_tensors, tables, (grad[:, :, b * c :], grad[:, :, : -b * c]), strict=True
        ):
            for run, offsets in enumerate(spread(maps, h, w)):
                part = grad.new_zeros(2 * h - 1, c + w - 1, dim)
                for qi in range(h):
                    part[qi : qi + h].flatten(0, 1).addmm_(offsets[qi].t(), seen[run, qi])
                table[:, run * c : run * c + c + w - 1] += part
        return None, None, *tables.flatten(1, 2), None, None
