"""Indoor scenes as Pointcept prepares them: a folder for each, with an array for each attribute."""

from pathlib import Path
from typing import Any

import numpy as np

from pointcloud.datasets.base import Cloud, CloudDataset, CloudError
from pointcloud.datasets.scannet import SCANNET_CLASSES
from pointcloud.formats.scan import release_colors
from xmodal.data.lists import entries_of
from xmodal.registry import DATASETS


@DATASETS.register_module(name="pointcept_scannet")
class PointceptScanNet(CloudDataset):
    """ScanNet or ScanNet200 as `<root>/{train,val}/scene*/{coord,color,segment20,segment200}.npy`.

    Args:
        root: folder of the data set.
        split: `train`, `val` or `test`.
        num_classes: 20, or 200 for ScanNet200.
        names: file with a class name per line; None for ScanNet's 20 names, and numbers in ScanNet200.
        repeat: how often a scene comes in one epoch.
        **options: see `CloudDataset`.

    Raises:
        ValueError: no scenes, or another number of names.
    """

    def __init__(
        self, root: str, split: str, num_classes: int = 20, names: str | None = None, repeat: int = 1, **options: Any
    ):
        found = sorted(p for p in (Path(root) / split).glob("scene*") if p.is_dir())
        if not found:
            raise ValueError(f"no folders scene* below {Path(root) / split}")
        self.folders, self.key = found * repeat, f"segment{num_classes}"
        own = SCANNET_CLASSES if num_classes == len(SCANNET_CLASSES) else [f"class {i}" for i in range(num_classes)]
        classes = own if names is None else entries_of(names)
        if len(classes) != num_classes:
            raise ValueError(f"{names} has {len(classes)} names, and num_classes is {num_classes}")
        super().__init__([p.name for p in self.folders], classes, **options)

    def load(self, index: int) -> Cloud:
        """Read one scene; points without a class get -1."""
        folder = self.folders[index]
        read = lambda name: np.load(folder / f"{name}.npy", allow_pickle=False)  # noqa: E731
        coord, color = read("coord").astype(np.float32), read("color")
        if color.shape != coord.shape:
            raise CloudError(f"{folder.name} has {color.shape} colors for {coord.shape} coordinates")
        cloud: Cloud = {"coord": coord, "feat": release_colors(color)}
        if (folder / f"{self.key}.npy").exists():
            segment = read(self.key).reshape(-1).astype(np.int64)
            cloud["segment"] = np.where((segment < 0) | (segment == 255), -1, segment)
        return cloud
