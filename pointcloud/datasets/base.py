"""Base class of data sets of point clouds: seeded randomness, broken files, fixed shapes.

A cloud is a dict: `coord` (P, 3) float32 in meters, z up; `feat` (P, C) float32 (colors in 0..1, normals,
intensity); `segment` (P,) int64, -1 for points that do not count; `instance` (P,) int64; `label`, an int; `boxes`
(K, 7) float32 and `box_label` (K,) int64. Readers make clouds, transforms map cloud and generator to cloud.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from xmodal.data.broken import FileDataset
from xmodal.registry import TRANSFORMS, build

Cloud = dict[str, Any]
PER_POINT = ("coord", "feat", "normal", "intensity", "segment", "instance")


class CloudError(RuntimeError):
    """A cloud that cannot be used, and why."""


def reason_of(error: Exception) -> str:
    """Say in a library's words why a file cannot be read."""
    if isinstance(error, KeyError):
        return f"there is no {error}"
    return str(error) or f"{type(error).__name__} while it was read"


def check_cloud(cloud: Cloud, num_classes: int | None = None) -> Cloud:
    """Refuse a cloud that would spoil a run.

    Raises:
        CloudError: no points, coordinates or features that are not finite, columns of different lengths, labels out of
            range, boxes without extent.
    """
    coord = cloud["coord"]
    if coord.ndim != 2 or coord.shape[1] != 3:
        raise CloudError(f"coordinates have shape {coord.shape}, expected (P, 3)")
    if not len(coord):
        raise CloudError("no points")
    for key in PER_POINT:
        if key in cloud and len(cloud[key]) != len(coord):
            raise CloudError(f"{len(cloud[key])} rows of {key} for {len(coord)} points")
    for key, what in (
        ("coord", "coordinates"),
        ("feat", "features"),
        ("normal", "normals"),
        ("intensity", "intensity"),
    ):
        fine = np.isfinite(cloud.get(key, 0)).reshape(len(coord) if key in cloud else 1, -1).all(1)
        if not fine.all():
            raise CloudError(f"{int((~fine).sum())} of {len(coord)} points have {what} that are not finite")
    if num_classes is not None:
        check_labels(cloud, num_classes)
    boxes = cloud.get("boxes", np.ones((0, 7)))
    if not np.isfinite(boxes).all() or (boxes[:, 3:6] <= 0).any():
        raise CloudError("a box without extent, or with numbers that are not finite")
    return cloud


def check_labels(cloud: Cloud, num_classes: int) -> None:
    """Refuse labels that are no classes.

    Raises:
        CloudError: naming the range found.
    """
    for key, low in (("segment", -1), ("box_label", 0), ("label", 0)):
        values = np.atleast_1d(cloud.get(key, []))
        if len(values) and not low <= values.min() <= values.max() < num_classes:
            raise CloudError(f"{key} {values.min()}..{values.max()} is outside 0..{num_classes - 1}")


def select(cloud: Cloud, index: np.ndarray) -> Cloud:
    """The cloud with these points (indices or mask) only."""
    return {k: v[index] if k in PER_POINT else v for k, v in cloud.items()}


