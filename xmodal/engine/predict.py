"""Classify single files with a trained model."""

import inspect
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.device import get_device

from xmodal.data.collate import batch_size
from xmodal.data.lists import write_lines
from xmodal.data.loader import build_dataset, build_loader
from xmodal.data.sampler import EvalSampler
from xmodal.engine.checkpoint import load_weights
from xmodal.engine.precision import autocast
from xmodal.engine.sizes import input_size, sized
from xmodal.registry import DATASETS, MODELS, build, resolve


def dataset_of_files(cfg: dict[str, Any], files: Sequence[str], folder: Path) -> Any:
    """Build the config's test data set over the given files.

    Args:
        cfg: config of a data set that takes `annotation`, a list of lines `path label`.
        files: paths.
        folder: where the list is written.

    Raises:
        ValueError: a data set that does not read lists.
    """
    kind = resolve(cfg["type"], DATASETS)
    takes = inspect.signature(kind).parameters
    if "annotation" not in takes:
        raise ValueError(f"{kind.__name__} takes no `annotation`, so it cannot be pointed at single files")
    listing = folder / "files.txt"
    write_lines(listing, ((str(Path(file).absolute()), 0) for file in files))
    given = {"root": None, "format": "list", "classes": None, "test_mode": True, "max_broken": 1.0}
    return build_dataset({**cfg, "annotation": str(listing), **{k: v for k, v in given.items() if k in takes}})


@torch.no_grad()
def predict(
    cfg: Config,
    checkpoint: str,
    files: Sequence[str],
    amp: str | None = None,
    top: int = 5,
    min_score: float | None = None,
) -> list[dict]:
    """Classify files.

    Args:
        cfg: from `prepare`.
        checkpoint: `last.pth` or `best.pth` of a run of this config.
        files: paths; those that are not there get an `error`.
        amp: precision.
        top: how many classes to name.
        min_score: leave classes with less out of `top`.

    Returns:
        A dict a file, in order: `file` and either `label`, `name`, `score`, `top` (a list of label, name, score) and
        `scores` (all K), or `error`.

    Raises:
        ValueError: a checkpoint that does not fit, or none of the files is there.
    """
    given, files = list(files), [file for file in files if os.path.exists(file)]
    if not files:
        raise ValueError(f"no file at {given[0]}")
    loader_cfg = dict(cfg.test_dataloader)
    with tempfile.TemporaryDirectory() as folder:
        model = build(cfg.model, MODELS).to(get_device()).eval()
        dataset = dataset_of_files(sized(loader_cfg.pop("dataset"), input_size(model)), files, Path(folder))
        names = load_weights(model, checkpoint).get("classes") or []
        loader_cfg["num_workers"] = min(loader_cfg.get("num_workers", 0), len(files) // 8)
        found: dict[str, dict] = {}
        for batch in build_loader(loader_cfg, dataset, EvalSampler(len(dataset))):
            for entry in batch.get("skipped", []):
                found[entry["sample_id"]] = {"error": entry["reason"]}
            if batch_size(batch):
                with autocast(next(model.parameters()).device, amp):
                    for prediction in model.test_step(batch):
                        found[prediction["sample_id"]] = described(prediction["scores"], names, top)
    rows = [{"file": file, **found.get(str(Path(file).absolute()), {"error": f"no file at {file}"})} for file in given]
    if min_score is not None:
        rows = [{**r, "top": [t for t in r["top"] if t["score"] >= min_score]} if "top" in r else r for r in rows]
    return rows


def described(scores: torch.Tensor, names: Sequence[str], top: int) -> dict[str, Any]:
    """Return scores (K,) as JSON values, the best classes by name; an `error` where they are not finite."""
    scores = scores.float().cpu()
    if not bool(torch.isfinite(scores).all()):
        return {"error": "the scores are not finite: predict in float32 (without --amp)"}
    values, labels = scores.topk(min(top, len(scores)))
    best = [
        {"label": y, "name": names[y] if y < len(names) else str(y), "score": round(v, 6)}
        for y, v in zip(labels.tolist(), values.tolist(), strict=True)
    ]
    return {**best[0], "top": best, "scores": [round(v, 6) for v in scores.tolist()]}
