"""Learned bias of attention by the relative position of two patches (BEiT, arXiv 2106.08254)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from timm.layers import resize_rel_pos_bias_table
from torch import Tensor, nn

from xmodal.structures import Grid


class RelativeBias(nn.Module):
    """Give a bias for each pair of patches, and one each for class token to patch, patch to class token and itself.

    Args:
        num_heads: heads H.
        window: rows and columns of the grid that the table was made for; for another grid it is resized.
    """

    def __init__(self, num_heads: int, window: Sequence[int]):
        super().__init__()
        self.window = (int(window[0]), int(window[1]))
        self.table = nn.Parameter(torch.zeros(distances(*self.window) + 3, num_heads))

    def forward(self, grid: Grid, tokens: int) -> Tensor:
        """Return the bias (B or 1, H, tokens, tokens); tokens behind the patches have none.

        Raises:
            ValueError: registers, for which there is no bias.
        """
        if grid.prefix != 1:
            raise ValueError(f"a bias by relative position knows one class token, not {grid.prefix} prefix tokens")
        index = self.index(grid)
        bias = self.sized(grid.h, grid.w)[index].permute(0, 3, 1, 2)  # (B or 1, H, 1 + P, 1 + P)
        behind = tokens - bias.shape[-1]
        return F.pad(bias, (0, behind, 0, behind)) if behind else bias

    def sized(self, h: int, w: int) -> Tensor:
        """Return the table for a grid."""
        if (h, w) == self.window:
            return self.table
        shape = (distances(h, w) + 3, self.table.shape[1])
        return resize_rel_pos_bias_table(self.table, (h, w), shape, self.window)

    def index(self, grid: Grid) -> Tensor:
        """Return the rows of the table for each pair of tokens, (B or 1, 1 + P, 1 + P)."""
        device = self.table.device
        places = torch.arange(grid.h * grid.w, device=device)[None] if grid.kept is None else grid.kept.to(device)
        row, column = places // grid.w, places % grid.w
        down = row[:, :, None] - row[:, None] + grid.h - 1
        index = F.pad(down * (2 * grid.w - 1) + column[:, :, None] - column[:, None] + grid.w - 1, (1, 0, 1, 0))
        count = distances(grid.h, grid.w)
        index[:, 0], index[:, :, 0] = count, count + 1
        index[:, 0, 0] = count + 2
        return index


def distances(h: int, w: int) -> int:
    """Return how many relative positions two patches of a grid can have."""
    return (2 * h - 1) * (2 * w - 1)
