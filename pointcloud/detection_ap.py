"""Average precision of 3D boxes, with the definitions of the VoteNet, 3DETR and mmdet3d evaluators.

Per class over the whole set, detections are taken by falling score (ties: image, then order within it). Each looks at
the one ground-truth box of its image with the highest IoU; it is right when that IoU is strictly above the threshold
and the box is not taken yet, and wrong otherwise (no second-best box). AP is the area under the monotone precision
envelope at all recall changes (VOC 2010). The mean is over the classes seen in predictions or ground truth; a class
never in the ground truth counts 0, and so does one never predicted. AR is the mean of the final recalls.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from pointcloud import boxes as box_ops

Predictions = Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]]
Truths = Sequence[tuple[np.ndarray, np.ndarray]]
# An IoU this little above a threshold is rounding: exactly .25 or .5 is a miss.
STRICT = 1e-9


@dataclass(frozen=True)
class DetectionResult:
    """Average precision and recall at one IoU threshold.

    Args:
        ap: per class (K,); nan for a class in neither predictions nor ground truth.
        recall: final recall per class (K,); nan likewise.
        has_truth: classes with ground truth (K,).
    """

    ap: np.ndarray
    recall: np.ndarray
    has_truth: np.ndarray

    @property
    def mean_ap(self) -> float:
        """Mean over the classes seen anywhere, 0 when there are none."""
        return float(np.nanmean(self.ap)) if not np.isnan(self.ap).all() else 0.0

    @property
    def mean_recall(self) -> float:
        """Mean final recall over the classes seen anywhere."""
        return float(np.nanmean(self.recall)) if not np.isnan(self.recall).all() else 0.0


def area_under(recall: np.ndarray, precision: np.ndarray) -> float:
    """Area under the monotone envelope of a precision-recall curve."""
    recall = np.concatenate([[0.0], recall, [1.0]])
    precision = np.concatenate([[0.0], precision, [0.0]])
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    steps = np.flatnonzero(recall[1:] != recall[:-1])
    return float(((recall[steps + 1] - recall[steps]) * envelope[steps + 1]).sum())


def iou_table(found: np.ndarray, true: np.ndarray) -> np.ndarray:
    """IoU (N, K) in float64 of boxes (N, 7) and (K, 7)."""
    one = torch.as_tensor(np.asarray(found, dtype=np.float64).reshape(-1, 7))
    two = torch.as_tensor(np.asarray(true, dtype=np.float64).reshape(-1, 7))
    return box_ops.iou(one, two).numpy()


def check_scene(boxes: np.ndarray, *columns: np.ndarray) -> None:
    """Refuse a scene whose parts have different lengths.

    Raises:
        ValueError: naming the lengths.
    """
    sizes = [len(boxes), *(len(c) for c in columns)]
    if len(set(sizes)) > 1:
        raise ValueError(f"boxes, labels and scores of one scene have different lengths: {sizes}")


def evaluate_detections(
    predictions: Predictions, truths: Truths, num_classes: int, thresholds: Sequence[float] = (0.25, 0.5)
) -> dict[float, DetectionResult]:
    """Average precision and recall of detections.

    Args:
        predictions: per scene boxes (N, 7), labels (N,), scores (N,).
        truths: per scene boxes (K, 7), labels (K,).
        num_classes: number of classes.
        thresholds: IoU thresholds.

    Returns:
        One result per threshold.

    Raises:
        ValueError: another number of scenes, or parts of different lengths.
    """
    if len(predictions) != len(truths):
        raise ValueError(f"predictions of {len(predictions)} scenes, ground truth of {len(truths)}")
    for found, true in zip(predictions, truths, strict=True):
        check_scene(*found)
        check_scene(*true)
    tables = [iou_table(p[0], t[0]) for p, t in zip(predictions, truths, strict=True)]
    results = {}
    for threshold in thresholds:
        rows = [evaluate_class(predictions, truths, tables, c, threshold) for c in range(num_classes)]
        has_truth = np.array([any((t[1] == c).any() for t in truths) for c in range(num_classes)], dtype=bool)
        ap, recall = (np.array(column) for column in zip(*rows, strict=True))
        results[threshold] = DetectionResult(ap, recall, has_truth)
    return results


def evaluate_class(
    predictions: Predictions, truths: Truths, tables: Sequence[np.ndarray], label: int, threshold: float
) -> tuple[float, float]:
    """AP and final recall of one class; nan for both when it is seen nowhere."""
    total = sum(int((t[1] == label).sum()) for t in truths)
    scores, best, target = [], [], []
    for scene, ((_, labels, values), (_, true)) in enumerate(zip(predictions, truths, strict=True)):
        mine, theirs = np.flatnonzero(labels == label), np.flatnonzero(true == label)
        table = tables[scene][np.ix_(mine, theirs)]
        scores.append(np.asarray(values, dtype=np.float64)[mine])
        best.append(table.max(1) if len(theirs) else np.full(len(mine), -np.inf))
        target += [(scene, int(theirs[i])) for i in table.argmax(1)] if len(theirs) else [(scene, -1)] * len(mine)
    if not target:
        return (0.0, 0.0) if total else (np.nan, np.nan)
    if not total:
        return 0.0, 0.0
    order = np.argsort(-np.concatenate(scores), kind="stable")
    right = first_hits(order, np.concatenate(best), target, threshold)
    recall = right.cumsum() / total
    precision = right.cumsum() / np.arange(1, len(order) + 1)
    return area_under(recall, precision), float(recall[-1])


def first_hits(order: np.ndarray, best: np.ndarray, target: list[tuple[int, int]], threshold: float) -> np.ndarray:
    """Mark each detection, in `order`, that is the first one on its ground-truth box (1.0, else 0.0)."""
    taken: set[tuple[int, int]] = set()
    right = np.zeros(len(order))
    for rank, i in enumerate(order):
        if best[i] > threshold + STRICT and target[i] not in taken:
            taken.add(target[i])
            right[rank] = 1.0
    return right


def select_boxes(
    boxes: torch.Tensor,
    class_probs: torch.Tensor,
    objectness: torch.Tensor,
    points: torch.Tensor | None = None,
    min_points: int = 5,
    nms_iou: float | None = 0.25,
) -> torch.Tensor:
    """Select the predicted boxes that 3DETR's evaluation counts.

    Args:
        boxes: (Q, 7).
        class_probs: (Q, C); classes compete with their own kind only.
        objectness: (Q,).
        points: (P, 3); boxes with fewer than `min_points` inside are dropped (if all are, the most object-like stays).
        min_points: see `points`.
        nms_iou: of the boxes' axis-aligned hulls; None for no suppression.

    Returns:
        Mask (Q,).
    """
    filled = torch.ones(len(boxes), dtype=torch.bool, device=boxes.device)
    if points is not None and len(boxes):
        filled = box_ops.contains(boxes, points).sum(1) >= min_points
        if not filled.any():
            filled[objectness.argmax()] = True
    rows = filled.nonzero()[:, 0]
    if nms_iou is not None:
        rows = rows[box_ops.nms(boxes[rows], objectness[rows], nms_iou, class_probs[rows].argmax(1))]
    kept = torch.zeros_like(filled)
    kept[rows] = True
    return kept


def detections_of(
    boxes: torch.Tensor,
    class_probs: torch.Tensor,
    objectness: torch.Tensor,
    kept: torch.Tensor,
    min_score: float = 0.05,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes (N, 7), labels (N,), scores (N,): EVERY class for every kept box, its probability times the objectness."""
    rows = (kept & (objectness > min_score)).nonzero()[:, 0]
    count = class_probs.shape[1]
    scores = (class_probs[rows] * objectness[rows, None]).flatten()
    labels = torch.arange(count).repeat(len(rows))
    return boxes[rows].repeat_interleave(count, 0).cpu().numpy(), labels.numpy(), scores.cpu().numpy()
