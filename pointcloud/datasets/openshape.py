"""The test clouds of OpenShape that Uni3D is evaluated on, with colors: ModelNet40, ScanObjectNN, Objaverse-LVIS."""

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from pointcloud.datasets.base import Cloud, CloudDataset, CloudError
from pointcloud.datasets.objects import choose
from pointcloud.datasets.safe_files import load_objects
from pointcloud.formats.scan import unit_colors
from xmodal.data.lists import entries_of, load_json
from xmodal.registry import DATASETS


@cache
def published() -> dict[str, Any]:
    """Return Uni3D's `templates` and its `labels` by data set, from the package data."""
    return json.loads(files("xmodal.assets").joinpath("cloud_names.json").read_text(encoding="utf-8"))


TEMPLATES: list[str] = published()["templates"]
AS_WRITTEN = [template.replace("{}", "{_}") for template in TEMPLATES]  # Objaverse-LVIS: names keep their underscores


class OpenShapeClouds(CloudDataset):
    """Base class of OpenShape's exports: clouds with colors in 0..1.

    Args:
        ids: names of the clouds.
        set_name: key of `labels` in the package data.
        targets: label of each cloud.
        swap_axes: exchange y and z, as OpenShape's own evaluation does.
        **options: see `CloudDataset`.
    """

    def __init__(self, ids: list[str], set_name: str, targets: list[int], swap_axes: bool = False, **options: Any):
        self.targets, self.swap_axes = targets, swap_axes
        super().__init__(ids, published()["labels"][set_name], **options)

    @property
    def labels(self) -> list[int]:
        """Return the label of every cloud."""
        return self.targets

    def points(self, index: int) -> Mapping[str, Any]:
        """Return `xyz` (P, 3) and perhaps `rgb` (P, 3) of a cloud."""
        raise NotImplementedError

    def load(self, index: int) -> Cloud:
        """Read one cloud; without colors it has no features."""
        found = self.points(index)
        if not isinstance(found, Mapping) or "xyz" not in found:
            raise CloudError("no xyz")
        coord = np.asarray(found["xyz"], np.float32)
        cloud = {"coord": coord[:, [0, 2, 1]] if self.swap_axes else coord, "label": self.targets[index]}
        if found.get("rgb") is None:
            return cloud
        color = unit_colors(np.asarray(found["rgb"]))
        return cloud if color is None else {**cloud, "feat": color}


@DATASETS.register_module(name="openshape_modelnet40")
class OpenShapeModelNet40(OpenShapeClouds):
    """`test_pc.npy` with a dict for each cloud, and `test_split.json` with its category.

    Args:
        root: folder of the two files.
        **options: see `OpenShapeClouds`.
    """

    def __init__(self, root: str, **options: Any):
        self.rows = list(load_objects(Path(root) / "test_pc.npy"))
        split = load_json(Path(root) / "test_split.json", list, "a list of {category}")
        if len(split) != len(self.rows):
            raise ValueError(f"{root}: test_pc.npy has {len(self.rows)} clouds and test_split.json {len(split)}")
        names = published()["labels"]["modelnet40"]
        targets = [names.index(choose("category", str(row["category"]).replace("_", " "), names)) for row in split]
        super().__init__([f"test/{i}" for i in range(len(split))], "modelnet40", targets, **options)

    def points(self, index: int) -> Mapping[str, Any]:
        """Return one row."""
        return self.rows[index]


@DATASETS.register_module(name="openshape_scanobjectnn")
class OpenShapeScanObjectNN(OpenShapeClouds):
    """`xyz_label.npy` with the arrays `xyz`, `label` and perhaps `rgb`.

    Args:
        root: folder of the file.
        **options: see `OpenShapeClouds`.
    """

    def __init__(self, root: str, **options: Any):
        self.content = load_objects(Path(root) / "xyz_label.npy")
        if not isinstance(self.content, Mapping) or not {"xyz", "label"} <= self.content.keys():
            raise ValueError(f"{root}/xyz_label.npy holds no xyz and label")
        targets = [int(label) for label in np.asarray(self.content["label"]).reshape(-1)]
        super().__init__([f"test/{i}" for i in range(len(targets))], "scanobjectnn", targets, **options)

    def points(self, index: int) -> Mapping[str, Any]:
        """Return one row of the arrays."""
        return {key: self.content[key][index] for key in ("xyz", "rgb") if self.content.get(key) is not None}


@DATASETS.register_module(name="objaverse_lvis")
class ObjaverseLVIS(OpenShapeClouds):
    """`lvis_testset.txt` with lines `number,name,model,path`; each path is an `.npy` file with a dict.

    Args:
        root: folder of the list; paths are below it.
        **options: see `OpenShapeClouds`.

    Raises:
        ValueError: a class that is not among the 1156.
    """

    def __init__(self, root: str, **options: Any):
        self.root = Path(root)
        rows = [line.split(",") for line in entries_of(self.root / "lvis_testset.txt")]
        wrong = [row for row in rows if len(row) != 4]
        if wrong:
            raise ValueError(f"{root}/lvis_testset.txt: expected number,name,model,path, got {','.join(wrong[0])!r}")
        names = published()["labels"]["objaverse_lvis"]
        number = {name: i for i, name in enumerate(names)}
        targets = [number[name] if name in number else choose("class", name, names) for _, name, *_ in rows]
        super().__init__([row[2] for row in rows], "objaverse_lvis", targets, **options)  # type: ignore[arg-type]
        self.paths = [row[3] for row in rows]

    def points(self, index: int) -> Mapping[str, Any]:
        """Read one file."""
        return load_objects(self.root / self.paths[index])
