"""Test crops of clips; the training transforms are in `xmodal.data.transforms`.

The evaluation keeps float values after its resize, because rounding there moves the scores.
"""

import numpy as np
import torch
from torch import Tensor

from xmodal.data.resample import INTERPOLATIONS, resize_part
from xmodal.data.transforms import (
    Clip,
    HorizontalFlip,
    RandomCrop,
    RandomErasing,
    RandomResizedCrop,
    ShortSideJitter,
    short_side_size,
    to_bytes,
)
from xmodal.registry import TRANSFORMS

__all__ = [
    "SSV2_FLIP_PAIRS",
    "Clip",
    "HorizontalFlip",
    "RandomCrop",
    "RandomErasing",
    "RandomResizedCrop",
    "ShortSideJitter",
    "TestCrops",
    "crop_offsets",
    "short_side_size",
    "to_bytes",
]
SSV2_FLIP_PAIRS = ((86, 87), (93, 94), (166, 167))  # the class pairs of Something-Something v2 that a flip swaps


def crop_offsets(length: int, size: int, crops: int) -> list[int]:
    """Return where crops of `size` begin along a side of `length`: the middle, or both ends and the middle."""
    if crops not in (1, 3):
        raise ValueError(f"spatial views must be 1 (center) or 3 (both ends and center), got {crops!r}")
    margin = length - size
    return [margin // 2] if crops == 1 else [0, margin // 2, margin]


@TRANSFORMS.register_module(name="test_crops")
class TestCrops:
    """Resize the short side to `size`, then crop once or three times along the long side.

    Args:
        size: side of the square crops, pixels.
        crops: 1 for the center; 3 for left, center, right (top, center, bottom of upright videos).
        interpolation: `bicubic` (as ST-Adapter was released) or `bilinear` (as EVL was).
    """

    __test__ = False  # not a test case, whatever its name says to pytest

    def __init__(self, size: int = 224, crops: int = 1, interpolation: str = "bicubic") -> None:
        crop_offsets(size, size, crops)
        if interpolation not in INTERPOLATIONS:
            raise ValueError(f"interpolation must be one of {INTERPOLATIONS}, got {interpolation!r}")
        self.size, self.crops, self.interpolation = size, crops, interpolation

    def resized(self, frames: Tensor) -> Tensor:
        """Resize the short side of frames (N, 3, H, W); float32, neither rounded nor clamped.

        Of one crop only the center is computed.
        """
        height, width = frames.shape[-2:]
        size = short_side_size(height, width, self.size)
        if (height, width) == size:
            return frames.float()
        top, left = (crop_offsets(n, self.size, 1)[0] if self.crops == 1 else 0 for n in size)
        box = (top, left, self.size, self.size) if self.crops == 1 else (0, 0, *size)
        return resize_part(frames, size, box, False, self.interpolation, torch.float32)  # (N, 3, h, w)

    def __call__(self, frames: Tensor, views: np.ndarray | Tensor) -> Tensor:
        """Cut the views of a video.

        Args:
            frames: (N, 3, H, W) uint8 frames of the video, or what `resized` made of them.
            views: (V, T) for each temporal view the rows of `frames` it shows.

        Returns:
            (crops * V, T, 3, size, size) float32 of 0 to 255, spatial crops outermost.
        """
        images = self.resized(frames)
        height, width = images.shape[-2:]
        tops = crop_offsets(height, self.size, self.crops if height > width else 1)
        lefts = crop_offsets(width, self.size, self.crops if width >= height else 1)
        rows = torch.as_tensor(np.asarray(views))
        cuts = [images[..., y : y + self.size, x : x + self.size] for y in tops for x in lefts]
        return torch.cat([cut[rows] for cut in cuts])  # (crops*V, T, 3, S, S)
