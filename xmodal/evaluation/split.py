"""Which samples train, which validate: the benchmark's own splits, a function of the labels and a seed."""

import math
import random
from collections.abc import Sequence

Labels = Sequence[Sequence[int]]  # the classes of every sample


def as_lists(labels: Sequence) -> Labels:
    """Labels as a list of classes a sample, whether each has one or several."""
    return [[int(c) for c in y] if isinstance(y, Sequence) else [int(y)] for y in labels]


def validation_split(labels: Sequence, share: float = 0.2) -> tuple[list[int], list[int]]:
    """Take validation samples from the training set, without shuffling.

    Paper: ELEVATER (arXiv 2204.08790); the official validation files are not used by its toolkit.

    Args:
        labels: class of every sample, or the list of its classes.
        share: of every class, rounded up.

    Returns:
        Indices of training and of validation samples, both ascending. One class a sample: the first of each class.
        Several: for the lowest class that is still short, its first sample that is left.

    Raises:
        ValueError: a share outside 0..1.
    """
    if not 0 < share < 1:
        raise ValueError(f"the validation share is a fraction between 0 and 1, got {share}")
    classes = as_lists(labels)
    members: dict[int, list[int]] = {}
    for i, own in enumerate(classes):
        for c in own:
            members.setdefault(c, []).append(i)
    wanted = {c: math.ceil(share * len(members[c])) for c in sorted(members)}
    taken: set[int] = set()
    count = dict.fromkeys(members, 0)
    for c, want in wanted.items():
        for i in members[c]:
            if count[c] >= want:
                break
            if i not in taken:
                taken.add(i)
                for other in classes[i]:
                    count[other] += 1
    return [i for i in range(len(classes)) if i not in taken], sorted(taken)


def few_shot_subset(labels: Sequence, shots: int, seed: int, num_classes: int | None = None) -> list[int]:
    """Draw a few-shot training set.

    Samples are looked at in a seeded random order. One is taken while its rarest class has fewer than `shots`, unless
    that class has more than half of them and its commonest class would grow beyond one and a half times of them.

    Args:
        labels: class of every sample, or the list of its classes.
        shots: K, samples wanted of every class.
        seed: of the order.
        num_classes: stop only when all of these have K; default: the classes that occur.

    Returns:
        Indices in the order taken.

    Raises:
        ValueError: fewer than one shot.
    """
    if shots < 1:
        raise ValueError(f"a few-shot set needs at least 1 sample a class, got shots={shots}")
    classes = as_lists(labels)
    occurring = {c for own in classes for c in own}
    count = dict.fromkeys(range(num_classes) if num_classes else sorted(occurring), 0)
    order = list(range(len(classes)))
    random.Random(seed).shuffle(order)
    taken = []
    for i in order:
        counts = [count[c] for c in classes[i]]
        if counts and min(counts) < shots and (min(counts) <= shots / 2 or max(counts) <= 1.5 * shots):
            taken.append(i)
            for c in classes[i]:
                count[c] += 1
        if min(count.values()) >= shots:
            break
    return taken
