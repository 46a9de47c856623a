"""Samples of an evaluation that are worth looking at: confident mistakes, and right answers of each class."""

from typing import Any

import numpy as np

MISTAKES, CLASSES = 24, 16


class Shown:
    """Keep the most confident mistakes, and of each class the most confident right answer.

    Which samples are kept does not depend on their order, nor on how they are spread over processes.
    """

    def __init__(self) -> None:
        self.mistakes: list[dict[str, Any]] = []
        self.right: dict[int | tuple[int, ...], dict[str, Any]] = {}

    def add(self, sample_id: str, label: int, scores: Any) -> None:
        """Look at the scores (K,) of one sample."""
        guess = int(scores.argmax())
        row = {"sample_id": str(sample_id), "label": label, "predicted": guess, "score": round(float(scores[guess]), 6)}
        self.keep(row)

    def add_several(self, sample_id: str, present: Any, scores: Any, threshold: float) -> None:
        """Look at a sample that has several classes, or none: its least certain decision where all are right.

        Args:
            sample_id: name of the sample.
            present: whether it has each class (K,).
            scores: of the classes (K,).
            threshold: from which on a class counts as found.
        """
        found = scores >= threshold
        wrong, certainty = found != present, np.where(found, scores, 1 - scores)
        score = certainty[wrong].max() if wrong.any() else certainty.min()
        label, predicted = (tuple(np.flatnonzero(of).tolist()) for of in (present, found))
        self.keep(
            {"sample_id": str(sample_id), "label": label, "predicted": predicted, "score": round(float(score), 6)}
        )

    def keep(self, row: dict[str, Any]) -> None:
        """Take a row in where it belongs to the most confident ones."""
        if row["label"] != row["predicted"]:
            self.mistakes = sorted([*self.mistakes, row], key=confidence)[:MISTAKES]
        elif row["label"] not in self.right or confidence(row) < confidence(self.right[row["label"]]):
            self.right[row["label"]] = row

    def __iadd__(self, other: "Shown") -> "Shown":
        for row in [*other.mistakes, *other.right.values()]:
            self.keep(row)
        return self

    def rows(self) -> list[dict[str, Any]]:
        """Return the mistakes, then right answers of the first classes: sample_id, label, predicted, score."""
        return [*self.mistakes, *(self.right[label] for label in sorted(self.right)[:CLASSES])]


def confidence(row: dict[str, Any]) -> tuple[float, str]:
    """Return a key that sorts the most confident answers first, and equal ones by name."""
    return -row["score"], row["sample_id"]
