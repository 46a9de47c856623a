"""Number the classes of all splits by the names of the training set, and report names that it lacks.

Everything is said once, before the first step; what would make a result meaningless is an error.
"""

import logging
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmengine.logging import print_log

from xmodal.data.class_names import plain
from xmodal.data.walk import printable

SHOWN = 5  # names in a message
UNEVEN = 4  # times as many samples of the most frequent class as of the rarest are worth a word


def names_of(dataset: Any) -> list[str] | None:
    """Return the class names of a data set of labeled files, by index; None when it has none."""
    names = getattr(dataset, "classes", None)
    return list(map(str, names)) if names and hasattr(dataset, "adopt_classes") else None


def agree(runner: Any, stage: str, dataset: Any) -> list[str] | None:
    """Number an evaluation set as training did, by the names of its classes.

    Args:
        runner: its training set, or the checkpoint it has loaded (`trained_classes`), has the names.
        stage: `val` or `test`.
        dataset: the evaluation set.

    Returns:
        The class names by index, None when nobody knows them.

    Raises:
        ValueError: a class that training does not have, or a label that the head does not have.
    """
    train = train_set(runner)
    names = names_of(train) if train is not None else runner.trained_classes
    if names and hasattr(dataset, "adopt_classes"):
        dataset.adopt_classes(names)
    check_labels(dataset, stage, outputs_of(runner), names)
    if train is not None:
        if not names and names_of(dataset) and hasattr(train, "adopt_classes"):
            say(f"{stage} names its classes and training does not: they are compared by number; give both `classes`")
        say_unseen(train, dataset, stage, names)
        say_shared(train, dataset, stage)
    return names or names_of(dataset)


def train_set(runner: Any) -> Any:
    """Return the data set of a run's training loop; None when there is none, or it is not built."""
    loop = getattr(runner, "_train_loop", None)
    return getattr(getattr(loop, "dataloader", None), "dataset", None)


def outputs_of(runner: Any) -> int | None:
    """Return the number of classes of the model's head, None when it does not say."""
    model = getattr(runner.model, "module", runner.model)
    return getattr(getattr(model, "head", None), "num_classes", None)


def labels_of(dataset: Any) -> np.ndarray:
    """Return the labels of a data set's samples that have one; empty when it does not say."""
    found = getattr(dataset, "labels", None)
    try:
        labels = np.asarray([] if found is None else found)
    except ValueError:  # several a sample
        labels = np.zeros(0)
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        return np.zeros(0, np.int64)
    return labels[labels >= 0]


def check_labels(dataset: Any, stage: str, outputs: int | None, names: Sequence[str] | None) -> None:
    """Refuse labels outside the head's classes, and say where they look wrong.

    Raises:
        ValueError: naming the label, the head's size and the likely reason.
    """
    labels, source = labels_of(dataset), getattr(dataset, "source", type(dataset).__name__)
    if not len(labels):
        return
    low, high = int(labels.min()), int(labels.max())
    from_one = low == 1 and len(np.unique(labels)) > 1
    if outputs is not None and high >= outputs:
        reason = "do they count from 1? then subtract 1 from each" if from_one and high == outputs else ""
        fix = reason or f"set model.head.num_classes to {high + 1} or more"
        raise ValueError(f"{source} ({stage}) has the label {high}, the head num_classes={outputs}: {fix}")
    if from_one and hasattr(dataset, "adopt_classes") and (not names or high == len(names)):
        say(f"{source} ({stage}) has no label 0, the lowest is 1: do its labels count from 1? They must from 0")


def check_training(runner: Any) -> None:
    """Say which classes have no sample, and how the head differs from the training data.

    Raises:
        ValueError: more classes than the head has, or labels that it does not have.
    """
    dataset, outputs = train_set(runner), outputs_of(runner)
    names, labels = names_of(dataset), labels_of(dataset)
    check_labels(dataset, "train", outputs, names)
    source = getattr(dataset, "source", "the training data")
    check_order(names, runner)
    balance(dataset, runner)
    if names and outputs is not None and hasattr(dataset, "labels"):
        if len(names) > outputs:
            raise ValueError(
                f"{source} names {len(names)} classes, the head has num_classes={outputs}: "
                f"set model.head.num_classes={len(names)}"
            )
        if len(names) < outputs:
            say(f"the head has num_classes={outputs}, but {source} has {len(names)} classes: {some(names)}")
    if names and len(labels):
        empty = [name for i, name in enumerate(names) if i not in set(labels.tolist())]
        if empty:
            say(f"{source}: {len(empty)} of {len(names)} classes have no training sample: {some(empty)}")


