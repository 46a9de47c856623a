"""Accuracies in percent that do not depend on how samples are spread over processes."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from mmengine.evaluator import BaseMetric
from torch import Tensor

from xmodal.registry import METRICS
from xmodal.shown import Shown


def gather(mine: Any) -> list[Any]:
    """Gather one object from each process, in rank order, on every process."""
    if not (dist.is_available() and dist.is_initialized()):
        return [mine]
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, mine)
    return everyone


def confusion(predicted: Any, label: Any, num_classes: int, ignore_label: int = -1) -> np.ndarray:
    """Count the pairs of true and predicted classes.

    Args:
        predicted: class of each sample, point or pixel (N,).
        label: true class of each (N,), or `ignore_label`.
        num_classes: K.
        ignore_label: what has this true label is not counted at all.

    Returns:
        Counts (K, K+1), int64: rows are true classes, columns predicted ones; the last column holds predictions that
        are none of the classes.

    Raises:
        ValueError: other lengths, or a label that is neither a class nor ignored.
    """
    predicted, label = np.asarray(predicted).reshape(-1), np.asarray(label).reshape(-1)
    if predicted.shape != label.shape:
        raise ValueError(f"{len(predicted)} predictions for {len(label)} labels")
    keep, k = label != ignore_label, num_classes
    predicted, label = predicted[keep].astype(np.int64), label[keep].astype(np.int64)
    if len(label) and not 0 <= label.min() <= label.max() < k:
        found = f"labels {label.min()}..{label.max()} outside 0..{k - 1}"
        raise ValueError(f"{found}; points to leave out carry {ignore_label}")
    predicted = np.where((predicted < 0) | (predicted >= k), k, predicted)
    return np.bincount(label * (k + 1) + predicted, minlength=k * (k + 1)).reshape(k, k + 1)


class CountingMetric(BaseMetric):
    """Base class of metrics that keep counts and add them up over processes, where mmengine gathers predictions."""

    default_prefix = ""

    def __init__(self) -> None:
        super().__init__()
        self.skipped: list[dict] = []

    def note_skipped(self, data_batch: Any) -> None:
        """Remember the samples of a batch that could not be read."""
        self.skipped += (data_batch or {}).get("skipped", [])

    def compute_metrics(self, results: list) -> dict:
        """Not used: `evaluate` does it all."""
        raise NotImplementedError("this metric counts by itself, see evaluate")


class Tally:
    """Counts from which every accuracy is computed; tallies can be added.

    Args:
        num_classes: K, or None to learn it from the first scores.
    """

    def __init__(self, num_classes: int | None = None):
        self.confusion = np.zeros((num_classes, num_classes), np.int64) if num_classes else None
        self.top5 = 0

    def add(self, scores: Tensor, label: Tensor) -> None:
        """Count samples.

        Args:
            scores: (B, K), any monotone function of the logits.
            label: (B,) in 0..K-1.

        Raises:
            ValueError: another K than before, or a label outside 0..K-1.
        """
        classes = scores.shape[1]
        if self.confusion is None:
            self.confusion = np.zeros((classes, classes), np.int64)
        if len(self.confusion) != classes:
            raise ValueError(f"scores for {classes} classes after scores for {len(self.confusion)}")
        label = label.long().cpu()
        if len(label) and not 0 <= int(label.min()) <= int(label.max()) < classes:
            raise ValueError(f"labels {int(label.min())}..{int(label.max())} do not fit a head of {classes} classes")
        best = scores.cpu().topk(min(5, classes), dim=1).indices  # (B, 5)
        self.confusion = self.confusion + confusion(best[:, 0], label, classes)[:, :classes]
        self.top5 += int((best == label[:, None]).any(1).sum())

    def __iadd__(self, other: "Tally") -> "Tally":
        if self.confusion is None:
            self.confusion = other.confusion
        elif other.confusion is not None:
            self.confusion = self.confusion + other.confusion
        self.top5 += other.top5
        return self

    def compute(self) -> dict[str, Any]:
        """`top1`, `top5` (more than 5 classes only), `mean_class`, `per_class` (None for a class without samples)."""
        if self.confusion is None or not self.confusion.sum():
            return {}
        total = int(self.confusion.sum())
        hits, seen = self.confusion.diagonal(), self.confusion.sum(1)
        per_class = [100 * h / n if n else None for h, n in zip(hits.tolist(), seen.tolist(), strict=True)]
        known = [p for p in per_class if p is not None]
        found: dict[str, Any] = {"top1": 100 * float(hits.sum()) / total}
        if len(self.confusion) > 5:
            found["top5"] = 100 * self.top5 / total
        return {**found, "mean_class": sum(known) / len(known), "per_class": per_class}


@METRICS.register_module(name="accuracy")
class Accuracy(CountingMetric):
    """Top-1, top-5 and mean class accuracy over the readable samples, and their number.

    Args:
        dump: write the predictions there: `.npz` (arrays sample_id, scores, label, and classes, the names) or `.json`.
        confusion_up_to: report the confusion matrix (true class x predicted class) up to this many classes.
    """

    def __init__(self, dump: str | None = None, confusion_up_to: int = 64):
        super().__init__()
        if dump is not None and Path(dump).suffix not in (".npz", ".json"):
            raise ValueError(f"predictions are written as .npz or .json, got {dump!r}")
        self.dump, self.confusion_up_to = dump, confusion_up_to
        self.reset()

    @property
    def class_names(self) -> list[str] | None:
        """Return the names of the classes by index, where the data or the checkpoint have them."""
        return (self.dataset_meta or {}).get("classes")

    def reset(self) -> None:
        """Reset the counts."""
        self.tally, self.shown, self.unlabeled = Tally(), Shown(), 0
        self.skipped: list[dict] = []
        self.predictions: list[dict] = []

    def process(self, data_batch: Any, data_samples: Sequence[dict[str, Any]]) -> None:
        """Count one batch.

        Args:
            data_batch: the batch; its `skipped` entry is counted.
            data_samples: dicts with `sample_id`, `scores` (K,) and `label` (None or -1: not known).
        """
        self.note_skipped(data_batch)
        labeled = [p for p in data_samples if p.get("label") is not None and int(p["label"]) >= 0]
        self.unlabeled += len(data_samples) - len(labeled)
        if labeled:
            scores = torch.stack([torch.as_tensor(p["scores"]) for p in labeled])
            self.tally.add(scores, torch.as_tensor([int(p["label"]) for p in labeled]))
            for prediction, row in zip(labeled, scores, strict=True):
                self.shown.add(prediction.get("sample_id", ""), int(prediction["label"]), row)
        if self.dump:
            self.predictions += [dict(p) for p in data_samples]

    def evaluate(self, size: int) -> dict[str, Any]:
        """Add up the counts of all ranks (mmengine's own way sends every prediction through a shared folder)."""
        everyone = gather((self.tally, self.skipped, self.unlabeled, self.predictions, self.shown))
        total, shown = Tally(), Shown()
        for tally, *_, seen in everyone:
            total += tally
            shown += seen
        metrics = total.compute()
        skipped = [entry for part in everyone for entry in part[1]]
        metrics["evaluated"] = 0 if total.confusion is None else int(total.confusion.sum())
        metrics["of"] = size
        metrics["skipped"] = skipped
        if unlabeled := sum(part[2] for part in everyone):
            metrics["unlabeled"] = unlabeled
        if total.confusion is not None and len(total.confusion) <= self.confusion_up_to:
            metrics["confusion"] = total.confusion.tolist()
        if rows := shown.rows():
            metrics["shown"] = rows
        if "per_class" in metrics and self.class_names:
            metrics["classes"] = self.class_names
        self.write([p for part in everyone for p in part[3]])
        self.reset()
        return metrics

    def write(self, predictions: list[dict[str, Any]]) -> None:
        """Write the predictions of all processes where they are wanted (rank 0)."""
        if self.dump and (not dist.is_initialized() or dist.get_rank() == 0):
            write_predictions(self.dump, predictions, self.class_names)


def write_predictions(
    path: str | Path, predictions: list[dict[str, Any]], classes: Sequence[str] | None = None
) -> None:
    """Write predictions by sample: `.npz` with sample_id (N,), scores (N, K), label (N,; -1 = none), or `.json`.

    With `classes`, the `.npz` has them too, and rows of the `.json` name the true and the predicted class.
    """
    predictions = sorted(predictions, key=lambda p: str(p["sample_id"]))
    names = [str(p["sample_id"]) for p in predictions]
    labels = [-1 if p.get("label") is None else int(p["label"]) for p in predictions]
    scores = (
        np.stack([np.asarray(p["scores"], dtype=np.float32) for p in predictions]) if predictions else np.zeros((0, 0))
    )
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    if Path(path).suffix == ".npz":
        named: dict[str, Any] = {"classes": np.asarray(classes)} if classes else {}
        np.savez(path, sample_id=np.asarray(names), scores=scores, label=np.asarray(labels), **named)
        return
    called = dict(enumerate(classes or ()))
    rows = [
        {
            "sample_id": n,
            "label": None if y < 0 else y,
            **({"name": called.get(y), "predicted": called.get(int(np.argmax(s)))} if classes else {}),
            "scores": [round(float(v), 6) for v in s],
        }
        for n, y, s in zip(names, labels, scores, strict=True)
    ]
    Path(path).write_text(json.dumps(rows, indent=1))


def one_line(metrics: dict[str, Any]) -> str:
    """Format metrics as one line: `top1 81.25  top5 95.00  over 998 of 1000 (2 skipped)`."""
    numbers = [f"{k} {v:.2f}" for k, v in metrics.items() if isinstance(v, float)]
    if "evaluated" in metrics:
        over = f"over {metrics['evaluated']} of {metrics['of']}"
        notes = [f"{len(metrics['skipped'])} skipped"] if metrics.get("skipped") else []
        notes += [f"{metrics['unlabeled']} without a label"] if metrics.get("unlabeled") else []
        numbers.append(over + (f" ({', '.join(notes)})" if notes else ""))
    return "  ".join(numbers)
