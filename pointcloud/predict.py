"""Predict cloud files: labels, classes of points, boxes, and a page to look at."""

import contextlib
import json
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.device import get_device
from torch import Tensor

from pointcloud.datasets.base import Cloud, CloudDataset, CloudError
from pointcloud.datasets.files import read_cloud
from pointcloud.datasets.scannet import height_above_floor
from pointcloud.page import write_page
from pointcloud.task import Progress
from xmodal.engine.checkpoint import load_weights
from xmodal.engine.precision import autocast
from xmodal.engine.predict import ahead
from xmodal.registry import DATASETS, MODELS, TRANSFORMS, build, resolve

QUIET = ("file", "page", "label", "segment", "labeled", "mesh", "scores", "top", "notes", "coordinates", "points")


def load_model(cfg: Config, checkpoint: str) -> tuple[Any, list[str]]:
    """Load the model of a config with trained weights, and the names of its classes."""
    model = build(cfg.model, MODELS).to(get_device()).eval()
    names = load_weights(model, checkpoint).get("classes") or []
    return model, list(names)


def test_set(cfg: Config) -> tuple[Any, dict[str, Any]]:
    """Return the class of the config's test data and its options."""
    options = dict(cfg.test_dataloader.dataset)
    kind = options.pop("type", None)
    return (resolve(kind, DATASETS) if kind is not None else CloudDataset), options


def feature_names(cfg: Config) -> tuple[str, ...]:
    """Return what the config's test data give as features of a point."""
    kind, options = test_set(cfg)
    ask = getattr(kind, "feature_names", CloudDataset.feature_names)
    return ask(options)


def fit_features(cloud: Cloud, wanted: int, names: Sequence[str] = ("color",), gray: float | None = None) -> Cloud:
    """Give a cloud the features that the network was trained with.

    Args:
        cloud: from `read_cloud`.
        wanted: how many the network takes.
        names: what they are, see `feature_names`.
        gray: color of a file that has none, where the network can do without.

    Raises:
        ValueError: the file does not have them.
    """
    if gray is not None:
        names = names or ("color",)
        if cloud.get("feat") is None:
            cloud = {**cloud, "feat": np.full_like(cloud["coord"], gray)}
    if not wanted:
        return {k: v for k, v in cloud.items() if k != "feat"}
    have = {"color": cloud.get("feat"), "normal": cloud.get("normal"), "intensity": cloud.get("intensity")}
    if "height" in names:
        have["height"] = height_above_floor(cloud["coord"])
    missing = [name for name in names if have.get(name) is None]
    parts = [] if missing else [have[name].reshape(len(cloud["coord"]), -1) for name in names]  # type: ignore
    feat = np.concatenate([*parts, np.zeros((len(cloud["coord"]), 0))], axis=1)
    if feat.shape[1] < wanted:
        lacks = f"the file has no {missing[0]}" if missing else f"the file has {feat.shape[1]}"
        raise ValueError(
            f"the network was trained with {wanted} features ({', '.join(names)}) of a point, {lacks}: if it does have "
            "them, name its columns with --columns"
        )
    return {**cloud, "feat": np.ascontiguousarray(feat[:, :wanted], np.float32)}


def read_raw(cfg: Config, path: str, **reading: Any) -> Cloud:
    """Read a file as the config's test data are read; `reading` are `columns`, `unit` and `up` of `read_cloud`."""
    if Path(path).suffix.lower() == ".bin":
        reading.setdefault("columns", getattr(test_set(cfg)[0], "bin_columns", None))
    return {**read_cloud(path, **reading), "path": str(path)}


