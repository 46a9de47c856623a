"""The sparse residual network with a feature pyramid that V-DETR's published detector stands on.

Papers: V-DETR (arXiv 2308.04409), MinkowskiEngine (arXiv 1904.08755). Residual stages at strides 4, 8, 16 and 32, and
back to stride 4, where every coarser stage is added to the finer one.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from pointcloud.sparse import SparseTensor
from pointcloud.sparse_layers import (
    SparseBasicBlock,
    SparseBatchNorm,
    SparseConv,
    SparseConvTranspose,
    SparseELU,
    SparseReLU,
)

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}


def elu(*layers: SparseConv, channels: int) -> nn.Sequential:
    """Return convolutions, each with its norm and ELU behind it."""
    parts: list[nn.Module] = []
    for layer in layers:
        parts += [layer, SparseBatchNorm(channels), SparseELU()]
    return nn.Sequential(*parts)


class SparseResNetFPN(nn.Module):
    """Residual stages down and a pyramid back up to stride 4.

    Args:
        in_channels: of the voxels (colors; with coordinates in V-DETR's recipe).
        depth: 34, or 18.
        widths: of the four stages; the first is that of the stem too.
        out_dim: channels of the result.

    Raises:
        ValueError: another depth.
    """

    def __init__(
        self,
        in_channels: int = 3,
        depth: int = 34,
        widths: Sequence[int] = (64, 128, 256, 512),
        out_dim: int = 256,
    ):
        super().__init__()
        if depth not in BLOCKS:
            raise ValueError(f"depth={depth}: there are {', '.join(map(str, BLOCKS))}")
        self.out_dim, before = out_dim, widths[0]
        self.conv1 = nn.Sequential(SparseConv(in_channels, before, 3, 2), SparseBatchNorm(before), SparseReLU())
        self.layers = nn.ModuleList()
        for width, count in zip(widths, BLOCKS[depth], strict=True):
            rest = [SparseBasicBlock(width) for _ in range(count - 1)]
            self.layers.append(nn.Sequential(SparseBasicBlock(width, before, 2), *rest))
            before = width
        self.up_blocks = nn.ModuleList(
            elu(SparseConvTranspose(coarse, fine, 2, 2), SparseConv(fine, fine), channels=fine)
            for fine, coarse in pairwise(widths)
        )
        self.out_block = elu(SparseConv(widths[0], out_dim), channels=out_dim)
        for conv in self.modules():
            if type(conv) is SparseConv:  # MinkowskiEngine's Kaiming rule, whose fan of a flat kernel is its first axis
                fan = conv.kernel[..., 0].numel() if conv.kernel.ndim == 2 else conv.kernel[:, 0].numel()
                nn.init.normal_(conv.kernel, std=math.sqrt(2 / fan))

    def forward(self, x: SparseTensor) -> SparseTensor:
        """Map voxels (N, C) at stride 1 to (M, D) at stride 4."""
        x, found = self.conv1(x), []
        for layer in self.layers:
            x = layer(x)
            found.append(x)
        for up, fine in zip(reversed(self.up_blocks), found[-2::-1], strict=True):
            x = up(x) + fine
        return self.out_block(x)
