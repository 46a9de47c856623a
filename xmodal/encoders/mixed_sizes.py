"""Embed images of several sizes in one batch: they share the smallest grid that holds all; padding is masked."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from xmodal.structures import Grid


def embed_together(tower: Any, images: Sequence[Tensor]) -> tuple[Tensor, Grid]:
    """Embed images (3, H_i, W_i), each with positions resized to its own grid, and pad them to one common grid.

    Args:
        tower: a `VisionTransformer`.
        images: normalized.

    Returns:
        Tokens (B, prefix + h*w, D), zero where there is padding, and a grid with `valid`.

    Raises:
        ValueError: a tower whose attention depends on the grid.
    """
    attn = tower.blocks[0].attn
    if attn.rotary is not None or attn.relative is not None:
        raise ValueError(
            f"{tower.name} has rotary positions or a bias by relative position, which belong to one grid: give images "
            f"of one size, or one image at a time"
        )
    alone = [tower.embed(image[None]) for image in images]
    h, w = max(g.h for _, g in alone), max(g.w for _, g in alone)
    prefix, dim = tower.num_prefix, alone[0][0].shape[-1]
    tokens = alone[0][0].new_zeros(len(alone), h, w, dim)
    valid = torch.zeros(len(alone), h, w, dtype=torch.bool, device=tokens.device)
    for i, (own, grid) in enumerate(alone):
        tokens[i, : grid.h, : grid.w] = own[0, prefix:].unflatten(0, (grid.h, grid.w))
        valid[i, : grid.h, : grid.w] = True
    first = torch.cat([own[:, :prefix] for own, _ in alone])
    return torch.cat([first, tokens.flatten(1, 2)], 1), Grid(1, h, w, prefix, valid=valid.flatten(1))


def seen(grid: Grid | None, tokens: int) -> Tensor | None:
    """Return which of the tokens are no padding, (B, tokens); None where all are."""
    if grid is None or grid.valid is None:
        return None
    front = grid.valid.new_ones(len(grid.valid), grid.prefix)
    behind = grid.valid.new_ones(len(grid.valid), tokens - grid.prefix - grid.valid.shape[1])
    return torch.cat([front, grid.valid, behind], 1)
