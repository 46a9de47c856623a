"""Object clouds with one label each: ModelNet40 (two layouts), ScanObjectNN, few-shot episodes."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pointcloud.datasets.base import Cloud, CloudDataset, CloudError
from pointcloud.datasets.safe_files import cached, load_pickle
from xmodal.data.lists import entries_of
from xmodal.registry import DATASETS, did_you_mean

SCANOBJECTNN_CLASSES = (
    "bag", "bin", "box", "cabinet", "chair", "desk", "display", "door", "shelf", "table", "bed", "pillow", "sink",
    "sofa", "toilet",
)  # fmt: skip
SCANOBJECTNN_FILES = {
    "obj_bg": ("main_split", "{}_objectdataset.h5"),
    "obj_only": ("main_split_nobg", "{}_objectdataset.h5"),
    "pb_t50_rs": ("main_split", "{}_objectdataset_augmentedrot_scale75.h5"),
}


def choose(name: str, value: str, known: Sequence[str]) -> str:
    """`value`, which must be one of `known`.

    Raises:
        ValueError: it is not.
    """
    if value not in known:
        raise ValueError(f"{name}={value!r}: choose one of {', '.join(known)}; {did_you_mean(value, known)}")
    return value


def read_table(path: Path, columns: int) -> np.ndarray:
    """A comma-separated text file of numbers (P, columns), float32.

    Raises:
        CloudError: another number of columns, or no numbers.
    """
    try:
        table = np.loadtxt(path, delimiter=",", dtype=np.float32, ndmin=2)
    except (OSError, ValueError) as error:
        raise CloudError(f"{path} is not a table of numbers: {error}") from error
    if table.shape[1] != columns:
        raise CloudError(f"{path} has {table.shape[1]} columns, expected {columns}")
    return table


@DATASETS.register_module(name="modelnet40")
class ModelNet40(CloudDataset):
    """ModelNet40 as `modelnet40_normal_resampled`: `<class>/<id>.txt` with x, y, z and the normal, comma-separated.

    Classes are those of `modelnet40_shape_names.txt` in its order; `modelnet40_{train,test}.txt` list ids such as
    `airplane_0001`. Other sets in this layout (the built-in objects) name their files by `prefix`.

    Args:
        root: folder of the data set.
        split: `train` or `test`, or another list that is there.
        normals: give normals as features.
        prefix: of the three list files.
        cache: folder where parsed clouds are kept, or None.
        **options: see `CloudDataset`.
    """

    def __init__(
        self, root: str, split: str, normals: bool = False, prefix: str = "modelnet40", cache: str | None = None,
        **options: Any,
    ):  # fmt: skip
        self.root, self.normals, self.cache = Path(root), normals, cache
        classes = entries_of(self.root / f"{prefix}_shape_names.txt")
        ids = entries_of(self.root / f"{prefix}_{split}.txt")
        self.names = [re.sub(r"_[^_]+$", "", i) for i in ids]  # the class is the id without its last part
        unknown = sorted(set(self.names) - set(classes))
        if unknown:
            raise ValueError(
                f"{prefix}_{split}.txt names the class {unknown[0]!r}; {did_you_mean(unknown[0], classes)}"
            )
        super().__init__(ids, classes, **options)

    @classmethod
    def feature_names(cls, options: Mapping[str, Any]) -> tuple[str, ...]:
        """Return normals if they are asked for, else nothing."""
        return ("normal",) if options.get("normals") else ()

    @property
    def labels(self) -> list[int]:
        """Return the label of every cloud."""
        number = {name: i for i, name in enumerate(self.classes or ())}
        return [number[name] for name in self.names]

    def load(self, index: int) -> Cloud:
        """Read one text file."""
        path = self.root / self.names[index] / f"{self.sample_ids[index]}.txt"
        if not path.is_file():
            raise CloudError(f"no file at {path}")
        table = cached(self.cache, path, lambda: {"table": read_table(path, 6)})["table"]
        cloud = {"coord": table[:, :3], "label": self.classes.index(self.names[index])}  # type: ignore[union-attr]
        return {**cloud, "feat": table[:, 3:]} if self.normals else cloud


def open_h5(path: Path) -> Any:
    """An HDF5 file.

    Raises:
        ValueError: no such file, one that is not whole, or h5py is not installed.
    """
    try:
        import h5py
    except ImportError as error:
        raise ValueError("HDF5 files need h5py: pip install 'xmodal[points]'") from error
    if not path.is_file():
        raise ValueError(f"no file at {path}: is the root of the data set right?")
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise ValueError(f"{path} cannot be opened: {error}") from error


def read_h5(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Points (N, P, 3) and labels (N,) of an HDF5 file with `data` and `label`.

    Raises:
        ValueError: other contents.
    """
    with open_h5(path) as file:
        if not {"data", "label"} <= set(file):
            raise ValueError(f"{path} holds {sorted(file)}, expected data and label")
        data, label = np.asarray(file["data"], np.float32), np.asarray(file["label"]).reshape(-1).astype(np.int64)
    if data.ndim != 3 or data.shape[2] < 3 or len(data) != len(label):
        raise ValueError(f"{path}: data {data.shape} and label {label.shape} do not fit together")
    return data[..., :3], label


