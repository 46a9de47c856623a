"""Own clouds with one label each: lists, tables and folders of classes of any file that can be read."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pointcloud.datasets.base import Cloud, CloudDataset
from pointcloud.datasets.files import ENDINGS, read_cloud
from xmodal.data.annotations import Annotations
from xmodal.data.broken import renumbered
from xmodal.data.samples import Samples
from xmodal.data.stores import Place
from xmodal.registry import DATASETS

CLOUDS = Annotations("cloud", ENDINGS, json="list")


@DATASETS.register_module(name="own_clouds")
class OwnClouds(CloudDataset):
    """Labeled cloud files.

    Args:
        annotation: list file (`path label`), table with a head line, or folder of classes.
        root: folder the paths start from, tars, or either in a store; where the annotation lies when not given. See
            `stores.root_of`.
        format: `list`, `csv`, `folders` or `auto`.
        classes: class names by index, or a file of them.
        features: what a point has besides its coordinates: any of `color`, `normal`, `intensity`.
        columns: names of the columns of tables of points without names.
        unit: of the files' coordinates.
        up: the files' axis that points up.
        **options: see `CloudDataset`.
    """

    def __init__(
        self, annotation: Place, root: Place | None = None, format: str = "auto",  # noqa: A002
        classes: Sequence[str] | str | os.PathLike | None = None, features: Sequence[str] = (),
        columns: Sequence[str] | None = None, unit: str = "m", up: str | None = None, **options: Any,
    ):  # fmt: skip
        listing = CLOUDS.read(annotation, root, format, classes)
        if listing.multilabel:
            raise ValueError(f"{annotation} has several classes a cloud; clouds are classified into one")
        self.samples, self.features = Samples.of(listing.samples), tuple(features)
        self.how: dict[str, Any] = {"columns": columns, "unit": unit, "up": up}
        super().__init__([s.sample_id for s in self.samples], listing.classes, **options)
        self.source = str(annotation)

    @classmethod
    def feature_names(cls, options: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the features of a point that are asked for."""
        return tuple(options.get("features", ()))

    @property
    def labels(self) -> list[int]:
        """Return the labels in order."""
        return self.samples.labels()

    def adopt_classes(self, names: Sequence[str]) -> None:
        """Number the classes as another set does, by their names; see `LabeledFiles.adopt_classes`."""
        if self.classes is not None:
            new = renumbered(self.classes, names, self.source)
            self.samples, self.classes = self.samples.renumbered(new), list(names)

    def load(self, index: int) -> Cloud:
        """Read one file."""
        sample = self.samples[index]
        cloud = read_cloud(sample.path, **self.how)
        have = {"color": cloud.get("feat"), "normal": cloud.get("normal"), "intensity": cloud.get("intensity")}
        if lacking := [name for name in self.features if have.get(name) is None]:
            raise ValueError(f"{sample.path} has no {lacking[0]}")
        parts = [np.asarray(have[name], np.float32).reshape(len(cloud["coord"]), -1) for name in self.features]
        found: Cloud = {"coord": cloud["coord"], "label": sample.label}
        return {**found, "feat": np.concatenate(parts, axis=1)} if parts else found
