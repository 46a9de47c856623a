"""The samplers of the protocols, bit-exact: the same seed picks the same items as the released code.

Papers: CoOp (arXiv 2109.01134), CoCoOp (2203.05557), Tip-Adapter (2207.09519), DomainBed (2007.01434), ELEVATER
(2204.08790).
All of them draw from Python's `random.Random`, which is kept private here; the global state is never touched.
"""

import hashlib
import math
import random
from collections.abc import Sequence

import numpy as np


def by_class(labels: Sequence[int]) -> dict[int, list[int]]:
    """Item indices of each label, labels in order of first appearance."""
    groups: dict[int, list[int]] = {}
    for index, label in enumerate(labels):
        groups.setdefault(int(label), []).append(index)
    return groups


def draw(labels: Sequence[int], shots: int, rng: random.Random, repeat: bool = False) -> list[int]:
    """Draw `shots` items of every class.

    Args:
        labels: one label an item, in the order of the split file.
        shots: items a class, -1 for all items.
        rng: the stream that is read.
        repeat: a class with too few items gives repeated ones instead of all it has.

    Returns:
        Item indices, class after class in order of first appearance.

    Raises:
        ValueError: zero shots, or fewer than -1.
    """
    if shots == -1:
        return list(range(len(labels)))
    if shots < 1:
        raise ValueError(f"shots={shots}: draw at least 1 item a class, or -1 for all")
    chosen: list[int] = []
    for items in by_class(labels).values():
        if len(items) >= shots:
            chosen += rng.sample(items, shots)
        else:
            chosen += rng.choices(items, k=shots) if repeat else items
    return chosen


def draw_coop(
    train: Sequence[int], val: Sequence[int], shots: int, seed: int, val_shots: int = 4
) -> tuple[list[int], list[int]]:
    """Item indices of a few-shot training set and its validation set as the CoOp family draws them.

    Args:
        train: labels of the training split.
        val: labels of the validation split; may be empty.
        shots: K.
        seed: 1, 2 or 3 in the papers.
        val_shots: at most so many validation items a class; fewer when K is smaller.
    """
    rng = random.Random(seed)
    chosen = draw(train, shots, rng)
    return chosen, draw(val, min(shots, val_shots) if shots > 0 else -1, rng) if len(val) else []


def draw_tip(train: Sequence[int], shots: int, seed: int = 1) -> list[int]:
    """Item indices of a training set as Tip-Adapter and CaFo draw it: short classes repeat items."""
    return draw(train, shots, random.Random(seed), repeat=True)


def draw_both(
    train: Sequence[int],
    val: Sequence[int],
    shots: int,
    seed: int,
    val_shots: int | None = None,
    val_first: bool = False,
) -> tuple[list[int], list[int]]:
    """Item indices of a training and a validation set from one stream, short classes repeating items.

    Args:
        train: labels of the training split.
        val: labels of the validation split; may be empty.
        shots: K.
        seed: of the stream.
        val_shots: validation items a class; None for K (LP++, ProLIP).
        val_first: draw the validation set first (CLIP-LoRA, with min(K, 4)).
    """
    rng = random.Random(seed)
    take = lambda labels, k: draw(labels, k, rng, repeat=True) if len(labels) else []  # noqa: E731
    count = shots if val_shots is None else val_shots
    if val_first:
        checked = take(val, count)
        return take(train, shots), checked
    chosen = take(train, shots)
    return chosen, take(val, count)


def draw_reduced(train: Sequence[int], val: Sequence[int], shots: int, seed: int) -> tuple[list[int], list[int]]:
    """LP++'s draw on six data sets: K of the K items that seed 1 drew, so that every seed permutes the same ones."""
    first = draw_both(train, val, shots, 1)
    again = draw_both([train[i] for i in first[0]], [val[i] for i in first[1]], shots, seed)
    return [first[0][i] for i in again[0]], [first[1][i] for i in again[1]]


def draw_from_one(train: Sequence[int], shots: int, extra: int, seed: int) -> tuple[list[int], list[int]]:
    """Draw K training and `extra` validation items of each class out of the training split (ImageNet).

    Raises:
        ValueError: a class with too few items.
    """
    rng, chosen, checked = random.Random(seed), [], []
    for label, items in by_class(train).items():
        if len(items) < shots + extra:
            raise ValueError(f"class {label} has {len(items)} items, and {shots} + {extra} are drawn")
        drawn = rng.sample(items, shots + extra)
        chosen += drawn[:shots]
        checked += drawn[shots:]
    return chosen, checked


def base_and_new(labels: Sequence[int]) -> tuple[list[int], list[int]]:
    """The base half of the sorted labels (the larger one when they are odd in number) and the new half."""
    present = sorted({int(label) for label in labels})
    half = -(-len(present) // 2)
    return present[:half], present[half:]


def relabel(labels: Sequence[int], keep: Sequence[int]) -> tuple[list[int], list[int]]:
    """Indices of the items whose label is in `keep`, and their labels counted from 0 in the order of `keep`."""
    new = {int(label): i for i, label in enumerate(keep)}
    kept = [i for i, label in enumerate(labels) if int(label) in new]
    return kept, [new[int(labels[i])] for i in kept]


def harmonic_mean(base: float, new: float) -> float:
    """2 / (1/base + 1/new), 0 when either is 0."""
    return 2 * base * new / (base + new) if base > 0 and new > 0 else 0.0


def seed_hash(*parts: object) -> int:
    """DomainBed's seed of a tuple: md5 of its text, modulo 2^31."""
    digest = hashlib.md5(str(parts).encode("utf-8"), usedforsecurity=False).hexdigest()
    return int(digest, 16) % 2**31


def holdout_split(count: int, trial: int, env: int, holdout: float = 0.2) -> tuple[np.ndarray, np.ndarray]:
    """DomainBed's split of one environment.

    Args:
        count: items of the environment.
        trial: trial seed.
        env: number of the environment.
        holdout: share of the out-split.

    Returns:
        Indices of the in-split and of the out-split (the first `holdout` of a shuffle).

    Raises:
        ValueError: a share that is not between 0 and 1.
    """
    if not 0 < holdout < 1:
        raise ValueError(f"holdout={holdout}: the share of the out-split lies between 0 and 1")
    order = np.arange(count)
    np.random.RandomState(seed_hash(trial, env)).shuffle(order)
    cut = int(count * holdout)
    return order[cut:], order[:cut]


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