class ArrayClouds(CloudDataset):
    """Clouds that lie in one array (N, P, 3) with labels (N,)."""

    data: np.ndarray
    targets: np.ndarray

    @property
    def labels(self) -> list[int]:
        """Return the label of every cloud."""
        return self.targets.tolist()

    def load(self, index: int) -> Cloud:
        """One row of the array."""
        return {"coord": self.data[index].astype(np.float32, copy=True), "label": int(self.targets[index])}


@DATASETS.register_module(name="modelnet40_h5")
class ModelNet40H5(ArrayClouds):
    """ModelNet40 as `modelnet40_ply_hdf5_2048`: `shape_names.txt`, `train_files.txt`, `test_files.txt`, `*.h5`.

    Args:
        root: folder of the data set.
        split: `train` or `test`.
        **options: see `CloudDataset`.
    """

    def __init__(self, root: str, split: str, **options: Any):
        choose("split", split, ("train", "test"))
        files = [Path(root) / Path(line).name for line in entries_of(Path(root) / f"{split}_files.txt")]
        parts = [read_h5(path) for path in files]
        self.data, self.targets = (np.concatenate(column) for column in zip(*parts, strict=True))
        ids = [f"{p.stem}/{i}" for p, (_, label) in zip(files, parts, strict=True) for i in range(len(label))]
        super().__init__(ids, entries_of(Path(root) / "shape_names.txt"), **options)


@DATASETS.register_module(name="scanobjectnn")
class ScanObjectNN(ArrayClouds):
    """ScanObjectNN's HDF5 files; 15 classes. Its y axis points up; here z does, unless `keep_axes`.

    Args:
        root: folder with `main_split` and `main_split_nobg`.
        split: `train` or `test`.
        variant: `obj_bg`, `obj_only` or `pb_t50_rs`.
        keep_axes: leave y up, as the released code does.
        **options: see `CloudDataset`.
    """

    def __init__(self, root: str, split: str, variant: str = "pb_t50_rs", keep_axes: bool = False, **options: Any):
        folder, name = SCANOBJECTNN_FILES[choose("variant", variant, tuple(SCANOBJECTNN_FILES))]
        part = {"train": "training", "test": "test"}[choose("split", split, ("train", "test"))]
        path = Path(root) / folder / name.format(part)
        self.data, self.targets = read_h5(path)
        if not keep_axes:
            self.data = self.data[..., [0, 2, 1]] * np.array([1, -1, 1], np.float32)
        ids = [f"{path.stem}/{i}" for i in range(len(self.data))]
        super().__init__(ids, SCANOBJECTNN_CLASSES, **options)


@DATASETS.register_module(name="fewshot_clouds")
class FewShotClouds(CloudDataset):
    """One few-shot episode as Point-BERT stores it: `{way}way_{shot}shot/{fold}.pkl`.

    Args:
        root: folder of the episodes.
        way: classes, 5 or 10.
        shot: training clouds per class, 10 or 20.
        fold: 0 to 9.
        split: `train` or `test`.
        normals: give normals as features.
        **options: see `CloudDataset`.
    """

    def __init__(
        self, root: str, way: int, shot: int, fold: int, split: str, normals: bool = False, **options: Any
    ):  # fmt: skip
        path = Path(root) / f"{way}way_{shot}shot" / f"{fold}.pkl"
        if not path.is_file():
            raise ValueError(f"no episode at {path}")
        episode = load_pickle(path)
        choose("split", split, ("train", "test"))
        if not isinstance(episode, dict) or not {"train", "test"} <= episode.keys():
            raise ValueError(f"{path} is no episode: expected a dict with train and test")
        self.rows, self.normals = episode[split], normals
        if split == "train" and len(self.rows) != way * shot:
            raise ValueError(f"{path} holds {len(self.rows)} training clouds, expected {way} x {shot}")
        ids = [f"{way}way_{shot}shot/{fold}/{split}/{i}" for i in range(len(self.rows))]
        super().__init__(ids, [f"class {i}" for i in range(way)], **options)

    @classmethod
    def feature_names(cls, options: Mapping[str, Any]) -> tuple[str, ...]:
        """Return normals if they are asked for, else nothing."""
        return ("normal",) if options.get("normals") else ()

    @property
    def labels(self) -> list[int]:
        """Return the label of every cloud."""
        return [int(row[1]) for row in self.rows]

    def load(self, index: int) -> Cloud:
        """One cloud of the episode."""
        points, label = self.rows[index][:2]
        points = np.asarray(points, np.float32)
        if points.ndim != 2 or points.shape[1] < 3:
            raise CloudError(f"points have shape {points.shape}, expected (P, 3) or (P, 6)")
        cloud = {"coord": points[:, :3].copy(), "label": int(label)}
        return {**cloud, "feat": points[:, 3:6].copy()} if self.normals else cloud
