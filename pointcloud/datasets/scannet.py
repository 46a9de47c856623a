"""ScanNet v2: segmentation (`.pth` per scene) and detection (VoteNet's export, or mmdet3d's info files)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pointcloud.datasets.base import Cloud, CloudDataset, CloudError
from pointcloud.datasets.mmdet3d_infos import read_infos
from pointcloud.datasets.safe_files import load_pth
from pointcloud.formats.scan import release_colors
from xmodal.data.lists import entries_of
from xmodal.registry import DATASETS

SCANNET_CLASSES = (
    "wall", "floor", "cabinet", "bed", "chair", "sofa", "table", "door", "window", "bookshelf", "picture", "counter",
    "desk", "curtain", "refrigerator", "shower curtain", "toilet", "sink", "bathtub", "otherfurniture",
)  # fmt: skip
SCANNET_NYU = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 14, 16, 24, 28, 33, 34, 36, 39)
DETECTION_CLASSES = (
    "cabinet", "bed", "chair", "sofa", "table", "door", "window", "bookshelf", "picture", "counter", "desk", "curtain",
    "refrigerator", "showercurtrain", "toilet", "sink", "bathtub", "garbagebin",
)  # fmt: skip
DETECTION_NYU = (3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 14, 16, 24, 28, 33, 34, 36, 39)


@DATASETS.register_module(name="scannet_segmentation")
class ScanNetSegmentation(CloudDataset):
    """Scenes as `<root>/{train,val}/scene*_inst_nostuff.pth`: coordinates, colors in [-1, 1], labels, ...

    Args:
        root: folder of the data set.
        split: `train`, `val` or `test`.
        nyu_labels: the files carry NYU40 ids (they are mapped); otherwise labels 0..19 and -100 or 255 for the rest.
        repeat: how often a scene comes in one epoch.
        **options: see `CloudDataset`.
    """

    def __init__(self, root: str, split: str, nyu_labels: bool = False, repeat: int = 1, **options: Any):
        self.files = sorted((Path(root) / split).glob("scene*.pth")) * repeat
        if not self.files:
            raise ValueError(f"no scene*.pth below {Path(root) / split}")
        self.nyu_labels = nyu_labels
        super().__init__([p.stem.removesuffix("_inst_nostuff") for p in self.files], SCANNET_CLASSES, **options)

    def load(self, index: int) -> Cloud:
        """Read one scene."""
        content = load_pth(self.files[index])
        if isinstance(content, dict):
            raise CloudError(
                f"{self.files[index].name} holds a dict of {', '.join(content)}, expected a tuple of arrays"
            )
        parts = [np.asarray(x) for x in content]
        if len(parts) < 2:
            raise CloudError(f"{self.files[index].name} holds {len(parts)} arrays, expected coordinates and colors")
        cloud = {"coord": parts[0].astype(np.float32), "feat": signed_colors(parts[1])}
        if len(parts) > 2:
            label = parts[2].reshape(-1).astype(np.int64)
            if self.nyu_labels:
                label = map_ids(label, SCANNET_NYU)
            elif ((label >= len(SCANNET_CLASSES)) & (label <= 40)).any():
                raise CloudError(f"labels up to {label[label <= 40].max()} are NYU40's: nyu_labels=True maps them")
            cloud["segment"] = np.where((label == -100) | (label == 255), -1, label)
        return cloud


def signed_colors(color: np.ndarray) -> np.ndarray:
    """Return the colors (P, 3) of a scene in 0..1: from [-1, 1], or from bytes where they are none of that."""
    signed = not color.size or np.abs(color).max() <= 1.01
    return (color.astype(np.float32) + 1) / 2 if signed else release_colors(color)


def map_ids(ids: np.ndarray, known: tuple[int, ...]) -> np.ndarray:
    """Positions of ids in `known`, -1 for the rest."""
    table = np.full(max(int(ids.max(initial=0)), *known) + 1, -1, np.int64)
    table[list(known)] = np.arange(len(known))
    return table[ids.clip(min=0)]


@DATASETS.register_module(name="scannet_detection")
class ScanNetDetection(CloudDataset):
    """Scenes as VoteNet exports them: `<scene>_{vert,ins_label,sem_label,bbox}.npy`, axis-aligned.

    Args:
        root: folder of the exported arrays.
        split_file: list of scenes (`scannetv2_train.txt`); scenes without exported points are left out and counted in
            `missing`.
        color: give colors (0..1) as features.
        height: give the height above the floor as a feature.
        **options: see `CloudDataset`.
    """

    def __init__(self, root: str, split_file: str, color: bool = False, height: bool = False, **options: Any):
        self.root, self.color, self.height = Path(root), color, height
        scenes = entries_of(split_file)
        there = [s for s in scenes if (self.root / f"{s}_vert.npy").is_file()]
        self.missing = sorted(set(scenes) - set(there))
        if not there:
            raise ValueError(f"none of the {len(scenes)} scenes of {split_file} has a <scene>_vert.npy below {root}")
        super().__init__(there, DETECTION_CLASSES, **options)

    @classmethod
    def feature_names(cls, options: Mapping[str, Any]) -> tuple[str, ...]:
        """Return color and height as they are asked for."""
        return asked_features(options)

    def load(self, index: int) -> Cloud:
        """Read one scene."""
        name = self.root / self.sample_ids[index]
        points = np.load(f"{name}_vert.npy", allow_pickle=False)
        boxes = np.load(f"{name}_bbox.npy", allow_pickle=False)
        boxes = boxes if boxes.size else np.zeros((0, 7))
        if points.ndim != 2 or points.shape[1] < 6 or boxes.ndim != 2 or boxes.shape[1] < 7:
            raise CloudError(f"points {points.shape} and boxes {boxes.shape}, expected (P, 6+) and (K, 7+)")
        label = map_ids(boxes[:, -1].astype(np.int64), DETECTION_NYU)
        boxes = np.concatenate([boxes[:, :6], np.zeros_like(boxes[:, :1])], axis=1).astype(np.float32)
        keep = label >= 0
        cloud: Cloud = {"coord": points[:, :3].astype(np.float32), "boxes": boxes[keep], "box_label": label[keep]}
        return with_features(cloud, release_colors(points[:, 3:6]) if self.color else None, self.height)


def asked_features(options: Mapping[str, Any]) -> tuple[str, ...]:
    """Return those of color and height that the options of a data set ask for."""
    return tuple(name for name in ("color", "height") if options.get(name))


def height_above_floor(coord: np.ndarray) -> np.ndarray:
    """Heights (P, 1) above the (nearly) lowest point."""
    z = coord[:, 2:]
    return z - np.percentile(z, 0.99).astype(np.float32)


def with_features(cloud: Cloud, color: np.ndarray | None, height: bool) -> Cloud:
    """Add colors and the height above the (nearly) lowest point as features."""
    parts = [] if color is None else [color.astype(np.float32)]
    if height:
        parts.append(height_above_floor(cloud["coord"]))
    return {**cloud, "feat": np.concatenate(parts, axis=1)} if parts else cloud


@DATASETS.register_module(name="mmdet3d_indoor")
class MMDet3DIndoor(CloudDataset):
    """Scenes listed in an mmdet3d info file, old or new: `points/*.bin` float32, boxes with or without yaw.

    Args:
        root: folder of the data set.
        info_file: `scannet_infos_train.pkl` and the like, below the root.
        classes: names by index; None for ScanNet's 18.
        align: turn points by the scene's `axis_align_matrix`.
        color: give colors (0..1) as features.
        height: give the height above the floor as a feature.
        clockwise: which way the yaw in the file turns; None for what its generation has (see `read_infos`).
        **options: see `CloudDataset`.
    """

    bin_columns = ("x", "y", "z", "red", "green", "blue")

    def __init__(
        self,
        root: str,
        info_file: str,
        classes: tuple[str, ...] | None = None,
        align: bool = True,
        color: bool = True,
        height: bool = False,
        clockwise: bool | None = None,
        **options: Any,
    ):
        self.root, self.align, self.color, self.height = Path(root), align, color, height
        names = classes or DETECTION_CLASSES
        self.infos = read_infos(self.root / info_file, names, clockwise)
        super().__init__([scene["name"] for scene in self.infos], names, **options)

    @classmethod
    def feature_names(cls, options: Mapping[str, Any]) -> tuple[str, ...]:
        """Return color and height as they are asked for."""
        return asked_features({"color": True, **options})

    def load(self, index: int) -> Cloud:
        """Read one scene."""
        info = self.infos[index]
        columns = info["columns"]
        path = next(
            (p for p in (self.root / info["points"], self.root / "points" / info["points"]) if p.exists()), None
        )
        raw = np.fromfile(path or self.root / info["points"], dtype=np.float32)
        if len(raw) % columns:
            raise CloudError(f"{info['points']} holds {len(raw)} numbers, no multiple of {columns} columns")
        points = raw.reshape(-1, columns)
        coord = points[:, :3].copy()
        if self.align and info["align"] is not None:
            coord = axis_align(coord, info["align"])
        cloud: Cloud = {"coord": coord, "boxes": info["boxes"].copy(), "box_label": info["label"].copy()}
        color = release_colors(points[:, 3:6]) if self.color and columns >= 6 else None
        return with_features(cloud, color, self.height)


def axis_align(coord: np.ndarray, matrix: Any) -> np.ndarray:
    """Points (P, 3) turned by a 4 x 4 matrix."""
    matrix = np.asarray(matrix, np.float64)
    return (coord @ matrix[:3, :3].T + matrix[:3, 3]).astype(np.float32)
