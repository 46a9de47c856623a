"""Metrics on point clouds with the definitions of the official evaluators, in percent.

- Overall accuracy (OA) counts clouds or points; mean class accuracy (mAcc) averages over classes.
- IoU of a class = intersection / (union + 1e-10), both summed over all scenes; mIoU averages over ALL classes, so that
  a class absent everywhere counts 0, as in the evaluators of S3DIS and ScanNet. `miou_present` leaves those
  out.
- AP: see `pointcloud/detection_ap.py`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from pointcloud.detection_ap import evaluate_detections
from xmodal.metrics import Accuracy, CountingMetric, confusion, gather
from xmodal.registry import METRICS


class SegmentationTally:
    """A confusion matrix of points, from which every segmentation figure follows.

    Args:
        num_classes: K.
        ignore_label: points with this true label are not counted at all.
        first_class: classes below are dropped from rows and columns before anything is computed (SemanticKITTI: 1, so
            that a prediction of class 0 is no miss-prediction of another class).
    """

    def __init__(self, num_classes: int, ignore_label: int = -1, first_class: int = 0):
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}")
        self.num_classes, self.ignore_label, self.first_class = num_classes, ignore_label, first_class
        self.confusion = np.zeros((num_classes, num_classes + 1), dtype=np.int64)

    def add(self, predicted: Any, label: Any) -> None:
        """Count points by predicted and true class (N,); see `xmodal.metrics.confusion`."""
        self.confusion += confusion(predicted, label, self.num_classes, self.ignore_label)

    def __iadd__(self, other: "SegmentationTally") -> "SegmentationTally":
        self.confusion = self.confusion + other.confusion
        return self

    def counts(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Intersection, union and target per class (K,), int64."""
        table = self.confusion[self.first_class :, self.first_class :]
        hit = np.diagonal(table).copy()
        target = table.sum(1)
        predicted = table[:, : len(hit)].sum(0)
        return hit, target + predicted - hit, target

    def compute(self) -> dict[str, Any]:
        """Fractions: `iou`, `acc` (K,), `miou`, `macc`, `oa`, `miou_present`."""
        hit, union, target = self.counts()
        iou, acc = hit / (union + 1e-10), hit / (target + 1e-10)
        present = target > 0
        return {
            "iou": iou,
            "acc": acc,
            "miou": float(iou.mean()),
            "macc": float(acc.mean()),
            "oa": float(hit.sum() / (target.sum() + 1e-10)),
            "miou_present": float(iou[present].mean()) if present.any() else 0.0,
        }


@METRICS.register_module(name="classification3d")
class CloudAccuracy(Accuracy):
    """Overall accuracy (`top1`), mean class accuracy (`mean_class`) and how many votes a cloud had (`votes`)."""

    votes = 1

    def process(self, data_batch: Any, data_samples: Sequence[dict[str, Any]]) -> None:
        """Count one batch."""
        self.votes = data_samples[0].get("votes", 1) if data_samples else self.votes
        super().process(data_batch, data_samples)

    def evaluate(self, size: int) -> dict[str, Any]:
        """The figures of `Accuracy`, and the votes."""
        return {**super().evaluate(size), "votes": self.votes}


@METRICS.register_module(name="segmentation3d")
class SegmentationMetric(CountingMetric):
    """OA, mAcc, mIoU and the IoU of every class, in percent.

    Args:
        classes: names, in the order of the labels.
        ignore_label: true label of points that do not count.
        first_class: see `SegmentationTally`.
    """

    def __init__(self, classes: Sequence[str], ignore_label: int = -1, first_class: int = 0):
        super().__init__()
        self.classes, self.options = list(classes), (ignore_label, first_class)
        self.tally = SegmentationTally(len(self.classes), *self.options)

    def process(self, data_batch: Any, data_samples: Sequence[dict[str, Any]]) -> None:
        """Count dicts with `segment` (N,) and `target` (N,)."""
        self.note_skipped(data_batch)
        for sample in data_samples:
            self.tally.add(sample["segment"], sample["target"])

    def evaluate(self, size: int) -> dict[str, Any]:
        """Add up the counts of all processes, compute the figures and reset the counts."""
        total, skipped = SegmentationTally(len(self.classes), *self.options), []
        for tally, missed in gather((self.tally, self.skipped)):
            total += tally
            skipped += missed
        found = total.compute()
        self.tally, self.skipped = SegmentationTally(len(self.classes), *self.options), []
        names = self.classes[self.options[1] :]
        per_class = dict(zip(names, (100 * found["iou"]).round(4).tolist(), strict=True))
        figures = {k: 100 * found[k] for k in ("oa", "macc", "miou", "miou_present")}
        return {**figures, "iou": per_class, "of": size, "skipped": skipped}


@METRICS.register_module(name="detection3d")
class DetectionMetric(CountingMetric):
    """AP and AR of boxes at IoU thresholds, in percent.

    Args:
        classes: names, in the order of the labels.
        thresholds: IoU above which a detection may be right.
    """

    def __init__(self, classes: Sequence[str], thresholds: Sequence[float] = (0.25, 0.5)):
        super().__init__()
        self.classes, self.thresholds = list(classes), tuple(thresholds)
        self.found: list[dict[str, Any]] = []

    def process(self, data_batch: Any, data_samples: Sequence[dict[str, Any]]) -> None:
        """Keep `boxes` (N, 7), `box_label` (N,), `scores` (N,), `target_boxes` (K, 7), `target_label` (K,)."""
        self.note_skipped(data_batch)
        keys = ("boxes", "box_label", "scores", "target_boxes", "target_label")
        self.found += [{"sample_id": s["sample_id"], **{k: np.asarray(s[k]) for k in keys}} for s in data_samples]

    def evaluate(self, size: int) -> dict[str, Any]:
        """Gather all processes, sort by sample so that ties do not depend on their number, and evaluate."""
        parts = gather((self.found, self.skipped))
        scenes = {s["sample_id"]: s for found, _ in parts for s in found}
        rows = [scenes[k] for k in sorted(scenes)]
        skipped = [entry for _, missed in parts for entry in missed]
        self.found, self.skipped = [], []
        figures: dict[str, Any] = {"evaluated": len(rows), "of": size, "skipped": skipped}
        results = evaluate_detections(
            [(s["boxes"], s["box_label"], s["scores"]) for s in rows],
            [(s["target_boxes"], s["target_label"]) for s in rows],
            len(self.classes),
            self.thresholds,
        )
        for threshold, result in results.items():
            name = f"{100 * threshold:g}"
            figures[f"map{name}"], figures[f"ar{name}"] = 100 * result.mean_ap, 100 * result.mean_recall
            per_class = zip(self.classes, result.ap, strict=True)
            figures[f"ap{name}"] = {c: None if np.isnan(v) else round(100 * float(v), 4) for c, v in per_class}
        return figures
