"""Predictions for single cloud files: labels, boxes, a page to look at."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.device import get_device

from pointcloud.datasets.base import Cloud, finish
from pointcloud.datasets.files import read_cloud
from pointcloud.detection import best_class
from pointcloud.page import write_page
from pointcloud.scenes import vote
from pointcloud.segmentation import EPCLSegmenter
from xmodal.engine.checkpoint import load_weights
from xmodal.registry import MODELS, TRANSFORMS, build

Progress = Callable[[int, int], None]


def load_model(cfg: Config, checkpoint: str) -> tuple[Any, list[str]]:
    """The model of a config with trained weights, and the names of its classes."""
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


def feature_width(network: torch.nn.Module) -> int:
    """Features a point that a network wants beside coordinates."""
    if isinstance(network, EPCLSegmenter):
        return network.in_dim - 3
    tokenizer = getattr(network, "tokenizer", None) or getattr(getattr(network, "backbone", None), "tokenizer", None)
    return tokenizer.feat_dim if tokenizer is not None else 0


@torch.no_grad()
def predict_file(
    model: Any, names: Sequence[str], cfg: Config, path: str, out: str | Path, progress: Progress | None = None
) -> dict[str, Any]:
    """Predict one file and write what was found beside a page.

    Args:
        model: see `load_model`.
        names: of the classes.
        cfg: of the model; its test transforms are applied (not for segmentation, which sees every raw point).
        path: of the cloud.
        out: folder of the results.
        progress: called with crops done and crops in all (segmentation).

    Returns:
        `file`, `page`, and what was found: `label` and `score`, `counts` of points per class and the `segment` file, or
        `boxes`.
    """
    cloud = fit_features(read_cloud(path), feature_width(model.network))
    stem = Path(out) / Path(path).stem
    stem.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(model.network, EPCLSegmenter):
        return segment_file(model, names, cloud, path, stem, progress)
    for transform in cfg.test_dataloader.dataset.get("transforms", []):
        cloud = build(transform, TRANSFORMS)(cloud, np.random.default_rng(0))
    item = finish(cloud, str(path), None, None)
    batch = {k: v[None] for k, v in item.items() if k in ("coord", "feat")}
    found = model.test_step({**batch, "sample_id": [str(path)]})[0]
    if "boxes" in found:
        return boxes_of_file(found, names, cloud, path, stem)
    score, label = found["scores"].max(0)
    row: dict[str, Any] = {"label": int(label), "name": named(names, int(label)), "score": float(score)}
    title = f"{Path(path).name}: {row['name']} ({100 * row['score']:.0f} %)"
    page = write_page(stem.with_suffix(".html"), cloud["coord"], names, feat=cloud.get("feat"), title=title)
    return save({"file": str(path), "page": str(page), **row}, stem)


def named(names: Sequence[str], label: int) -> str:
    """The name of a class, or its number."""
    return names[label] if label < len(names) else str(label)


def segment_file(
    model: Any, names: Sequence[str], cloud: Cloud, path: str, stem: Path, progress: Progress | None
) -> dict[str, Any]:
    """Class of every raw point: `<stem>_segment.npy`, a page, counts."""
    network: EPCLSegmenter = model.network
    device = next(network.parameters()).device
    coord = torch.from_numpy(cloud["coord"]).to(device)
    feat = torch.from_numpy(cloud["feat"]).to(device) if "feat" in cloud else None
    voxel = network.eval_voxel or 0.04
    logits = vote(network, coord, feat, network.num_classes, voxel, network.eval_points, network.eval_parts, progress)
    segment = logits.argmax(1).numpy()
    np.save(f"{stem}_segment.npy", segment.astype(np.int16))
    page = write_page(stem.with_suffix(".html"), cloud["coord"], names, segment, title=Path(path).name)
    values, counts = np.unique(segment, return_counts=True)
    per_class = {named(names, int(v)): int(c) for v, c in zip(values, counts, strict=True)}
    return save({"file": str(path), "page": str(page), "segment": f"{stem}_segment.npy", "counts": per_class}, stem)


def boxes_of_file(found: dict, names: Sequence[str], cloud: Cloud, path: str, stem: Path) -> dict[str, Any]:
    """Boxes, best first, and a page."""
    kept = best_class(found)
    page = write_page(
        stem.with_suffix(".html"), cloud["coord"], names, feat=cloud.get("feat"), found=kept, title=Path(path).name
    )
    rows = [
        {"name": named(names, int(y)), "score": round(float(s), 4), "box": [round(float(v), 4) for v in b]}
        for b, y, s in zip(kept["boxes"], kept["box_label"], kept["scores"], strict=True)
    ]
    return save({"file": str(path), "page": str(page), "boxes": rows}, stem)


def save(row: dict[str, Any], stem: Path) -> dict[str, Any]:
    """Write `<stem>.json`."""
    stem.with_suffix(".json").write_text(json.dumps(row, indent=1))
    return row
