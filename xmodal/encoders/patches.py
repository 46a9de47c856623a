"""Cut images into patches: one convolution, or a convolution network; resize positions; find patches among tokens."""

import warnings
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xmodal.encoders.sites import Edits
from xmodal.structures import Grid


class PatchEmbed(nn.Module):
    """Cut images into patches, project each and normalize them if there is a norm. Site: `patch_embed`.

    Args:
        patch_size: pixels of a patch.
        dim: width D.
        bias: bias of the projection.
        pad: pad images to whole patches without a warning.
        norm: norm behind the projection, None for none.
        crop: leave out the pixels behind the last whole patch, instead of padding.
    """

    def __init__(
        self,
        patch_size: int,
        dim: int,
        bias: bool = True,
        pad: bool = False,
        norm: nn.Module | None = None,
        crop: bool = False,
    ):
        super().__init__()
        self.patch_size, self.pad, self.crop = patch_size, pad, crop
        self.proj = nn.Conv2d(3, dim, patch_size, stride=patch_size, bias=bias)
        self.norm = norm or nn.Identity()
        self.edits = Edits()

    def forward(self, images: Tensor) -> tuple[Tensor, int, int]:
        """Map images (B, 3, H, W) to patches (B, h*w, D), h and w; zeros complete the last patches."""
        down, right = (-images.shape[2]) % self.patch_size, (-images.shape[3]) % self.patch_size
        if (down or right) and not self.crop:
            if not self.pad:
                size = f"{images.shape[2]} x {images.shape[3]}"
                warnings.warn(f"images of {size} pixels are padded to whole patches of {self.patch_size}", stacklevel=2)
            images = F.pad(images, (0, right, 0, down))
        patches = self.proj(images)  # (B, D, h, w)
        h, w = patches.shape[-2:]
        return self.edits(self.norm(patches.flatten(2).transpose(1, 2)), images), h, w


class StemEmbed(nn.Module):
    """Take patches from the last map of a convolution network (hybrid ViTs, ViTamin, MobileCLIP). Site: `patch_embed`.

    Args:
        embed: timm's `HybridEmbed`, whose network and projection are taken over; the network has no sites.
    """

    def __init__(self, embed: Any):
        super().__init__()
        self.backbone, self.proj = embed.backbone, embed.proj
        self.edits = Edits()

    def forward(self, images: Tensor) -> tuple[Tensor, int, int]:
        """Map images (B, 3, H, W) to patches (B, h*w, D), h and w."""
        maps = self.backbone(images)
        patches = self.proj(maps[-1] if isinstance(maps, list | tuple) else maps)  # (B, D, h, w)
        h, w = patches.shape[-2:]
        return self.edits(patches.flatten(2).transpose(1, 2), images), h, w


def patches_of(tokens: Tensor, grid: Grid | None, start: int) -> Tensor:
    """Tokens from `start` up to the end of the patches, without prompts behind them.

    Raises:
        ValueError: images of several sizes share the grid.
    """
    if grid is None:
        return tokens[:, start:]
    if grid.valid is not None:
        raise ValueError("this reads the patches of whole grids: give images of one size")
    return tokens[:, start : grid.prefix + grid.num_patches]


@dataclass(frozen=True)
class PositionResize:
    """How a table of positions becomes one for another grid.

    Args:
        mode: `bicubic` or `bilinear`.
        antialias: as in `torch.nn.functional.interpolate`.
        align_corners: as there.
        square: resize to the square of the longer side, and cut (keeps the aspect ratio).
        grid: rows and columns of the table, None for those of the tower's own images.
    """

    mode: str = "bicubic"
    antialias: bool = True
    align_corners: bool = False
    square: bool = False
    grid: int | None = None


def resize_positions(positions: Tensor, prefix: int, h: int, w: int, how: PositionResize = PositionResize()) -> Tensor:
    """Resize position embeddings (1, prefix + g*g, D) to (1, prefix + h*w, D), bicubic with antialiasing by default."""
    own = round((positions.shape[1] - prefix) ** 0.5)
    table = positions[:, prefix:].unflatten(1, (own, own)).permute(0, 3, 1, 2)  # (1, D, g, g)
    size = (max(h, w),) * 2 if how.square else (h, w)
    table = F.interpolate(
        table.float(), size=size, mode=how.mode, antialias=how.antialias, align_corners=how.align_corners
    )[:, :, :h, :w]
    table = table.to(positions.dtype).flatten(2).transpose(1, 2)  # (1, h*w, D)
    return torch.cat([positions[:, :prefix], table], dim=1)
