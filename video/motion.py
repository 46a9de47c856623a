"""Motion from attention: how the patches of a frame attend to those of its neighbours, as relative-offset vectors.

Paper: EVL (arXiv 2208.03550), temporal cross attention. Only w1 and w2 train: 2*(2h-1)*(2w-1)*D weights.
"""

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from xmodal.structures import Grid

SCORES_AT_ONCE = (2**26, 2**19)  # numbers, on an accelerator and on a CPU


def neighbour_attention(q: Tensor, k: Tensor) -> Tensor:
    """Head-averaged attention maps between patches of frame pairs.

    Args:
        q: queries (..., H, n, d).
        k: keys (..., H, n, d).

    Returns:
        (..., n, n), rows sum to one.
    """
    heads, n = q.shape[-3], q.shape[-2]
    pairs, lead = (q.flatten(0, -4), k.flatten(0, -4)), q.shape[:-3]
    at_once = max(1, SCORES_AT_ONCE[q.device.type == "cpu"] // (heads * n * n))
    maps = q.new_empty(len(pairs[0]), n, n, dtype=torch.float32)
    for i in range(0, len(maps), at_once):  # so few that a CPU's cache holds the scores
        a, b = (x[i : i + at_once].float() for x in pairs)
        maps[i : i + at_once] = ((a * a.shape[-1] ** -0.5) @ b.transpose(-1, -2)).softmax(-1).mean(-3)
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
        """How patches attend to the previous and to the next frame.

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
        return neighbour_attention(q[:, 1:], k[:, :-1]), neighbour_attention(q[:, :-1], k[:, 1:])

    def forward(self, maps: tuple[Tensor, Tensor]) -> Tensor:
        """Turn maps (B, T-1, n, n) into motion vectors (B, T, n, D); a single frame has no neighbour, and none."""
        pad = nn.functional.pad
        previous, following = (self.look(m, w) for m, w in zip(maps, (self.w1, self.w2), strict=True))  # (B, T-1, n, D)
        return pad(previous, (0, 0, 0, 0, 1, 0)) + pad(following, (0, 0, 0, 0, 0, 1))

    def look(self, maps: Tensor, table: Tensor) -> Tensor:
        """Vectors (B, T-1, n, D) of frame pairs."""
        vectors = weigh_offsets(maps.flatten(0, 1).to(table.dtype), table, *self.grid)
        return vectors.unflatten(0, maps.shape[:2])


def spread(maps: Tensor, h: int, w: int) -> Tensor:
    """Attention maps (P, h*w, h*w) by offset: for each query row (h, P*w, h*(2w-1)).

    The columns of a map are shifted so that they count offsets; then the keys of one query row need a contiguous run of
    the table.
    """
    maps = maps.unflatten(2, (h, w)).unflatten(1, (h, w)).flip(3, 4)  # (P, qi, qj, h-1-ki, w-1-kj)
    offsets = maps.new_zeros(len(maps), h, w, h, 2 * w - 1)
    for qj in range(w):  # offset qj-kj+w-1 = qj + (w-1-kj)
        offsets[:, :, qj, :, qj : qj + w] = maps[:, :, qj]
    return offsets.transpose(0, 1).reshape(h, -1, h * (2 * w - 1))


class OffsetSum(torch.autograd.Function):
    """One product per query row with its run of the table; keeps the maps alone, and they get no gradient."""

    @staticmethod
    def forward(ctx, maps: Tensor, table: Tensor, h: int, w: int) -> Tensor:
        """Maps (P, h*w, h*w) and a table ((2h-1)*(2w-1), D) to vectors (P, h*w, D)."""
        ctx.save_for_backward(maps)
        ctx.size, ctx.rows = (h, w), len(table)
        wide = 2 * w - 1
        offsets = spread(maps, h, w)
        rows = [offsets[qi] @ table[qi * wide : (qi + h) * wide] for qi in range(h)]  # row offset qi-ki+h-1
        return torch.stack(rows, 0).unflatten(1, (-1, w)).transpose(0, 1).flatten(1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[None, Tensor, None, None]:  # type: ignore[override]
        """Gradient of the table, summed in place."""
        (maps,), (h, w) = ctx.saved_tensors, ctx.size
        wide = 2 * w - 1
        offsets = spread(maps, h, w)
        grad = grad.unflatten(1, (h, w)).transpose(0, 1).flatten(1, 2)  # (h, P*w, D)
        table = grad.new_zeros(ctx.rows, grad.shape[-1])
        for qi in range(h):
            table[qi * wide : (qi + h) * wide].addmm_(offsets[qi].t(), grad[qi])
        return None, table, None, None


def weigh_offsets(maps: Tensor, table: Tensor, h: int, w: int) -> Tensor:
    """For each query sum the vectors of its offsets to all keys, weighted by its attention map.

    Args:
        maps: (P, h*w, h*w), rows are queries; without gradient.
        table: ((2h-1)*(2w-1), D), row (qi-ki+h-1)*(2w-1) + (qj-kj+w-1).
        h: patch rows.
        w: patch columns.

    Returns:
        (P, h*w, D).
    """
    return OffsetSum.apply(maps, table, h, w)
