"""The convolutions of MS-CLIP-S: early stem, parallel branch, lateral adapters.

Paper: arXiv 2207.12661.
"""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from xmodal.encoders.sites import LayerNorm
from xmodal.structures import Grid


def conv_norm(cin: int, cout: int, kernel: int, stride: int = 1, eps: float = 1e-5, **options: int) -> nn.Sequential:
    """Convolution without bias, then BatchNorm."""
    options.setdefault("padding", kernel // 2)
    conv = nn.Conv2d(cin, cout, kernel, stride, bias=False, **options)  # type: ignore[arg-type]
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(conv, nn.BatchNorm2d(cout, eps=eps))


class ResidualConv(nn.Module):
    """ReLU(BN(conv 3x3) + shortcut); the shortcut is BN(conv 1x1) where the shape changes."""

    def __init__(self, cin: int, cout: int, stride: int):
        super().__init__()
        self.body = conv_norm(cin, cout, 3, stride)
        self.shortcut = conv_norm(cin, cout, 1, stride) if stride > 1 or cin != cout else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, h, w) to (B, C', h', w')."""
        return torch.relu(self.body(x) + self.shortcut(x))


class BranchBlock(nn.Module):
    """ReLU(1x1, 3x3, 1x1 at half the width + shortcut), BatchNorm eps 1e-6."""

    def __init__(self, cin: int, cout: int, stride: int):
        super().__init__()
        eps, mid = 1e-6, cout // 2
        self.body = nn.Sequential(
            conv_norm(cin, mid, 1, eps=eps),
            nn.ReLU(),
            conv_norm(mid, mid, 3, stride, eps),
            nn.ReLU(),
            conv_norm(mid, cout, 1, eps=eps),
        )
        self.shortcut = conv_norm(cin, cout, 1, stride, eps) if stride > 1 or cin != cout else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, h, w) to (B, C', h', w')."""
        return torch.relu(self.body(x) + self.shortcut(x))


class EarlyConv(nn.Module):
    """The stem in the place of visual layer 0: 3 channels to D/16, D/8, D/4, D/2, D.

    Args:
        dim: D.
        patch_size: total stride, a power of two up to 32.
        blocks: residual blocks a stage.
        kernel: edge of the first kernel.

    Raises:
        ValueError: a patch size that strides of two cannot make.
    """

    def __init__(self, dim: int, patch_size: int = 32, blocks: Sequence[int] = (1, 1, 1, 1), kernel: int = 3):
        super().__init__()
        halvings = patch_size.bit_length() - 2  # left to the stages behind the first convolution
        if patch_size != 2 ** (halvings + 1) or not 0 <= halvings <= len(blocks):
            raise ValueError(f"patch_size {patch_size}: the convolutional stem makes powers of two up to 32")
        width = dim // 2 ** len(blocks)
        self.first = conv_norm(3, width, kernel, 2)
        stages = []
        for i, count in enumerate(blocks):
            for j in range(count):
                stages.append(ResidualConv(width, 2 * width if j == 0 else width, 2 if j == 0 and i < halvings else 1))
                width = 2 * width if j == 0 else width
        self.stages = nn.Sequential(*stages)
        self.last = nn.Conv2d(width, dim, 1, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, 3, H, W) to (B, D, H/p, W/p)."""
        return self.last(self.stages(torch.relu(self.first(images))))


class ParallelBranch(nn.Module):
    """Convolutions on the raw image beside the transformer.

    Args:
        dims: width of every stage.
        patch_size: pixels of a patch.
        strides: patches' pixels over those of each stage's grid.
        blocks: bottlenecks a stage; the first stage is one convolution, with BatchNorm and ReLU.

    Raises:
        ValueError: strides that do not divide one another.
    """

    def __init__(self, dims: Sequence[int], patch_size: int, strides: Sequence[int], blocks: Sequence[int]):
        super().__init__()
        pixels = [1, *(patch_size // s for s in strides)]  # of a cell of each stage's grid
        steps = [b // a for a, b in itertools.pairwise(pixels)]
        if any(b % a or not b for a, b in itertools.pairwise(pixels)):
            raise ValueError(f"strides {list(strides)} of the branch do not lead to patches of {patch_size} pixels")
        self.first = nn.Sequential(*conv_norm(3, dims[0], 3, steps[0]), nn.ReLU())
        self.stages = nn.ModuleList()
        for i in range(1, len(dims)):
            self.stages.append(
                nn.Sequential(
                    *(
                        BranchBlock(dims[i] if j else dims[i - 1], dims[i], 1 if j else steps[i])
                        for j in range(blocks[i])
                    )
                )
            )

    def forward(self, images: Tensor) -> list[Tensor]:
        """Map images (B, 3, H, W) to one feature map a stage."""
        maps = [self.first(images)]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        return maps


class LateralAdapter(nn.Module):
    """Add a stage of the branch to the tokens: LN(conv(patches) + conv(stage)).

    Args:
        branch_dim: width of the stage.
        dim: width of the tokens.
        kernel: of the depthwise convolution that brings the stage onto the grid of patches.
        stride: of that convolution.
        padding: of that convolution.
        fuse_class_token: add the class token to itself, as released.
        norm_eps: of the LayerNorm.
    """

    def __init__(
        self, branch_dim: int, dim: int, kernel: int, stride: int, padding: int, fuse_class_token: bool, norm_eps: float
    ):
        super().__init__()
        self.down = conv_norm(branch_dim, branch_dim, kernel, stride, padding=padding, groups=branch_dim)
        self.widen = nn.Conv2d(branch_dim, dim, 1, bias=False)
        self.local = conv_norm(dim, dim, 3, groups=dim)
        self.norm = LayerNorm(dim, norm_eps)
        self.fuse_class_token = fuse_class_token

    def forward(self, tokens: Tensor, features: Tensor, grid: Grid) -> Tensor:
        """Map tokens (B, 1+h*w, D) and a map (B, C, h', w') to (B, 1+h*w, D)."""
        prefix, patches = tokens[:, : grid.prefix], tokens[:, grid.prefix :]
        patches = self.local(patches.transpose(1, 2).unflatten(2, (grid.h, grid.w)))  # (B, D, h, w)
        fused = (patches + self.widen(self.down(features))).flatten(2).transpose(1, 2)  # (B, h*w, D)
        prefix = 2 * prefix if self.fuse_class_token else prefix
        return self.norm(torch.cat([prefix, fused], dim=1))
