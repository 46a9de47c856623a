"""Convpass: convolutional bypasses beside attention and MLP.

Paper: Convolutional Bypasses Are Better Vision Transformer Adapters (arXiv 2207.07039). Identity at the start (the up
projection is zero). A bypass of width h has (2h+1)*D + 9*h^2 + 2*h weights.
"""

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xmodal.encoders.parts import QuickGELU
from xmodal.encoders.sites import choose_blocks, place, scale_behind, unscaled
from xmodal.registry import ADAPTERS, method
from xmodal.structures import Encoder, Grid, need_grid


class Bypass(nn.Module):
    """Down, 3x3 convolution on the grid of patches, up, beside an operation.

    Tokens that are no patches (class, registers, prompts) go through the same convolution as a map of one pixel: only
    its center acts on them.

    Args:
        dim: width D of the tokens.
        hidden: width h between.
        scale: the factor s of the bypass.
        dropout: before the up projection, in training.
        xavier_init: start the convolution from Xavier uniform instead of the identity kernel.
        layer_scale: the tower's scale of the operation's output, if it has one; it does not act on the bypass.

    At start: the identity.
    Trains: all of it.
    Differs from the released code: any width and grid; the norm before the operation is computed once.
    """

    def __init__(
        self,
        dim: int,
        hidden: int = 8,
        scale: float = 1.0,
        dropout: float = 0.1,
        xavier_init: bool = False,
        layer_scale: nn.Module | None = None,
    ):
        super().__init__()
        self.scale = scale
        self.behind = (layer_scale,)  # in a tuple: known, not owned
        self.down = nn.Linear(dim, hidden)
        self.conv = nn.Conv2d(hidden, hidden, 3, padding=1)
        self.up = nn.Linear(hidden, dim)
        self.act = QuickGELU()
        self.dropout = nn.Dropout(dropout)
        nn.init.xavier_uniform_(self.down.weight)
        if xavier_init:
            nn.init.xavier_uniform_(self.conv.weight)
        else:
            nn.init.zeros_(self.conv.weight)
            self.conv.weight.data[:, :, 1, 1] = torch.eye(hidden)
        for zero in (self.down.bias, self.conv.bias, self.up.weight, self.up.bias):
            assert zero is not None
            nn.init.zeros_(zero)

    def forward(self, y: Tensor, x: Tensor, grid: Grid | None = None) -> Tensor:
        """Add the bypass of the operation's input x (B, N, D) to its output y (B, N, D)."""
        u = self.convolve(self.act(self.down(x)), need_grid(grid, "convpass"))
        change = self.up(self.dropout(self.act(u))) * self.scale
        return y + unscaled(change, self.behind[0])

    def convolve(self, u: Tensor, grid: Grid) -> Tensor:
        """Convolve the patches of u (B, N, h) on their grid and the other tokens each by itself."""
        start, end = grid.prefix, grid.prefix + grid.num_patches
        others = torch.cat([u[:, :start], u[:, end:]], dim=1) if start or end < u.shape[1] else None
        if others is not None:
            others = F.linear(others, self.conv.weight[:, :, 1, 1], self.conv.bias)
        if start == end:
            return others if others is not None else u
        maps = u[:, start:end].transpose(1, 2).unflatten(2, (grid.h, grid.w))  # (B, h, H, W)
        patches = self.conv(maps).flatten(2).transpose(1, 2)  # (B, HW, h)
        return patches if others is None else torch.cat([others[:, :start], patches, others[:, start:]], dim=1)


@method(
    ADAPTERS,
    "convpass",
    slot="adapter",
    paper="Convolutional Bypasses Are Better Vision Transformer Adapters (arXiv 2207.07039)",
    params="sites * L * ((2h+1)*D + 9*h^2 + 2*h)",
    parity=("convpass",),
    families=("vit", "swin"),
)
def convpass(
    encoder: Encoder,
    hidden: int = 8,
    scale: float = 1.0,
    sites: Sequence[str] = ("attn", "mlp"),
    dropout: float = 0.1,
    xavier_init: bool = False,
    blocks: int | Iterable[int] | None = None,
    name: str = "convpass",
) -> list[nn.Module]:
    """Place convolutional bypasses in the blocks of an encoder.

    Args:
        encoder: a tower of blocks.
        hidden: width h of a bypass.
        scale: the factor s, tuned per task over 0.01 to 100 in the paper.
        sites: `attn`, `mlp` or both (attention only is the paper's smaller variant).
        dropout: before the up projection, in training.
        xavier_init: random convolutions at the start (the released code's choice for Swin).
        blocks: None for all, a number n for the last n, or indices.
        name: the bypasses' name at their sites.

    Raises:
        ValueError: another site.
    """
    sites = (sites,) if isinstance(sites, str) else tuple(sites)
    if not sites or any(site not in ("attn", "mlp") for site in sites):
        raise ValueError(f"convpass: sites must be attn and/or mlp, got {list(sites)}")
    return [
        place(block, site, name, Bypass(block.norm1.weight.shape[0], hidden, scale, dropout, xavier_init, behind))
        for block in choose_blocks(encoder, blocks)
        for site in sites
        for behind in [scale_behind(block, site)]
    ]
