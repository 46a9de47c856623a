"""Place learned prompts inside CLIP's towers: rows appended at the input, or replaced in front of a block."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from xmodal.encoders.sites import place
from xmodal.structures import Grid


class Appended(nn.Module):
    """Append prompts (n, V) behind the patches, in front of the tower's first norm.

    Args:
        owner: whose method gives them; known, not owned.
        values: from the owner to the prompts.
    """

    def __init__(self, owner: nn.Module, values: Callable[[Any], Tensor]):
        super().__init__()
        self.owner, self.values = (owner,), values

    def forward(self, x: Tensor, grid: Grid | None = None) -> Tensor:
        """Map (B, N, V) to (B, N + n, V)."""
        return torch.cat([x, self.values(self.owner[0]).to(x.dtype).expand(x.shape[0], -1, -1)], 1)


class Replaced(nn.Module):
    """Replace rows of the stream by prompts (n, W): those from `start` on, or the last ones.

    Args:
        owner: whose method gives them; known, not owned.
        values: from the owner to the prompts.
        start: first row replaced; None for the last n.
    """

    def __init__(self, owner: nn.Module, values: Callable[[Any], Tensor], start: int | None = None):
        super().__init__()
        self.owner, self.values, self.start = (owner,), values, start

    def forward(self, x: Tensor, grid: Grid | None = None) -> Tensor:
        """Map (B, N, W) to the same shape."""
        prompts = self.values(self.owner[0]).to(x.dtype)
        first = x.shape[1] - len(prompts) if self.start is None else self.start
        rows = prompts.expand(x.shape[0], -1, -1)
        return torch.cat([x[:, :first], rows, x[:, first + len(prompts) :]], 1)


def place_visual(tower: Any, owner: nn.Module, values: Sequence[Callable[[Any], Tensor]], name: str) -> None:
    """Append the first prompts at the input of an image tower; the others replace them in front of blocks 1, 2, ..."""
    place(tower, "embedded", name, Appended(owner, values[0]))
    for block, own in zip(list(tower.blocks)[1:], values[1:], strict=False):
        place(block, "pre_attn", name, Replaced(owner, own))


def place_text(tower: Any, owner: nn.Module, values: Sequence[Callable[[Any], Tensor]], name: str) -> None:
    """Replace the rows behind the start token in front of blocks 1, 2, ... of a text tower."""
    for block, own in zip(list(tower.blocks)[1:], values, strict=False):
        place(block, "pre_attn", name, Replaced(owner, own, start=1))


def splice(tower: Any, ids: Tensor, ctx: Tensor) -> Tensor:
    """Token embeddings (K, L, W) of ids (K, L) with a context (n, W) in the place of tokens 1 to n."""
    x = tower.embed(ids)
    return torch.cat([x[:, :1], ctx.to(x.dtype).expand(x.shape[0], -1, -1), x[:, 1 + len(ctx) :]], 1)


def first_context(tower: Any, ids: Tensor, count: int, from_words: bool) -> nn.Parameter:
    """A context (n, W): the embeddings of tokens 1 to n of the first class, or normal with std 0.02."""
    with torch.no_grad():
        words = tower.embed(ids[:1])[0, 1 : 1 + count]
    return nn.Parameter(words.clone() if from_words else torch.randn_like(words) * 0.02)


def check_depth(depth: int, count: int, blocks: int, what: str) -> None:
    """Refuse a depth of prompts that a tower does not have, and no prompt at all."""
    if not 1 <= depth <= blocks or count < 1:
        raise ValueError(f"{what}: depth {depth} of {count} prompts; give 1 to {blocks} blocks and at least 1 prompt")
