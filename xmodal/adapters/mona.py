"""Mona: two bottlenecks a block with depth-wise filters of three sizes, made for dense tasks on Swin.

Paper: 5%>100%: Breaking Performance Shackles of Full Fine-Tuning on Visual Recognition Tasks (arXiv 2408.08345), CVPR
2025. On the residual stream x (H x W tokens of width D), with hidden width h = 64,
    p = W0 (LN(x) * gamma + x * gammax) + b0,  c = (dw3(p) + dw5(p) + dw7(p)) / 3 + p,  q = c + conv1x1(c)
    x -> x + W1 dropout(gelu(q)) + b1
behind attention's and behind the MLP's residual sum. Not the identity at the start. 2 * ((2*h + 5)*D + h*(h + 88))
weights a block. The release has Swin only; class, register and prompt tokens of a ViT skip the filters here (q = p).
"""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xmodal.encoders.sites import choose_blocks, place
from xmodal.registry import ADAPTERS, method
from xmodal.structures import Encoder, Grid, need_grid


class Mona(nn.Module):
    """x + up(dropout(gelu(filters(down(LN(x) * gamma + x * gammax))))), on tokens with a grid, or on a map.

    Args:
        dim: width D.
        hidden: width h between.
        kernels: edges of the depth-wise filters.
        dropout: in front of `up`, in training.

    At start: not the identity.
    Trains: all of it.
    """

    def __init__(self, dim: int, hidden: int = 64, kernels: Iterable[int] = (3, 5, 7), dropout: float = 0.1):
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=1e-5)
        self.gamma = nn.Parameter(torch.full((dim,), 1e-6))
        self.gammax = nn.Parameter(torch.ones(dim))
        self.down, self.up = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
        self.filters = nn.ModuleList(nn.Conv2d(hidden, hidden, k, padding=k // 2, groups=hidden) for k in kernels)
        self.mix = nn.Conv2d(hidden, hidden, 1)
        self.dropout = nn.Dropout(dropout)
        for linear in (self.down, self.up):
            nn.init.trunc_normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor, grid: Grid | None = None) -> Tensor:
        """Map tokens (B, N, D), or a map (B, D, H, W), to the same shape."""
        if x.ndim == 4:
            tokens = x.flatten(2).transpose(1, 2)
            return self(tokens, Grid(1, x.shape[2], x.shape[3], prefix=0)).transpose(1, 2).unflatten(2, x.shape[-2:])
        grid = need_grid(grid, "mona")
        p = self.down(self.norm(x) * self.gamma + x * self.gammax)  # (B, N, h)
        first, count = grid.prefix, grid.num_patches
        if count:
            maps = p[:, first : first + count].transpose(1, 2).unflatten(2, (grid.h, grid.w))
            patches = self.filter(maps).flatten(2).transpose(1, 2)
            p = torch.cat([p[:, :first], patches, p[:, first + count :]], dim=1)
        return x + self.up(self.dropout(F.gelu(p)))

    def filter(self, maps: Tensor) -> Tensor:
        """Depth-wise filters, averaged, then the mixing of channels: (B, h, H, W)."""
        c = sum(conv(maps) for conv in self.filters) / len(self.filters) + maps
        return c + self.mix(c)


@method(
    ADAPTERS,
    "mona",
    slot="adapter",
    paper="Mona: 5%>100%, Breaking Performance Shackles of Full Fine-Tuning (arXiv 2408.08345)",
    params="2*L*((2*h + 5)*D + h*(h + 88)), h = 64",
    parity=("mona",),
    families=("vit", "swin", "convnext"),
)
def mona(
    encoder: Encoder,
    hidden: int = 64,
    dropout: float = 0.1,
    blocks: int | Iterable[int] | None = None,
    name: str = "mona",
) -> list[nn.Module]:
    """Place two adapters in every block of a ViT or Swin, and one behind every block of a ConvNeXt.

    Args:
        encoder: a tower of blocks.
        hidden: width h; 64 in the release, whatever its argument says.
        dropout: inside the adapter, in training.
        blocks: None for all, a number n for the last n, or indices.
        name: the adapters' name at their sites.

    Raises:
        ValueError: a width below 1.
    """
    if hidden < 1:
        raise ValueError(f"mona: hidden must be at least 1, got {hidden}")
    return [
        place(block, site, name, Mona(width_of(block), hidden, dropout=dropout))
        for block in choose_blocks(encoder, blocks)
        for site in ("pre_mlp", "post")
        if hasattr(block, site)
    ]


def width_of(block: nn.Module) -> int:
    """Width of the stream behind a block."""
    return block.norm1.weight.shape[0] if hasattr(block, "norm1") else block.sizes("post").outs  # type: ignore
