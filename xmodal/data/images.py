"""Image classification on files."""

import logging
import os
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from xmodal.data.image_lists import Sample, read_images
from xmodal.registry import DATASETS, TRANSFORMS, build

log = logging.getLogger("xmodal.data")
_ALWAYS_ALLOWED = 5  # broken files, however small the set
_ATTEMPTS = 50  # replacements tried for one training sample
_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)


class ImageError(RuntimeError):
    """A file that holds no image that can be read."""


class TooManyBrokenImagesError(RuntimeError):
    """More files of a set are unreadable than its `max_broken` allows."""


def read_image(path: str | os.PathLike) -> Tensor:
    """Read a file as (1, 3, H, W) uint8 RGB.

    Raises:
        ImageError: a file that cannot be read, with the reason.
    """
    try:
        with Image.open(path) as image:
            pixels = np.array(to_rgb(image))  # (H, W, 3)
    except _DAMAGE as error:
        raise ImageError(f"{type(error).__name__}: {error}") from error
    return torch.from_numpy(pixels).permute(2, 0, 1)[None]  # (1, 3, H, W)


def to_rgb(image: Image.Image) -> Image.Image:
    """Any image as RGB; 16-bit greys are scaled, not clipped."""
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) // 257).astype(np.uint8)).convert("RGB")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


@DATASETS.register_module(name="images")
class ImageDataset(Dataset):
    """Labelled image files.

    A file that cannot be read never stops a run by itself: it is logged once with its reason; in training another
    image, drawn from (seed, epoch, index), takes its place; in testing the item says that it was skipped. Past
    `max_broken` the run stops.

    Args:
        annotation: list file (`path label`), folder of classes, or JSON `{image: class}`.
        root: folder the paths start from; where the annotation lies when not given.
        format: `list`, `folders`, `json` or `auto`.
        classes: class names by index, or a file of them; folders and JSON files know them by themselves.
        transforms: in order; each has `type` and its arguments and is called `(frames (1, 3, H, W), label, rng)`.
        test_mode: evaluation: float pixels, unreadable files skipped.
        seed: of everything random.
        max_broken: share of unreadable files that stops a run; five files are always allowed.

    Returns:
        Items `image` (3, H, W), RGB, uint8 in training and float32 of 0 to 255 in testing, not normalised; `label`;
        `sample_id`. Or, in testing, `skipped` and `reason`.

    Raises:
        ValueError: annotation, root, classes or arguments that do not fit, naming file and line.
    """

    def __init__(
        self,
        annotation: str | os.PathLike,
        root: str | os.PathLike | None = None,
        format: str = "auto",  # noqa: A002
        classes: Sequence[str] | str | os.PathLike | None = None,
        transforms: Sequence[Any] = (),
        test_mode: bool = False,
        seed: int = 0,
        max_broken: float = 0.01,
    ) -> None:
        listing = read_images(annotation, root, format, classes)
        self.samples, self.classes = listing.samples, listing.classes
        self.annotation, self.test_mode, self.seed, self.max_broken = str(annotation), test_mode, seed, max_broken
        self.transforms = [build(transform, TRANSFORMS) for transform in transforms]
        # One flag per image, seen by all workers of all epochs: idempotent, so no lock is needed.
        self._broken = torch.zeros(len(self.samples), dtype=torch.bool).share_memory_()

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def num_classes(self) -> int:
        """How many classes there are: the names given, else the largest label and those below."""
        return len(self.classes) if self.classes else 1 + max(self.labels)

    @property
    def labels(self) -> list[int]:
        """Labels in order."""
        return [sample.label for sample in self.samples]

    @property
    def broken(self) -> list[str]:
        """Paths found unreadable so far, by any worker."""
        return [self.samples[i].path for i in self._broken.nonzero().flatten().tolist()]

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        """The item of an index, or of an (epoch, index): the epoch moves everything random."""
        epoch, index = key if isinstance(key, tuple) else (0, key)
        if not 0 <= index < len(self.samples):
            raise IndexError(f"{self.annotation} has images 0 to {len(self.samples) - 1}, asked for {index}")
        return self._test_item(index) if self.test_mode else self._train_item(epoch, index)

    def _test_item(self, index: int) -> dict[str, Any]:
        try:
            item = self._view(self.samples[index], np.random.default_rng([self.seed, 0, index]))
        except ImageError as error:
            self._note(index, error)
            return {"skipped": self.samples[index].sample_id, "reason": str(error)}
        return {**item, "image": item["image"].float()}

    def _train_item(self, epoch: int, index: int) -> dict[str, Any]:
        replacements = np.random.default_rng([self.seed, epoch, index, 1])
        for _ in range(_ATTEMPTS):
            if not self._broken[index]:
                try:
                    return self._view(self.samples[index], np.random.default_rng([self.seed, epoch, index]))
                except ImageError as error:
                    self._note(index, error)
            index = int(replacements.integers(len(self.samples)))
        raise TooManyBrokenImagesError(f"{self.annotation}: {_ATTEMPTS} images drawn in a row cannot be read")

    def _view(self, sample: Sample, rng: np.random.Generator) -> dict[str, Any]:
        frames, label = read_image(sample.path), sample.label  # (1, 3, H, W)
        for transform in self.transforms:
            frames, label = transform(frames, label, rng)
        return {"image": frames[0].contiguous(), "label": label, "sample_id": sample.sample_id}

    def _note(self, index: int, error: ImageError) -> None:
        if not self._broken[index]:
            log.warning("unreadable image %s: %s", self.samples[index].path, error)
        self._broken[index] = True
        count, allowed = int(self._broken.sum()), max(self.max_broken * len(self.samples), _ALWAYS_ALLOWED)
        if count > allowed:
            raise TooManyBrokenImagesError(
                f"{count} of {len(self.samples)} images of {self.annotation} cannot be read, the last is "
                f"{self.samples[index].path} ({error}); max_broken={self.max_broken:g} allows {int(allowed)}: mend or "
                "remove them, or raise max_broken"
            )
