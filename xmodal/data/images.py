"""Image classification on files."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xmodal.data.annotations import IMAGES
from xmodal.data.broken import LabeledFiles
from xmodal.data.pictures import ImageError, read_picture, to_array
from xmodal.data.stores import Place
from xmodal.data.transforms import transformed
from xmodal.data.trouble import reading
from xmodal.registry import DATASETS, TRANSFORMS, build


def read_image(path: str | os.PathLike) -> Tensor:
    """Read a file as (1, 3, H, W) uint8 RGB.

    Raises:
        ImageError: a file that cannot be read, with the reason.
    """
    with reading(path, ImageError):
        pixels = to_array(read_picture(path))
    return torch.from_numpy(pixels)[None]  # (1, 3, H, W)


@DATASETS.register_module(name="images")
class ImageDataset(LabeledFiles):
    """Labeled image files.

    A file that cannot be read never stops a run by itself: it is logged once with its reason; in training another
    image, drawn from (seed, epoch, index), takes its place; in testing the item says that it was skipped. Past
    `max_broken` the run stops.

    Args:
        annotation: list file (`path label`), table with a head line, folder of classes, or JSON `{image: class}`;
            several classes a file make the set multi-label.
        root: folder the paths start from, tars, or either in a store; where the annotation lies when not given. See
            `stores.root_of`.
        format: `list`, `csv`, `folders`, `json` or `auto`.
        classes: class names by index, or a file of them; folders and JSON files know them by themselves.
        transforms: in order; each has `type` and its arguments and is called `(frames (1, 3, H, W), label, rng)`.
        test_mode: evaluation: float pixels, unreadable files skipped.
        seed: of everything random.
        max_broken: share of unreadable files that stops a run; five files are always allowed.

    Returns:
        Items `image` (3, H, W), RGB, uint8 in training and float32 of 0 to 255 in testing, not normalized; `label`;
        `sample_id`. Or, in testing, `skipped` and `reason`.

    Raises:
        ValueError: annotation, root, classes or arguments that do not fit, naming file and line.
    """

    noun = "image"
    damage = ImageError

    def __init__(
        self,
        annotation: Place,
        root: Place | None = None,
        format: str = "auto",  # noqa: A002
        classes: Sequence[str] | str | os.PathLike | None = None,
        transforms: Sequence[Any] = (),
        test_mode: bool = False,
        seed: int = 0,
        max_broken: float = 0.01,
    ) -> None:
        listing = IMAGES.read(annotation, root, format, classes)
        super().__init__(listing.samples, listing.classes, str(annotation), test_mode, seed, max_broken)
        self.transforms = [build(transform, TRANSFORMS) for transform in transforms]

    def test_item(self, index: int) -> dict[str, Any]:
        """Read one image for testing."""
        item = self.train_item(index, np.random.default_rng([self.seed, 0, index]))
        return {**item, "image": item["image"].float()}

    def train_item(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        """Read one image and transform it."""
        sample = self.samples[index]
        frames = read_image(sample.path)  # (1, 3, H, W)
        frames, label = transformed(self.transforms, frames, self.label_of(sample), rng)  # type: ignore[arg-type]
        return {"image": frames[0].contiguous(), "label": self.target(label), "sample_id": sample.sample_id}
