"""S3DIS rooms: one `.npy` per room, or one folder per room with an array per attribute."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pointcloud.datasets.base import Cloud, CloudDataset, CloudError
from pointcloud.formats.scan import release_colors
from xmodal.data.lists import entries_of
from xmodal.registry import DATASETS

S3DIS_CLASSES = (
    "ceiling", "floor", "wall", "beam", "column", "window", "door", "table", "chair", "sofa", "bookcase", "board",
    "clutter",
)  # fmt: skip


@DATASETS.register_module(name="s3dis")
class S3DIS(CloudDataset):
    """Rooms with a class per point. The order of the classes is read from the data's own names file.

    Layouts: `<folder>/Area_*_*.npy` (P, 7) = x, y, z, r, g, b (0-255), label; or one folder per room,
    `Area_*/<room>/{coord,color,segment}.npy`.

    Args:
        root: folder of the data set.
        areas: areas to read, such as (1, 2, 3, 4, 6) or 5; None for all that are there.
        folder: of the rooms below the root (`trainval_fullarea`); "" for none.
        names: file with a class name per line, below the root; None for the usual order.
        ignore_label: label in the files of points that do not count; they get -1.
        repeat: how often a room comes in one epoch.
        **options: see `CloudDataset`.
    """

    def __init__(
        self,
        root: str,
        areas: Sequence[int] | int | None = None,
        folder: str = "trainval_fullarea",
        names: str | None = "list/s3dis_names.txt",
        ignore_label: int = 255,
        repeat: int = 1,
        **options: Any,
    ):
        base = Path(root) / folder if folder else Path(root)
        files = sorted(p for p in base.glob("Area_*.npy")) or sorted(p for p in base.glob("Area_*/*") if p.is_dir())
        if not files:
            raise ValueError(f"no Area_*_*.npy and no Area_*/<room>/ below {base}")
        wanted = None if areas is None else {f"Area_{a}" for a in np.atleast_1d(areas)}
        self.files = [p for p in files if wanted is None or area_of(p) in wanted]
        if not self.files:
            raise ValueError(f"no rooms of areas {areas} below {base}; there are {sorted({area_of(p) for p in files})}")
        self.files = self.files * repeat
        self.ignore_label = ignore_label
        classes = entries_of(Path(root) / names) if names else S3DIS_CLASSES
        super().__init__(
            [p.stem if p.is_file() else f"{p.parent.name}_{p.name}" for p in self.files], classes, **options
        )

    def load(self, index: int) -> Cloud:
        """Read one room."""
        path = self.files[index]
        if path.is_dir():
            coord, color, label = (
                np.load(path / f"{n}.npy", allow_pickle=False) for n in ("coord", "color", "segment")
            )
        else:
            table = np.load(path, allow_pickle=False)
            if table.ndim != 2 or table.shape[1] != 7:
                raise CloudError(f"{path.name} has shape {table.shape}, expected (P, 7): xyz, rgb, label")
            coord, color, label = table[:, :3], table[:, 3:6], table[:, 6]
        label = label.reshape(-1).astype(np.int64)
        return {
            "coord": coord.astype(np.float32),
            "feat": release_colors(color),
            "segment": np.where(label == self.ignore_label, -1, label),
        }


def area_of(path: Path) -> str:
    """`Area_5` of a room's file or folder."""
    name = path.name if path.is_file() else path.parent.name
    return "_".join(name.split("_")[:2])
