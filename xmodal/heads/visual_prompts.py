"""Run an image tower with prompts that a head computes for each block.

Prompts stand behind the patches (attention does not care where), so grids stay true and adapters compose.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from xmodal.encoders.block import run_block
from xmodal.structures import Grid, need_grid

PromptOf = Callable[[int, Tensor], Tensor | None]


def run_prompted(encoder: Any, tokens: Tensor, grid: Grid | None, prompt_of: PromptOf) -> Tensor:
    """Run the blocks of a tower with prompts.

    Args:
        encoder: the tower.
        tokens: embedded tokens (B*T, N, D).
        grid: where the patches sit.
        prompt_of: from a block's index and the tokens without prompts (B*T, N, D) to the prompts (B*T or 1, P, D) that
            stand behind them in this block; None keeps what came out of the block before.

    Returns:
        The raw residual stream; its prefix tokens at least.
    """
    grid = need_grid(grid, "visual prompts")
    tokens = encoder.pre_blocks(tokens, grid)
    own = grid.prefix + grid.num_patches
    for i, block in enumerate(encoder.blocks):
        fresh = prompt_of(i, tokens[:, :own])
        if fresh is not None:
            tokens = torch.cat([tokens[:, :own], fresh.to(tokens.dtype).expand(tokens.shape[0], -1, -1)], dim=1)
        last = i == len(encoder.blocks) - 1 and encoder.pool_type == "token"
        tokens = run_block(block, tokens, grid, encoder.num_prefix if last else None, None, encoder.recompute)
    return tokens


def pooled(encoder: Any, tokens: Tensor, grid: Grid) -> Tensor:
    """The tower's feature (B, D_out) of a raw residual stream (B*T, N, D), averaged over frames."""
    feature = encoder.pool(encoder.norm(tokens, grid), grid)
    return feature.unflatten(0, (-1, grid.t)).mean(1)


@torch.no_grad()
def plain_feature(encoder: Any, tokens: Tensor, grid: Grid) -> Tensor:
    """The frozen tower's own feature (B, D_out) of embedded tokens (B*T, N, D)."""
    read = "prefix" if encoder.pool_type == "token" else "all"
    return pooled(encoder, encoder.forward_blocks(tokens, grid, read), grid)
