"""Transforms of images and of the frames of clips, all frames of a clip alike.

A training transform is called `transform(frames, label, rng)` with uint8 frames (T, 3, H, W), one for an image, and
gives frames and label back; it draws from `rng` alone. Those that only resize, crop and flip are `Geometry`: a chain of
them (`transformed`) is computed at once, for the pixels that are kept.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xmodal.data.pictures import crop_shape
from xmodal.data.resample import LazyClip, check_interpolation, pillow_part, resize_part
from xmodal.registry import TRANSFORMS

Clip = tuple[Tensor, int]
Placed = tuple[LazyClip, int]
USUAL = 224  # pixels, outside a run, where no encoder says another size


def short_side_size(height: int, width: int, short_side: int) -> tuple[int, int]:
    """Height and width after a resize to `short_side`; the long side is rounded down."""
    if height < width:
        return short_side, width * short_side // height
    return height * short_side // width, short_side


def to_bytes(images: Tensor) -> Tensor:
    """Round floats of 0 to 255 to uint8."""
    return images.round().clamp(0, 255).to(torch.uint8)


class Geometry(ABC):
    """Base class of transforms that resize, crop and flip; subclasses note what they do in a `LazyClip`."""

    @abstractmethod
    def place(self, clip: LazyClip, label: int, rng: np.random.Generator) -> Placed:
        """Note the transform; the pixels are computed later."""

    def __call__(self, clip: Tensor, label: int, rng: np.random.Generator) -> Clip:
        """Transform the frames."""
        placed, label = self.place(LazyClip.of(clip), label, rng)
        return placed.pixels(), label


def transformed(transforms: Sequence[Any], frames: Tensor, label: int, rng: np.random.Generator) -> Clip:
    """Apply transforms in order; neighbors that only resize, crop and flip are computed together."""
    clip = LazyClip.of(frames)
    for transform in transforms:
        place: Callable[..., Placed] | None = getattr(transform, "place", None)
        if place is not None:
            clip, label = place(clip, label, rng)
        else:
            frames, label = transform(clip.pixels(), label, rng)
            clip = LazyClip.of(frames)
    return clip.pixels(), label


@TRANSFORMS.register_module(name="image_resize")
class Resize(Geometry):
    """Resize as Pillow does.

    Args:
        size: the short side in pixels, or (height, width); in a run the encoder's input size unless given.
        interpolation: `bicubic` or `bilinear`.
    """

    def __init__(self, size: int | Sequence[int] | None = None, interpolation: str = "bicubic") -> None:
        size = USUAL if size is None else size
        sides = [size] if isinstance(size, int) else list(size)
        if len(sides) not in (1, 2) or min(sides) < 1:
            raise ValueError(f"resize takes the short side or (height, width), in pixels, got {size!r}")
        self.sides, self.interpolation = sides, check_interpolation(interpolation)

    def place(self, clip: LazyClip, label: int, rng: np.random.Generator) -> Placed:
        """Resize the clip."""
        size = tuple(self.sides) if len(self.sides) == 2 else short_side_size(*clip.shape, self.sides[0])
        return clip.resize(size, partial(pillow_part, interpolation=self.interpolation)), label  # type: ignore[arg-type]


@TRANSFORMS.register_module(name="center_crop")
class CenterCrop(Geometry):
    """Cut the middle square.

    Args:
        size: side of the square, pixels; in a run the encoder's input size unless given.
    """

    def __init__(self, size: int | None = None) -> None:
        self.size = size or USUAL

    def place(self, clip: LazyClip, label: int, rng: np.random.Generator) -> Placed:
        """Crop the clip.

        Raises:
            ValueError: frames smaller than the square.
        """
        height, width = clip.shape
        if min(height, width) < self.size:
            raise ValueError(f"cannot cut {self.size} px from images of {height}x{width}; put image_resize before")
        y, x = round((height - self.size) / 2), round((width - self.size) / 2)
        return clip.crop(y, x, self.size, self.size), label


@TRANSFORMS.register_module(name="short_side_jitter")
class ShortSideJitter(Geometry):
    """Resize the short side to a random length.

    Args:
        low: shortest, pixels; in a run the encoder's input size unless given.
        high: longest, pixels, inclusive; in a run 258/224 of the encoder's input size unless given.
        interpolation: `bicubic` or `bilinear`.
    """

    def __init__(self, low: int | None = None, high: int | None = None, interpolation: str = "bicubic") -> None:
        low, high = low or USUAL, high or 258
        if not 0 < low <= high:
            raise ValueError(f"short-side jitter needs 0 < low <= high, got {low} and {high}")
        self.low, self.high, self.interpolation = low, high, check_interpolation(interpolation)

    def place(self, clip: LazyClip, label: int, rng: np.random.Generator) -> Placed:
        """Resize the clip."""
        side = int(rng.integers(self.low, self.high, endpoint=True))
        return clip.resize(
            short_side_size(*clip.shape, side), partial(resize_part, interpolation=self.interpolation)
        ), label


@TRANSFORMS.register_module(name="random_crop")
class RandomCrop(Geometry):
    """Cut a square anywhere.

    Args:
        size: side of the square, pixels; in a run the encoder's input size unless given.
        padding: pixels by which the border is repeated on every side before.

    Differs from the released code: the last position can be drawn too.
    """

    def __init__(self, size: int | None = None, padding: int = 0) -> None:
        self.size, self.padding = size or USUAL, padding

    def place(self, clip: LazyClip, label: int, rng: np.random.Generator) -> Placed:
        """Crop the clip."""
        if self.padding:
            rows, columns = (torch.arange(-self.padding, n + self.padding).clamp(0, n - 1) for n in clip.shape)
            clip = LazyClip.of(clip.pixels()[..., rows, :][..., columns])
        height, width = clip.shape
        if min(height, width) < self.size:
            raise ValueError(f"cannot cut {self.size} px from frames of {height}x{width}; put short_side_jitter before")
        y = int(rng.integers(0, height - self.size, endpoint=True))
        x = int(rng.integers(0, width - self.size, endpoint=True))
        return clip.crop(y, x, self.size, self.size), label


@TRANSFORMS.register_module(name="random_resized_crop")
class RandomResizedCrop(Geometry):
    """Cut a box of random area and shape and resize it to a square.

    Args:
        size: side of the square, pixels; in a run the encoder's input size unless given.
        area: least and greatest share of the frame's area.
        ratio: least and greatest width/height; drawn log-uniformly.
        interpolation: `bicubic` or `bilinear`.
        antialias: resize as Pillow does, for images; the clips of the video recipes are not antialiased.
    """

    def __init__(
        self,
        size: int | None = None,
        area: Sequence[float] = (0.08, 1.0),
        ratio: Sequence[float] = (3 / 4, 4 / 3),
        interpolation: str = "bicubic",
        antialias: bool = False,
    ) -> None:
        if not 0 < area[0] <= area[1] <= 1 or not 0 < ratio[0] <= ratio[1]:
            raise ValueError(f"need 0 < area[0] <= area[1] <= 1 and 0 < ratio[0] <= ratio[1], got {area} and {ratio}")
        self.size, self.area, self.ratio = size or USUAL, tuple(area), tuple(ratio)
        self.interpolation, self.antialias = check_interpolation(interpolation), antialias

    def box(self, height: int, width: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
        """Draw top, left, height and width of a box, see `crop_shape`; one that was not drawn lies in the middle."""
        w, h, drawn = crop_shape(width, height, self.area, self.ratio, rng)
        top, left = (height - h) // 2, (width - w) // 2
        if drawn:
            top, left = map(int, rng.integers(0, (height - h, width - w), endpoint=True))
        return top, left, h, w

    def place(self, clip: LazyClip, label: int, rng: np.random.Generator) -> Placed:
        """Crop and resize the clip."""
        resample = pillow_part if self.antialias else resize_part
        part = clip.crop(*self.box(*clip.shape, rng))
        return part.resize((self.size, self.size), partial(resample, interpolation=self.interpolation)), label


@TRANSFORMS.register_module(name="flip")
class HorizontalFlip(Geometry):
    """Mirror the clip.

    Args:
        prob: how often.
        label_pairs: classes that become each other when mirrored (`SSV2_FLIP_PAIRS`); none for sets without sides.
    """

    def __init__(self, prob: float = 0.5, label_pairs: Iterable[Sequence[int]] = ()) -> None:
        self.prob = _probability(prob)
        pairs = [(int(a), int(b)) for a, b in label_pairs]
        self.swap = dict(pairs) | {b: a for a, b in pairs}
        if len(self.swap) != 2 * len(pairs):
            raise ValueError(f"label_pairs must be pairs of different classes, none twice, got {pairs}")

    def place(self, clip: LazyClip, label: int, rng: np.random.Generator) -> Placed:
        """Mirror the clip and swap its label, or leave both."""
        if rng.random() >= self.prob:
            return clip, label
        if isinstance(label, tuple):  # of a multi-label set
            return clip.flip(), tuple(self.swap.get(y, y) for y in label)  # type: ignore[return-value]
        return clip.flip(), self.swap.get(label, label)


@TRANSFORMS.register_module(name="random_erasing")
class RandomErasing:
    """Cover one box, the same in all frames.

    Args:
        prob: how often.
        area: least and greatest share of the frame's area.
        ratio: least width/height (its inverse is the greatest).
        mode: `mean` fills with `mean`, `noise` with normal noise around it.
        mean: 0 to 255, RGB; CLIP's.
        std: of the noise, 0 to 255, RGB.
    """

    def __init__(
        self,
        prob: float = 0.25,
        area: Sequence[float] = (0.02, 1 / 3),
        ratio: float = 0.3,
        mode: str = "noise",
        mean: Sequence[float] = (122.771, 116.746, 104.093),
        std: Sequence[float] = (68.5, 66.632, 70.323),
    ) -> None:
        if mode not in ("mean", "noise"):
            raise ValueError(f"random erasing mode must be 'mean' or 'noise', got {mode!r}")
        self.prob, self.area, self.ratio, self.mode = _probability(prob), tuple(area), ratio, mode
        self.mean, self.std = (np.asarray(values, np.float32)[:, None, None] for values in (mean, std))

    def __call__(self, clip: Tensor, label: int, rng: np.random.Generator) -> Clip:
        """Cover a box of the clip, or leave it."""
        if rng.random() >= self.prob:
            return clip, label
        limits = (self.ratio, 1 / self.ratio)
        height, width = clip.shape[-2:]
        top, left, h, w = RandomResizedCrop(1, self.area, limits).box(height, width, rng)
        noise = rng.standard_normal((len(clip), 3, h, w), np.float32) * (self.std if self.mode == "noise" else 0)
        clip = clip.clone()
        clip[..., top : top + h, left : left + w] = to_bytes(torch.from_numpy(noise + self.mean))
        return clip, label


def _probability(prob: float) -> float:
    if not 0 <= prob <= 1:
        raise ValueError(f"prob must lie in 0 to 1, got {prob!r}")
    return prob
