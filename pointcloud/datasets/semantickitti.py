"""SemanticKITTI: `sequences/NN/velodyne/*.bin` and `labels/*.label`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pointcloud.datasets.base import Cloud, CloudDataset, CloudError
from pointcloud.datasets.objects import choose
from xmodal.registry import DATASETS

KITTI_CLASSES = (
    "unlabeled", "car", "bicycle", "motorcycle", "truck", "other-vehicle", "person", "bicyclist", "motorcyclist",
    "road", "parking", "sidewalk", "other-ground", "building", "fence", "vegetation", "trunk", "terrain", "pole",
    "traffic-sign",
)  # fmt: skip
# raw id -> class: moving things count as what they are, buses and trains as other vehicles, lane marks as road
LEARNING_MAP = {
    0: 0, 1: 0, 10: 1, 11: 2, 13: 5, 15: 3, 16: 5, 18: 4, 20: 5, 30: 6, 31: 7, 32: 8, 40: 9, 44: 10, 48: 11, 49: 12,
    50: 13, 51: 14, 52: 0, 60: 9, 70: 15, 71: 16, 72: 17, 80: 18, 81: 19, 99: 0, 252: 1, 253: 7, 254: 6, 255: 8, 256: 5,
    257: 5, 258: 4, 259: 5,
}  # fmt: skip
SEQUENCES = {"train": (0, 1, 2, 3, 4, 5, 6, 7, 9, 10), "val": (8,), "test": tuple(range(11, 22))}


@DATASETS.register_module(name="semantickitti")
class SemanticKITTI(CloudDataset):
    """Laser scans with a class per point; class 0 does not count (`ignore_label=0` for metrics and losses).

    Args:
        root: folder with `sequences`.
        split: `train`, `val` or `test`; the last one has no labels.
        **options: see `CloudDataset`.
    """

    bin_columns = ("x", "y", "z", "intensity")

    def __init__(self, root: str, split: str, **options: Any):
        sequences = SEQUENCES[choose("split", split, tuple(SEQUENCES))]
        folders = [Path(root) / "sequences" / f"{s:02d}" / "velodyne" for s in sequences]
        self.files = [p for folder in folders for p in sorted(folder.glob("*.bin"))]
        if not self.files:
            raise ValueError(f"no sequences/NN/velodyne/*.bin of {split} below {root}")
        self.labeled = split != "test"
        self.table = np.full(max(LEARNING_MAP) + 1, -1, np.int64)
        self.table[list(LEARNING_MAP)] = list(LEARNING_MAP.values())
        super().__init__([f"{p.parent.parent.name}/{p.stem}" for p in self.files], KITTI_CLASSES, **options)

    @classmethod
    def feature_names(cls, options: Mapping[str, Any]) -> tuple[str, ...]:
        """Return intensity."""
        return ("intensity",)

    def load(self, index: int) -> Cloud:
        """Read one scan."""
        path = self.files[index]
        raw = np.fromfile(path, dtype=np.float32)
        if len(raw) % 4:
            raise CloudError(f"{path.name} holds {len(raw)} numbers, no multiple of 4")
        points = raw.reshape(-1, 4)
        cloud = {"coord": points[:, :3].copy(), "feat": points[:, 3:].copy()}
        if not self.labeled:
            return cloud
        ids = np.fromfile(path.parent.parent / "labels" / f"{path.stem}.label", dtype=np.uint32) & 0xFFFF
        known = ids < len(self.table)
        segment = np.where(known, self.table[np.where(known, ids, 0)], -1)
        if (segment < 0).any():
            raise CloudError(f"raw label {int(ids[segment < 0][0])} is unknown to SemanticKITTI")
        return {**cloud, "segment": segment}
