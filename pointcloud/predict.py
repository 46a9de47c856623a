"""Predict single cloud files: labels, boxes, a page to look at."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.device import get_device

from pointcloud.datasets.base import Cloud, CloudError
from pointcloud.datasets.files import read_cloud
from pointcloud.page import write_page
from pointcloud.task import Progress
from xmodal.engine.checkpoint import load_weights
from xmodal.registry import MODELS, TRANSFORMS, build


def load_model(cfg: Config, checkpoint: str) -> tuple[Any, list[str]]:
    """Load the model of a config with trained weights, and the names of its classes."""
    model = build(cfg.model, MODELS).to(get_device()).eval()
    names = load_weights(model, checkpoint).get("classes") or []
    return model, list(names)


def fit_features(cloud: Cloud, wanted: int) -> Cloud:
    """Give a cloud as many features as the network was trained with.

    Raises:
        ValueError: it has too few.
    """
    have = cloud["feat"].shape[1] if "feat" in cloud else 0
    if have < wanted:
        raise ValueError(f"the network was trained with {wanted} features (colors) a point, the file has {have}")
    return {**cloud, "feat": cloud["feat"][:, :wanted]} if wanted else {k: v for k, v in cloud.items() if k != "feat"}


@torch.no_grad()
def predict_file(
    model: Any, names: Sequence[str], cfg: Config, path: str, out: str | Path, progress: Progress | None = None
) -> dict[str, Any]:
    """Predict one file; writes `<stem>.json` and a page.

    Args:
        model: see `load_model`.
        names: of the classes.
        cfg: of the model; the network decides what to do with the test transforms.
        path: of the cloud.
        out: folder of the results.
        progress: called with parts done and parts in all, where a scene is cut into parts.

    Returns:
        `file`, `page`, and what the network's `show` says: `label` and `score`, `boxes`, `segment` and `counts`.
    """
    cloud = fit_features(read_cloud(path), model.network.feat_dim)
    stem = Path(out) / Path(path).stem
    stem.parent.mkdir(parents=True, exist_ok=True)
    transforms = [build(t, TRANSFORMS) for t in cfg.test_dataloader.dataset.get("transforms", [])]
    cloud, found = model.network.predict_cloud(cloud, transforms, progress)
    row, view = model.network.show(found, names, stem)
    title = ": ".join((Path(path).name, *([view.pop("title")] if "title" in view else [])))
    page = write_page(stem.with_suffix(".html"), cloud["coord"], names, feat=cloud.get("feat"), title=title, **view)
    row = {"file": str(path), "page": str(page), **row}
    stem.with_suffix(".json").write_text(json.dumps(row, indent=1))
    return row


def predict_files(cfg: Config, checkpoint: str, files: Sequence[str], out: str) -> list[dict[str, Any]]:
    """Predict files one by one with a progress bar; returns what was found, or `error`, of each."""
    from tqdm import tqdm

    model, names = load_model(cfg, checkpoint)
    rows: list[dict[str, Any]] = []
    for file in files:
        with tqdm(desc=file, unit="crop", disable=None) as bar:

            def show(done: int, total: int, bar: tqdm = bar) -> None:
                bar.total = total
                bar.update(done - bar.n)

            try:
                rows.append(predict_file(model, names, cfg, file, out, show))
            except CloudError as error:
                rows.append({"file": file, "error": str(error)})
        print(line_of(rows[-1]), flush=True)
    return rows


def line_of(row: dict[str, Any]) -> str:
    """Return one line about a file; of lists only the length."""
    if "error" in row:
        return f"{row['file']} cannot be read: {row['error']}"
    found = {k: v for k, v in row.items() if k not in ("file", "page", "label", "segment")}
    parts = [f"{len(v)} {k}" if isinstance(v, list) else f"{k} {v}" for k, v in found.items()]
    return f"{row['page']}: {', '.join(parts)}"