class CloudDataset(FileDataset):
    """Labeled clouds in files; subclasses list and read them.

    A file that cannot be read never stops a run by itself: it is logged once with its reason; in training another
    cloud, drawn from (seed, epoch, index), takes its place; in testing the item says that it was skipped. Past
    `max_broken` the run stops.

    Args:
        sample_ids: names of the clouds.
        classes: class names by index, or None.
        transforms: in order; each has `type` and its arguments.
        test_mode: skip broken clouds instead of replacing them.
        pad_to: pad clouds with fewer points to this many and say how many there are in `lengths`; clouds with more are
            an error of the recipe. None leaves them as they are (batches of one, or transforms that fix the number).
        max_boxes: pad boxes to this many and mark them in `box_mask`.
        seed: of everything random.
        max_broken: share of unreadable files that stops a run; five files are always allowed.

    Returns:
        Items: the cloud's arrays as tensors, `sample_id`, `coord_min` and `coord_max` (3,). Or, in testing, `skipped`
        and `reason`.
    """

    noun = "cloud"
    damage = CloudError
    bin_columns: tuple[str, ...] | None = None  # of the set's `.bin` files, for single ones to be read alike

    def __init__(
        self,
        sample_ids: Sequence[str],
        classes: Sequence[str] | None,
        transforms: Sequence[Any] = (),
        test_mode: bool = False,
        pad_to: int | None = None,
        max_boxes: int | None = None,
        seed: int = 0,
        max_broken: float = 0.01,
    ):
        if not sample_ids:
            raise ValueError(f"{type(self).__name__}: the list of clouds is empty")
        super().__init__(list(sample_ids), type(self).__name__, test_mode, seed, max_broken)
        self.sample_ids, self.classes = list(sample_ids), list(classes) if classes is not None else None
        self.transforms: list[Callable] = [build(t, TRANSFORMS) for t in transforms]
        self.pad_to, self.max_boxes = pad_to, max_boxes

    @classmethod
    def feature_names(cls, options: Mapping[str, Any]) -> tuple[str, ...]:
        """Return what `feat` of a cloud holds, in order, for a file to be given the same: color, normal, ...

        Args:
            options: of the data set in a config.
        """
        return ("color",)

    def load(self, index: int) -> Cloud:
        """Read one cloud.

        Raises:
            CloudError: it cannot be used.
        """
        raise NotImplementedError

    @property
    def ids(self) -> list[str]:
        """Return the names of the clouds."""
        return self.sample_ids

    @property
    def labels(self) -> list[int]:
        """Return the label of every cloud, without reading any.

        Raises:
            ValueError: a data set whose clouds have no single label.
        """
        raise ValueError(f"{type(self).__name__} has no labels of whole clouds: few-shot protocols need them")

    @property
    def num_classes(self) -> int | None:
        """Return the number of classes, None when the data do not say."""
        return None if self.classes is None else len(self.classes)

    def test_item(self, index: int) -> dict[str, Any]:
        """One finished sample for testing."""
        return self.train_item(index, np.random.default_rng([self.seed, 0, index]))

    def read(self, index: int) -> Cloud:
        """Read and check one cloud; whatever goes wrong in a file is a `CloudError`."""
        try:
            return check_cloud(self.load(index), self.num_classes)
        except (CloudError, ImportError):  # a library that is missing is missing for every file
            raise
        except Exception as error:  # every library has errors of its own for files that are not whole
            raise CloudError(reason_of(error)) from error

    def train_item(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        """One finished sample."""
        cloud = self.read(index)
        for transform in self.transforms:
            cloud = transform(cloud, rng)
        return finish(cloud, self.sample_ids[index], self.pad_to, self.max_boxes)


def finish(cloud: Cloud, sample_id: str, pad_to: int | None, max_boxes: int | None) -> dict[str, Any]:
    """A cloud as tensors of fixed shape.

    Raises:
        ValueError: more points or boxes than there is room for.
    """
    count = len(cloud["coord"])
    if pad_to is not None and count > pad_to:
        raise ValueError(f"{sample_id} has {count} points, more than pad_to={pad_to}: crop or sample in the transforms")
    item: dict[str, Any] = {
        "sample_id": sample_id,
        "coord_min": torch.from_numpy(cloud["coord"].min(0)),
        "coord_max": torch.from_numpy(cloud["coord"].max(0)),
    }
    for key in ("coord", "feat", "segment"):
        if key in cloud:
            array = np.ascontiguousarray(cloud[key])
            if pad_to is not None:
                fill = -1 if key == "segment" else 0
                array = np.pad(array, [(0, pad_to - count)] + [(0, 0)] * (array.ndim - 1), constant_values=fill)
            item[key] = torch.from_numpy(array)
    if pad_to is not None:
        item["lengths"] = count
    if "label" in cloud:
        item["label"] = int(cloud["label"])
    if "boxes" in cloud:
        item |= padded_boxes(cloud["boxes"], cloud["box_label"], max_boxes, sample_id)
    return item


def padded_boxes(boxes: np.ndarray, label: np.ndarray, room: int | None, sample_id: str) -> dict[str, torch.Tensor]:
    """Boxes (N, 7), labels (N,) and the mask (N,) of those that are real."""
    count = len(boxes)
    room = count if room is None else room
    if count > room:
        raise ValueError(f"{sample_id} has {count} boxes, more than max_boxes={room}")
    return {
        "boxes": torch.from_numpy(np.pad(boxes.astype(np.float32), [(0, room - count), (0, 0)])),
        "box_label": torch.from_numpy(np.pad(label.astype(np.int64), (0, room - count))),
        "box_mask": torch.arange(room) < count,
    }