@torch.no_grad()
def predict_file(
    model: Any,
    names: Sequence[str],
    cfg: Config,
    path: str,
    out: str | Path | None = None,
    progress: Progress | None = None,
    name: str | None = None,
    amp: str | None = None,
    raw: Cloud | None = None,
    **reading: Any,
) -> dict[str, Any]:
    """Predict one file; with `out`, writes `<name>.json`, a page and what the task adds.

    Args:
        model: see `load_model`.
        names: of the classes.
        cfg: of the model; the network decides what to do with the test transforms.
        path: of the cloud.
        out: folder of the results; None writes nothing.
        progress: called with parts done and parts in all, where a scene is cut into parts.
        name: relative path of the results without ending; by default the file's name.
        amp: precision.
        raw: what `read_raw` gave for the file, where it was read before.
        **reading: `columns`, `unit` and `up` of `read_cloud`.

    Returns:
        `file`, `coordinates` (unit, axes, offset), `points`, `notes`, what the network's `show` says (`label` and
        `score`, `boxes`, `segment` and `counts`), and the `page` where one was written.

    Raises:
        CloudError: the file cannot be read, or is too small for this network.
        ValueError: the file does not have the features that the network was trained with.
    """
    raw = read_raw(cfg, path, **reading) if raw is None else raw
    stem = None if out is None else stem_of(Path(out), name or Path(path).stem, str(path))
    cloud = fit_features(raw, model.network.feat_dim, feature_names(cfg), model.network.gray)
    transforms = test_transforms(cfg)
    with autocast(torch.device(get_device()), amp):
        found = model.network.predict_cloud(cloud, transforms, progress)
    if stem is not None:
        stem.parent.mkdir(parents=True, exist_ok=True)
    if found.get("cloud") is not None:
        found = {**found, "cloud": raw}  # with the file's own colors, whatever the network sees
    row, view = model.network.show(found, names, stem)
    notes = raw["notes"] + size_notes(raw["coord"], transforms) + left_out(found, row, len(raw["coord"]))
    total = len(raw["coord"]) if raw["kept"] is None else len(raw["kept"])
    row = {**row, "coordinates": raw["frame"].describe(), "points": total, "notes": notes}
    if stem is None:
        return {"file": str(path), **row}
    title = ": ".join((Path(path).name, *([view.pop("title")] if "title" in view else [])))
    options = {"feat": raw.get("feat"), "title": title, "frame": raw["frame"], "notes": notes}
    page = write_page(Path(f"{stem}.html"), raw["coord"], names, **options, **view)
    row = {"file": str(path), "page": str(page), **row}
    Path(f"{stem}.json").write_text(json.dumps(row, indent=1))
    return row


def test_transforms(cfg: Config) -> list[Any]:
    """Build the transforms of the config's test data."""
    return [build(t, TRANSFORMS) for t in cfg.test_dataloader.dataset.get("transforms", [])]


def left_out(found: dict[str, Any], row: dict[str, Any], count: int) -> list[str]:
    """Say which points the network did not see and which boxes are not shown."""
    notes = []
    if found.get("seen", count) < count:
        notes.append(f"the network was given {found['seen']:,} of {count:,} points")
    if row.get("hidden"):
        notes.append(f"{row['hidden']} boxes with a score below {row['min_score']:g} are hidden: see --min-score")
    return notes


def size_notes(coord: np.ndarray, transforms: Sequence[Any]) -> list[str]:
    """Say so when a scene has the size of no room and no street, unless the recipe scales it anyway."""
    extent = float((coord.max(0) - coord.min(0)).max())
    scaled = any(type(t).__name__ == "UnitBall" for t in transforms)
    if scaled or 0.3 < extent < 2000:
        return []
    return [f"the cloud is {extent:.4g} m across, if its unit was read right: see --unit"]


def stem_of(out: Path, name: str, path: str) -> Path:
    """Return where the results of a file go; those of another file that are there are left alone."""
    for candidate in (
        name,
        f"{name}{Path(path).suffix}",
        *(f"{name}{Path(path).suffix}-{i}" for i in range(2, 10_000)),
    ):
        stem = out / candidate
        try:
            owner = json.loads(Path(f"{stem}.json").read_text())["file"]
        except (OSError, ValueError, KeyError, TypeError):
            return stem
        if os.path.abspath(owner) == os.path.abspath(path):
            return stem
    raise ValueError(f"{out} holds too many results called {name}: choose another folder with --out")


