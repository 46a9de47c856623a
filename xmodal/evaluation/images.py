"""Labeled images of one split as training views or test views."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from xmodal.data.pictures import Folder, ImageError, center_crop, random_crop, read_picture, to_array
from xmodal.data.trouble import retried
from xmodal.evaluation.splits import SPLITS, Item
from xmodal.registry import DATASETS, build, did_you_mean


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
        """Read the whole image, RGB."""
        raise NotImplementedError

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        """Return the item of an index, or of an (epoch, index): the epoch moves everything random."""
        epoch, index = key if isinstance(key, tuple) else (0, key)
        try:
            picture = retried(lambda: self.read(index))
        except ImageError as error:
            return {"skipped": self.ids[index], "reason": str(error)}
        if self.augment:
            rng = np.random.default_rng([self.seed, epoch, index])
            view = random_crop(picture, self.size, rng, self.scale, self.flip)
        else:
            view = self.view(picture)
        return {"image": torch.from_numpy(to_array(view)), "label": self.labels[index], "sample_id": self.ids[index]}

    def view(self, picture: Image.Image) -> Image.Image:
        """Make the test view of a picture."""
        return center_crop(picture, self.size)


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
        self.folder = Folder(splits.image_dir)

    def read(self, index: int) -> Image.Image:
        """Read the whole image, RGB."""
        return read_picture(self.folder.read(self.ids[index]))
