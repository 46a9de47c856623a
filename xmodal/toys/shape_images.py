"""Pictures of one drawn shape each, as labeled images of several domains."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from xmodal.evaluation.images import FewShotImages
from xmodal.evaluation.splits import SPLITS
from xmodal.registry import DATASETS, did_you_mean
from xmodal.toys.shapes import COLORS, SHAPES, SIZES, Thing, background, render

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
