"""The four measures of the benchmark, in percent: accuracy, mean per class, ROC AUC, 11-point mAP.

Paper: ELEVATER (arXiv 2204.08790); they equal those of the `vision-evaluation` package that its toolkit calls.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xmodal.registry import did_you_mean


def accuracy(scores: ArrayLike, label: ArrayLike) -> float:
    """Share of samples whose best score is that of their label.

    Args:
        scores: (N, K), any monotone function of the logits.
        label: (N,) in 0..K-1.
    """
    return 100 * float((np.argmax(scores, axis=1) == np.asarray(label)).mean())


def mean_per_class(scores: ArrayLike, label: ArrayLike) -> float:
    """Mean recall over the classes that occur in `label`; arguments as `accuracy`."""
    hit, label = np.argmax(scores, axis=1) == np.asarray(label), np.asarray(label)
    return 100 * float(np.mean([hit[label == c].mean() for c in np.unique(label)]))


def roc_auc(scores: ArrayLike, label: ArrayLike) -> float:
    """Area under the ROC curve of a two-class problem: how often a positive scores above a negative, ties half.

    Args:
        scores: (N,) of class 1, or (N, 2) of which the second column is read.
        label: (N,) of 0 and 1.

    Raises:
        ValueError: only one of the two classes occurs, or more than two columns.
    """
    from scipy.stats import rankdata

    positive, label = np.asarray(scores, dtype=np.float64), np.asarray(label).astype(bool)
    if positive.ndim == 2:
        if positive.shape[1] != 2:
            raise ValueError(f"ROC AUC needs two classes, got scores for {positive.shape[1]}; choose another metric")
        positive = positive[:, 1]
    pairs = int(label.sum()) * int((~label).sum())
    if not pairs:
        raise ValueError("ROC AUC needs samples of both classes, and only one occurs")
    rank = rankdata(positive)  # equal scores have their average rank
    above = rank[label].sum() - label.sum() * (label.sum() + 1) / 2
    return 100 * float(above / pairs)


def precision_recall(scores: ArrayLike, label: ArrayLike) -> tuple[NDArray, NDArray]:
    """Precision and recall in float64 at every distinct score, from the highest down, behind the point (1, 0)."""
    scores, label = np.asarray(scores), np.asarray(label).astype(bool)
    order = np.argsort(-scores, kind="stable")
    last = np.r_[np.flatnonzero(np.diff(scores[order])), len(scores) - 1]  # last sample of every distinct score
    found = np.cumsum(label[order])[last].astype(np.float64)
    return np.r_[1.0, found / (last + 1)], np.r_[0.0, found / max(int(label.sum()), 1)]


def map11(scores: ArrayLike, label: ArrayLike) -> float:
    """Mean over classes of the 11-point interpolated average precision.

    Precision at a threshold is the best one at a recall not below it; the curve includes recall 0 with precision 1, so
    that threshold 0 always counts 1. Classes without a positive sample are left out of the mean.

    Args:
        scores: (N, K). The benchmark's toolkit passes softmax over classes even for many labels a sample.
        label: (N, K) of 0 and 1.

    Raises:
        ValueError: no positive at all, or labels of another shape.
    """
    scores, label = np.asarray(scores), np.asarray(label)
    if scores.shape != label.shape:
        raise ValueError(f"11-point mAP needs 0/1 labels of the scores' shape {scores.shape}, got {label.shape}")
    each = []
    for c in np.flatnonzero(label.sum(0) > 0):
        precision, recall = precision_recall(scores[:, c], label[:, c])
        each.append(np.mean([precision[recall >= t].max() for t in np.linspace(1, 0, 11)]))
    if not each:
        raise ValueError("11-point mAP needs at least one positive sample")
    return 100 * float(np.mean(each))


MEASURES: dict[str, Callable[[ArrayLike, ArrayLike], float]] = {
    "accuracy": accuracy,
    "mean-per-class": mean_per_class,
    "roc_auc": roc_auc,
    "11point_mAP": map11,
}


def find_measure(name: str) -> Callable[[ArrayLike, ArrayLike], float]:
    """The measure called `name`.

    Raises:
        ValueError: an unknown name.
    """
    if name not in MEASURES:
        raise ValueError(f"no measure is called {name!r}; {did_you_mean(name, MEASURES)}")
    return MEASURES[name]
