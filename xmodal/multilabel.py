"""Metrics of samples that have several classes, or none."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from xmodal.metrics import Accuracy, gather
from xmodal.registry import METRICS
from xmodal.shown import Shown


def average_precision(scores: np.ndarray, present: np.ndarray) -> float:
    """Return the average precision of one class: the precision at each threshold, weighted by the recall it adds.

    Args:
        scores: of the samples (N,); equal scores are one threshold.
        present: whether each sample has the class (N,); at least one has.
    """
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(present[order])
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)  # of each run of equal scores
    precision, recall = hits[last] / (last + 1), hits[last] / hits[-1]
    return float(np.sum(np.diff(recall, prepend=0) * precision))


@METRICS.register_module(name="multilabel")
class MultiLabelMetric(Accuracy):
    """Mean average precision over the classes that occur, F1 at a threshold, and the share of samples all right.

    Args:
        threshold: score from which on a class counts as found, for `f1` and `exact`.
        dump: see `Accuracy`.
    """

    def __init__(self, threshold: float = 0.5, dump: str | None = None):
        self.threshold = threshold
        super().__init__(dump)

    def reset(self) -> None:
        """Forget all samples."""
        super().reset()
        self.rows: list[tuple[np.ndarray, np.ndarray]] = []

    def process(self, data_batch: Any, data_samples: Sequence[dict[str, Any]]) -> None:
        """Keep the scores and labels (K,) of a batch; samples without a label are counted."""
        self.note_skipped(data_batch)
        for found in data_samples:
            label = found.get("label")
            if not isinstance(label, list):
                self.unlabeled += 1
                continue
            scores, present = np.asarray(found["scores"], np.float64), np.asarray(label) > 0.5
            self.rows.append((scores, present))
            self.shown.add_several(found.get("sample_id", ""), present, scores, self.threshold)
        if self.dump:
            self.predictions += [{**p, "label": None} for p in data_samples]

    def evaluate(self, size: int) -> dict[str, Any]:
        """Compute the metrics over the samples of all processes."""
        everyone = gather((self.rows, self.skipped, self.unlabeled, self.predictions, self.shown))
        rows = [row for part in everyone for row in part[0]]
        metrics: dict[str, Any] = self.compute(rows) if rows else {}
        metrics |= {"evaluated": len(rows), "of": size, "skipped": [e for part in everyone for e in part[1]]}
        if unlabeled := sum(part[2] for part in everyone):
            metrics["unlabeled"] = unlabeled
        shown = Shown()
        for part in everyone:
            shown += part[4]
        if seen := shown.rows():
            metrics["shown"] = seen
        if rows and self.class_names:
            metrics["classes"] = self.class_names
        self.write([p for part in everyone for p in part[3]])
        self.reset()
        return metrics

    def compute(self, rows: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, Any]:
        """`mAP`, `f1` (over all decisions), `exact`, `per_class` (average precision, None where a class is absent)."""
        scores, present = (np.stack(column) for column in zip(*rows, strict=True))  # (N, K)
        per_class = [
            100 * average_precision(s, p) if p.any() else None for s, p in zip(scores.T, present.T, strict=True)
        ]
        known = [value for value in per_class if value is not None]
        found = scores >= self.threshold
        hits = float((found & present).sum())
        return {
            "mAP": sum(known) / len(known) if known else float("nan"),
            "f1": 100 * 2 * hits / max(float(found.sum() + present.sum()), 1.0),
            "exact": 100 * float((found == present).all(1).mean()),
            "per_class": per_class,
        }
