"""Labeled images for the few-shot protocols: files and drawn shapes, as one training view or one test view."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from xmodal.evaluation.splits import SPLITS, Item
from xmodal.registry import DATASETS, build, did_you_mean
from xmodal.toys.shapes import COLORS, SHAPES, SIZES, Thing, background, render


def crop_box(width: int, height: int, scale: Sequence[float], rng: np.random.Generator) -> tuple[int, int, int, int]:
    """A random box (left, top, right, bottom) with an area share in `scale` and a ratio between 3/4 and 4/3."""
    for _ in range(10):
        area = width * height * rng.uniform(scale[0], scale[1])
        ratio = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1))
            return left, top, left + w, top + h
    w, h = min(width, round(height * 4 / 3)), min(height, round(width * 4 / 3))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def training_view(image: Image.Image, size: int, scale: Sequence[float], flip: bool, rng: np.random.Generator) -> Any:
    """A random crop, resized (bicubic) to `size`, flipped half of the time where `flip`."""
    box = crop_box(*image.size, scale, rng)
    view = image.resize((size, size), Image.Resampling.BICUBIC, box=box)
    return view.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip and rng.uniform() < 0.5 else view


def test_view(image: Image.Image, size: int) -> Image.Image:
    """Short side resized (bicubic) to `size`, center crop."""
    w, h = image.size
    short = min(w, h)
    w, h = max(size, int(size * w / short)), max(size, int(size * h / short))
    if (w, h) != image.size:
        image = image.resize((w, h), Image.Resampling.BICUBIC)
    left, top = round((w - size) / 2), round((h - size) / 2)
    return image.crop((left, top, left + size, top + size))


class FewShotImages(Dataset):
    """Labeled images of one split.

    Args:
        labels: one an image.
        classes: names of the classes.
        ids: one an image.
        size: side of a view in pixels.
        augment: True for a training view, drawn from (seed, epoch, index); False for the test view.
        scale: area share of the training crop; (0.08, 1) in the CoOp family, (0.5, 1) in Tip-Adapter and CaFo.
        flip: mirror half of the training views.
        seed: of the training views.

    Returns:
        Items `image` (3, size, size) u8 RGB, `label`, `sample_id`.
    """

    def __init__(
        self,
        labels: Sequence[int],
        classes: Sequence[str],
        ids: Sequence[str],
        size: int = 224,
        augment: bool = False,
        scale: Sequence[float] = (0.08, 1.0),
        flip: bool = True,
        seed: int = 0,
    ):
        if not 0 < scale[0] <= scale[1] <= 1:
            raise ValueError(f"scale={tuple(scale)}: area shares lie between 0 and 1, the smaller one first")
        self.labels, self.classes, self.ids = list(labels), list(classes), list(ids)
        self.size, self.augment, self.scale, self.flip, self.seed = size, augment, tuple(scale), flip, seed

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> Image.Image:
        """The whole image, RGB."""
        raise NotImplementedError

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        """The item of an index, or of an (epoch, index): the epoch moves everything random."""
        epoch, index = key if isinstance(key, tuple) else (0, key)
        try:
            image = self.read(index)
        except OSError as error:
            return {"skipped": self.ids[index], "reason": str(error)}
        if self.augment:
            rng = np.random.default_rng([self.seed, epoch, index])
            view = training_view(image, self.size, self.scale, self.flip, rng)
        else:
            view = test_view(image, self.size)
        pixels = torch.from_numpy(np.array(view)).permute(2, 0, 1).contiguous()  # (3, S, S)
        return {"image": pixels, "label": self.labels[index], "sample_id": self.ids[index]}


@DATASETS.register_module(name="listed_images")
class ListedImages(FewShotImages):
    """Image files of one split of a split file.

    Args:
        splits: from `read_coop`, `read_split_file` and their like, or the config of such a call.
        split: `train`, `val` or `test`.
        **view: see `FewShotImages`.

    Raises:
        ValueError: an unknown split.
    """

    def __init__(self, splits: Any, split: str, **view: Any):
        splits = build(splits, DATASETS)
        if split not in SPLITS:
            raise ValueError(f"no split is called {split!r}; {did_you_mean(split, SPLITS)}")
        items: list[Item] = getattr(splits, split)
        super().__init__([i.label for i in items], splits.class_names, [i.path for i in items], **view)
        self.folder = Path(splits.image_dir)

    def read(self, index: int) -> Image.Image:
        """The whole image, RGB."""
        with Image.open(self.folder / self.ids[index]) as image:
            return image.convert("RGB")


STYLES = ("plain", "gray", "negative", "noisy")


@DATASETS.register_module(name="shape_images")
class ShapeImages(FewShotImages):
    """Drawn pictures of one colored shape each; nothing is read from disk.

    The shipped tiny CLIP has seen such pictures in pretraining: figures on them say that the code works, and nothing
    about natural images.

    Args:
        split: `train`, `val` or `test`: other pictures each.
        per_class: pictures of each class.
        shapes: see `xmodal.toys.shapes.SHAPES`.
        colors: see `xmodal.toys.shapes.COLORS`; a class is a color and a shape.
        style: `plain`, or `gray`, `negative`, `noisy`: other domains.
        size: side in pixels.
        **view: see `FewShotImages`.

    Raises:
        ValueError: an unknown split, shape, color or style.
    """

    def __init__(
        self,
        split: str = "train",
        per_class: int = 32,
        shapes: Sequence[str] = SHAPES,
        colors: Sequence[str] = ("red", "blue"),
        style: str = "plain",
        size: int = 48,
        **view: Any,
    ):
        for word, known in (
            (split, SPLITS),
            (style, STYLES),
            *((s, SHAPES) for s in shapes),
            *((c, COLORS) for c in colors),
        ):
            if word not in known:
                raise ValueError(f"shape images know no {word!r}; {did_you_mean(word, known)}")
        self.pairs = tuple((c, s) for c in colors for s in shapes)
        self.style, self.split, self.pixels = style, split, size
        labels = [k for k in range(len(self.pairs)) for _ in range(per_class)]
        ids = [f"{style}/{split}/{i:05d}" for i in range(len(labels))]
        super().__init__(labels, [f"{c} {s}" for c, s in self.pairs], ids, size=size, **view)

    def read(self, index: int) -> Image.Image:
        """The picture; it depends on split and index alone, the style changes its pixels."""
        rng = np.random.default_rng([20, SPLITS.index(self.split), index])
        color, shape = self.pairs[self.labels[index]]
        low, high = list(SIZES.values())[rng.integers(len(SIZES))]
        size = rng.uniform(low, high)
        x, y = rng.uniform(size / 2, 1 - size / 2, 2)
        thing = Thing(shape, color, x, y, size, angle=rng.uniform(-0.55, 0.55), shade=rng.uniform(-18, 18))
        pixels = render((thing,), background(rng, self.pixels), rng.uniform(0, 6), rng)
        return Image.fromarray(restyle(pixels, self.style, rng))


def restyle(pixels: np.ndarray, style: str, rng: np.random.Generator) -> np.ndarray:
    """A picture (H, W, 3) u8 in another domain."""
    if style == "gray":
        return np.repeat(pixels.mean(-1, keepdims=True), 3, -1).astype(np.uint8)
    if style == "negative":
        return 255 - pixels
    if style == "noisy":
        return np.clip(pixels + rng.normal(0, 40, pixels.shape), 0, 255).astype(np.uint8)
    return pixels