def balance(dataset: Any, runner: Any) -> None:
    """Give the head the numbers of samples that its `class_weights="balanced"` needs, or note classes out of balance.

    Raises:
        ValueError: a multi-label head for single labels, or the other way round.
    """
    head: Any = getattr(getattr(runner.model, "module", runner.model), "head", None)
    several, source = getattr(dataset, "multilabel", False), getattr(dataset, "source", "the training data")
    if hasattr(head, "multilabel") and hasattr(dataset, "multilabel") and head.multilabel != several:
        fix = ("MultiLabelHead", "MultiLabelMetric") if several else ("ClassificationHead", "Accuracy")
        kind = "several classes a sample" if several else "one class a sample"
        raise ValueError(f"{source} has {kind}: set model.head.type to {fix[0]} and val_evaluator.type to {fix[1]}")
    counts = counts_of(dataset, getattr(head, "num_classes", 0))
    weighted = getattr(head, "class_weights", None)
    if weighted == "balanced":
        if not counts.sum():
            raise ValueError(f"{source} has no labels: model.head.class_weights='balanced' needs them")
        head.weigh(torch.from_numpy(counts), len(dataset))
    loader = runner.cfg.get("train_dataloader") or {} if hasattr(runner, "cfg") else {}
    seen = counts[counts > 0]
    if weighted is None and not loader.get("balanced") and len(seen) > 1 and seen.max() >= UNEVEN * seen.min():
        most, least = int(counts.argmax()), int(np.where(counts > 0, counts, counts.max() + 1).argmin())
        names = names_of(dataset)
        say(
            f"{source}: classes are out of balance: {counts[most]} of {name_of(most, names)}, {counts[least]} of "
            f"{name_of(least, names)}; look at mean_class, and try train_dataloader.balanced=true or "
            "model.head.class_weights=balanced"
        )


def counts_of(dataset: Any, classes: int) -> np.ndarray:
    """Return the number of samples (K,) of each class."""
    if not getattr(dataset, "multilabel", False):
        labels = labels_of(dataset)
        return np.bincount(labels, minlength=classes) if len(labels) else np.zeros(classes, np.int64)
    return np.bincount([y for several in dataset.labels for y in several], minlength=classes)


def check_order(names: Sequence[str] | None, runner: Any) -> None:
    """Refuse a head that knows the same class names as the training data in another order.

    Raises:
        ValueError: naming the first that differs.
    """
    model = getattr(runner.model, "module", runner.model)
    head = [plain(name).lower() for name in getattr(getattr(model, "head", None), "class_names", None) or ()]
    own = [plain(name).lower() for name in names or ()]
    if head != own and sorted(head) == sorted(own):
        i = next(i for i, pair in enumerate(zip(head, own, strict=True)) if pair[0] != pair[1])
        raise ValueError(
            f"class {i} is {own[i]!r} in the training data and {head[i]!r} in the head: give both one order of names"
        )


def say_unseen(train: Any, dataset: Any, stage: str, names: Sequence[str] | None) -> None:
    """Say which classes only one of two sets has samples of."""
    if not hasattr(train, "adopt_classes") or not hasattr(dataset, "adopt_classes"):
        return
    seen, asked = set(labels_of(train).tolist()), set(labels_of(dataset).tolist())
    if not seen or not asked:
        return
    if lost := sorted(asked - seen):
        listed = some([name_of(label, names) for label in lost])
        say(f"{stage}: {len(lost)} classes differ: they have samples here and none in training: {listed}")
    if lost := sorted(seen - asked):
        listed = some([name_of(label, names) for label in lost])
        say(f"{stage}: no sample of {len(lost)} of the {len(seen)} classes of training: {listed}")


def name_of(label: int, names: Sequence[str] | None) -> str:
    """Return the name of a class, its number when it has none."""
    return names[label] if names and label < len(names) else str(label)


def say_shared(train: Any, dataset: Any, stage: str) -> None:
    """Say how many files a set shares with the training set."""
    paths = [
        {os.path.realpath(s.path) for s in getattr(d, "samples", None) or () if hasattr(s, "path")}
        for d in (train, dataset)
    ]
    if shared := sorted(paths[0] & paths[1]):
        say(
            f"{stage} shares {len(shared)} of its {len(paths[1])} files with training, e.g. {printable(shared[0])}: "
            "its scores say little about new files"
        )


def some(names: Sequence[str]) -> str:
    """Return the first of the names in a line."""
    return ", ".join(map(printable, names[:SHOWN])) + (", ..." if len(names) > SHOWN else "")


def say(message: str) -> None:
    """Warn once, on the first process."""
    print_log(message, logger="current", level=logging.WARNING)
