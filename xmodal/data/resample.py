"""Resize, crop and flip clips in one step: only the pixels that are kept are computed.

A separable resize is a matrix for the rows and one for the columns, in which few entries are not zero: two taps
(bilinear) or four (bicubic) for each row of the result. A crop keeps some rows of these matrices and a flip reverses
them, so a crop of a resized frame has the values of the whole frame resized, without the frame being made. The products
are taken in short blocks along the diagonal, one frame at a time, which stays in the processor's cache.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from xmodal.registry import did_you_mean

INTERPOLATIONS = ("bicubic", "bilinear")
SHARPNESS = -0.75  # of the cubic kernel: torch's and OpenCV's, which are not antialiased
WINDOW = 32  # source rows or columns behind one block of the product, about
Box = tuple[int, int, int, int]  # top, left, height, width


def check_interpolation(name: str) -> str:
    """Return the name of a known interpolation.

    Raises:
        ValueError: another name.
    """
    if name not in INTERPOLATIONS:
        raise ValueError(f"no interpolation is called {name!r}; {did_you_mean(name, INTERPOLATIONS)}")
    return name


@lru_cache(maxsize=64)
def taps(source: int, target: int, interpolation: str) -> tuple[Tensor, list[int], list[int]]:
    """Weights of a resize along one side, as `torch.nn.functional.interpolate` has them (`align_corners=False`).

    Args:
        source: length of the side before.
        target: length of the side after.
        interpolation: `bicubic` or `bilinear`.

    Returns:
        Weights (target, source), and for each row the first and the last column that may not be zero.
    """
    place = (torch.arange(target, dtype=torch.float32) + 0.5) * (source / target) - 0.5
    first = place.floor()
    t = place - first
    if interpolation == "bilinear":
        parts, offsets = [1 - t, t], [0, 1]
    else:
        parts, offsets = [_far(t + 1), _near(t), _near(1 - t), _far(2 - t)], [-1, 0, 1, 2]
    columns = (first.long()[:, None] + torch.tensor(offsets)).clamp(0, source - 1)  # (target, taps)
    weights = torch.zeros(target, source).scatter_add_(1, columns, torch.stack(parts, 1))
    return weights, columns[:, 0].tolist(), columns[:, -1].tolist()


def _near(x: Tensor) -> Tensor:
    return ((SHARPNESS + 2) * x - (SHARPNESS + 3)) * x * x + 1


def _far(x: Tensor) -> Tensor:
    return ((SHARPNESS * x - 5 * SHARPNESS) * x + 8 * SHARPNESS) * x - 4 * SHARPNESS


@dataclass(frozen=True)
class _Side:
    """The product along one side in blocks, which read `low` to `high` of the source."""

    low: int
    high: int
    blocks: list[tuple[slice, slice, Tensor]]  # of the result, of the source from `low` on, weights

    @classmethod
    def of(cls, source: int, target: int, start: int, count: int, interpolation: str, mirrored: bool) -> "_Side":
        weights, first, last = taps(source, target, interpolation)
        step = max(4, min(WINDOW, round(WINDOW * target / source)))
        low, high, blocks = first[start], last[start + count - 1] + 1, []
        for at in range(0, count, step):
            rows = slice(start + at, start + min(at + step, count))
            span = slice(first[rows.start], last[rows.stop - 1] + 1)
            block, into = weights[rows, span], slice(at, at + rows.stop - rows.start)
            if mirrored:
                block, into = block.flip(0), slice(count - into.stop, count - into.start)
            blocks.append((into, slice(span.start - low, span.stop - low), block))
        return cls(low, high, blocks)


def resize_part(
    frames: Tensor,
    size: tuple[int, int],
    box: Box,
    mirrored: bool = False,
    interpolation: str = "bicubic",
    dtype: torch.dtype = torch.uint8,
) -> Tensor:
    """Compute a part of resized frames, not antialiased.

    Equals cutting `box` out of `torch.nn.functional.interpolate(frames.float(), size, mode=interpolation)`, but for the
    order in which the taps are added (1e-4 of 255); bytes are rounded from that.

    Args:
        frames: (N, C, H, W), in any memory layout.
        size: height and width of the whole frames after the resize.
        box: top, left, height and width of the part.
        mirrored: mirror the part.
        interpolation: `bicubic` or `bilinear`.
        dtype: `torch.uint8`: rounded and clamped to 0 to 255; `torch.float32`: neither.

    Returns:
        (N, C, height, width).
    """
    check_interpolation(interpolation)
    count, channels, height, width = frames.shape
    top, left, h, w = box
    rows = _Side.of(height, size[0], top, h, interpolation, mirrored=False)
    columns = _Side.of(width, size[1], left, w, interpolation, mirrored)
    out = torch.empty(count, channels, h, w, dtype=dtype)
    source = torch.empty(rows.high - rows.low, channels, columns.high - columns.low)
    tall, flat = torch.empty(h, source[0].numel()), source.flatten(1)  # (h, C * columns), (rows, C * columns)
    whole = torch.empty(h * channels, w)
    for frame, target in zip(frames[..., rows.low : rows.high, columns.low : columns.high], out, strict=True):
        source.copy_(frame.transpose(0, 1))  # (rows, C, columns)
        for into, span, weights in rows.blocks:
            torch.mm(weights, flat[span], out=tall[into])
        wide = tall.view(h * channels, -1)
        for into, span, weights in columns.blocks:
            torch.mm(wide[:, span], weights.T, out=whole[:, into])
        if dtype == torch.uint8:
            whole.round_().clamp_(0, 255)
        target.copy_(whole.view(h, channels, w).transpose(0, 1))
    return out


def pillow_part(
    frames: Tensor, size: tuple[int, int], box: Box, mirrored: bool = False, interpolation: str = "bicubic"
) -> Tensor:
    """Cut a part of frames (N, 3, H, W) uint8 resized as Pillow does, antialiased; see `resize_part`.

    The whole is resized: Pillow rounds the place of a part to float32, which moves up to 1 % of the pixels by one.
    """
    kind = Image.Resampling[check_interpolation(interpolation).upper()]
    top, left, h, w = box
    out = np.empty((len(frames), h, w, 3), np.uint8)
    for image, target in zip(frames.permute(0, 2, 3, 1).numpy(), out, strict=True):
        part = np.asarray(Image.fromarray(image).resize(size[::-1], kind))[top : top + h, left : left + w]
        target[...] = part[:, ::-1] if mirrored else part
    return torch.from_numpy(out).permute(0, 3, 1, 2)


@dataclass(frozen=True)
class LazyClip:
    """A clip whose resize, crop and flip are noted, to be computed together for the pixels that are kept.

    Args:
        frames: (T, 3, H, W) uint8.
        size: height and width of whole frames after the resize.
        box: top, left, height and width of what is kept of them.
        mirrored: whether what is kept is mirrored.
        resample: computes a part of the resized frames, of (frames, size, box, mirrored); None without a resize.
    """

    frames: Tensor
    size: tuple[int, int]
    box: Box
    mirrored: bool = False
    resample: Callable[[Tensor, tuple[int, int], Box, bool], Tensor] | None = None

    @classmethod
    def of(cls, frames: Tensor) -> "LazyClip":
        """Wrap frames to which nothing has been done."""
        height, width = frames.shape[-2:]
        return cls(frames, (height, width), (0, 0, height, width))

    @property
    def shape(self) -> tuple[int, int]:
        """Return height and width of what is kept."""
        return self.box[2:]

    def crop(self, top: int, left: int, height: int, width: int) -> "LazyClip":
        """Keep a box of what is kept so far."""
        left = self.box[3] - left - width if self.mirrored else left
        return replace(self, box=(self.box[0] + top, self.box[1] + left, height, width))

    def flip(self) -> "LazyClip":
        """Mirror what is kept."""
        return replace(self, mirrored=not self.mirrored)

    def resize(self, size: tuple[int, int], resample: Callable[..., Tensor]) -> "LazyClip":
        """Resize what is kept; a resize before it is computed first, since its pixels are rounded."""
        if self.shape == tuple(size):
            return self
        if self.resample is not None:
            return LazyClip.of(self.pixels()).resize(size, resample)
        top, left, h, w = self.box
        part = self.frames[..., top : top + h, left : left + w]
        return LazyClip(part, tuple(size), (0, 0, *size), self.mirrored, resample)  # type: ignore[arg-type]

    def pixels(self) -> Tensor:
        """Compute what is kept (T, 3, h, w); the frames themselves when nothing was done to them."""
        if self.resample is not None:
            return self.resample(self.frames, self.size, self.box, self.mirrored)
        top, left, h, w = self.box
        whole = (h, w) == tuple(self.frames.shape[-2:])
        part = self.frames if whole else self.frames[..., top : top + h, left : left + w]
        return part.flip(-1) if self.mirrored else part