class CloudPredictor:
    """A trained model of point clouds and its test data's way of reading files. Built once, called from any thread.

    Args:
        cfg: from `prepare`.
        checkpoint: of a run of this config.
        amp: precision.
        readers: threads that read ahead; clouds are large, so no more than one waits.

    Attributes:
        model: in evaluation mode, on the device.
        classes: names by label.
    """

    def __init__(self, cfg: Config, checkpoint: str | Path, amp: str | None = None, readers: int = 1):
        self.cfg, self.amp, self.readers = cfg, amp, readers
        self.model, self.classes = load_model(cfg, str(checkpoint))
        self.lock = threading.Lock()

    def stream(
        self,
        files: Sequence[str],
        top: int | None = None,
        min_score: float | None = None,
        out: str | Path | None = None,
        names: Sequence[str] | None = None,
        bars: bool = False,
        **reading: Any,
    ) -> Iterator[dict[str, Any]]:
        """Predict files one by one and yield a row for each; one that cannot be read never stops the others.

        Args:
            files: paths.
            top: how many classes to name.
            min_score: lowest score that is reported; None for the network's own.
            out: folder of the results; None writes nothing.
            names: relative paths of the results, without ending.
            bars: show the progress within a file.
            **reading: `columns`, `unit` and `up` of `read_cloud`.

        Yields:
            What was found, or `error`, of each.
        """
        results = dict(zip(files, names, strict=True)) if names is not None else {}
        for file, raw in ahead(partial(self.read, **reading), files, self.readers, 1):
            row = raw if "error" in raw else self.answer(file, raw, min_score, out, results.get(file), bars)
            yield cut_list(row, top, min_score)

    def stream_features(self, files: Sequence[str], **reading: Any) -> Iterator[dict[str, Any]]:
        """Compute the embedding of each file and yield `file` and `feature` (D,), or `error`, in order.

        Raises:
            ValueError: a network without one.
        """
        network = self.model.network
        if not hasattr(network, "embed"):
            raise ValueError(f"{type(network).__name__} has no one feature of a cloud; classifiers have")
        for file, raw in ahead(partial(self.read, **reading), files, self.readers, 1):
            yield raw if "error" in raw else self.guarded(file, partial(self.embedding, raw))

    def read(self, file: str, **reading: Any) -> Cloud:
        """Read a file; a dict with `file` and `error` where that fails."""
        return self.guarded(file, lambda: read_raw(self.cfg, file, **reading))

    def answer(
        self, file: str, raw: Cloud, min_score: float | None, out: str | Path | None, name: str | None, bars: bool
    ) -> dict[str, Any]:
        """Return the row of one file."""
        from tqdm import tqdm

        with tqdm(desc=file, unit="crop", disable=None if bars else True) as bar, self.lock:

            def show(done: int, total: int) -> None:
                bar.total = total
                bar.update(done - bar.n)

            def predict() -> dict[str, Any]:
                return predict_file(self.model, self.classes, self.cfg, file, out, show, name, self.amp, raw)

            with scores_from(self.model.network, min_score):
                return self.guarded(file, predict)

    @torch.no_grad()
    def embedding(self, raw: Cloud) -> dict[str, Tensor]:
        """Return the `feature` (D,) of one raw cloud."""
        network = self.model.network
        cloud = fit_features(raw, network.feat_dim, feature_names(self.cfg), network.gray)
        inputs, _ = network.inputs_of(cloud, test_transforms(self.cfg))
        with self.lock, autocast(torch.device(get_device()), self.amp):
            return {"feature": network.embed(**inputs)[0].float().cpu()}

    def guarded(self, file: str, call: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Call a function; whatever it raises becomes the `error` of the file."""
        try:
            return {"file": file, **call()}
        except (CloudError, ValueError) as error:
            return {"file": file, "error": str(error)}
        except Exception as error:  # the others still get their results
            if os.environ.get("XMODAL_DEBUG"):
                raise
            return {"file": file, "error": f"{type(error).__name__}: {error}"}


@contextlib.contextmanager
def scores_from(network: Any, min_score: float | None) -> Iterator[None]:
    """Let a network report everything from a score on, for a while; None leaves it as it is."""
    kept = {key: getattr(network, key) for key in ("show_score", "min_score") if hasattr(network, key)}
    if min_score is not None:
        network.show_score = min_score
        if "min_score" in kept:
            network.min_score = min(network.min_score, min_score)
    try:
        yield
    finally:
        for key, value in kept.items():
            setattr(network, key, value)


def cut_list(row: dict[str, Any], top: int | None, min_score: float | None) -> dict[str, Any]:
    """Return a row with the best classes only."""
    if "top" not in row:
        return row
    return {**row, "top": [entry for entry in row["top"] if entry["score"] >= (min_score or 0)][:top]}


def line_of(row: dict[str, Any]) -> str:
    """Return one line about a file, of lists only the length, and its notes."""
    if "error" in row:
        return f"{row['file']} cannot be read: {row['error']}"
    found = {k: v for k, v in row.items() if k not in QUIET}
    parts = [f"{len(v)} {k}" if isinstance(v, list) else f"{k} {v}" for k, v in found.items()]
    return "\n    ".join([f"{row.get('page', row['file'])}: {', '.join(parts)}", *row.get("notes", [])])
