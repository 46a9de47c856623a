"""SUN RGB-D detection in VoteNet's layout: `<root>_{train,val}/000123_{pc.npz,bbox.npy}`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pointcloud.datasets.base import Cloud, CloudDataset, CloudError
from pointcloud.datasets.objects import choose
from pointcloud.datasets.scannet import asked_features, with_features
from xmodal.data.lists import entries_of
from xmodal.registry import DATASETS

SUNRGBD_CLASSES = (
    "bed", "table", "sofa", "chair", "toilet", "desk", "dresser", "night_stand", "bookshelf", "bathtub",
)  # fmt: skip


@DATASETS.register_module(name="sunrgbd")
class SUNRGBD(CloudDataset):
    """Single views with oriented boxes. The files hold HALF sizes; boxes here have full ones.

    Args:
        root: path of the folders without `_train` or `_val`.
        split: `train` or `val`, or `test` where there is such a folder (the built-in rooms).
        color: give colors (0..1) as features.
        height: give the height above the floor as a feature.
        classes: names by index, or a file with one per line; None for SUN RGB-D's 10.
        **options: see `CloudDataset`.
    """

    def __init__(
        self,
        root: str,
        split: str,
        color: bool = False,
        height: bool = False,
        classes: str | Sequence[str] | None = None,
        **options: Any,
    ):
        self.folder = Path(f"{root}_{choose('split', split, ('train', 'val', 'test'))}")
        scans = sorted(p.name.removesuffix("_pc.npz") for p in self.folder.glob("*_pc.npz"))
        if not scans:
            raise ValueError(f"no *_pc.npz below {self.folder}")
        self.color, self.height = color, height
        names = entries_of(classes) if isinstance(classes, str) else classes or SUNRGBD_CLASSES
        super().__init__(scans, names, **options)

    @classmethod
    def feature_names(cls, options: Mapping[str, Any]) -> tuple[str, ...]:
        """Return color and height as they are asked for."""
        return asked_features(options)

    def load(self, index: int) -> Cloud:
        """Read one view."""
        name = self.sample_ids[index]
        with np.load(self.folder / f"{name}_pc.npz", allow_pickle=False) as file:
            points = file["pc"]
        rows = np.load(self.folder / f"{name}_bbox.npy", allow_pickle=False).reshape(-1, 8)
        if points.ndim != 2 or points.shape[1] < 3:
            raise CloudError(f"points have shape {points.shape}, expected (P, 3) or (P, 6)")
        boxes = np.concatenate([rows[:, :3], 2 * rows[:, 3:6], rows[:, 6:7]], axis=1).astype(np.float32)
        cloud: Cloud = {
            "coord": points[:, :3].astype(np.float32),
            "boxes": boxes,
            "box_label": rows[:, 7].astype(np.int64),
        }
        return with_features(cloud, points[:, 3:6] if self.color else None, self.height)
