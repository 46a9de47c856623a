"""Split samples into training, validation and test: stratified by class, seeded, groups kept together."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from xmodal.data.annotations import Sample

SHARES = {"train": 0.7, "val": 0.15, "test": 0.15}


def kinds_of(sample: Sample) -> tuple[int, ...]:
    """Return the classes by which a sample is stratified."""
    return (sample.label,) if sample.labels is None else sample.labels or (-1,)


def split(
    samples: Sequence[Sample], groups: Mapping[str, str], seed: int = 0, shares: Mapping[str, float] | None = None
) -> dict[str, list[Sample]]:
    """Split samples so that every class has its share in every part, and no group is in two parts.

    Args:
        samples: to be split.
        groups: of paths; a path without one is a group of its own.
        seed: of the order.
        shares: of the parts; the first one gets what is left. Default 70 % training, 15 % validation, 15 % test.

    Returns:
        Samples of each part, in their order. A class with too few groups for all parts goes to training first.
    """
    shares = dict(shares or SHARES)
    rest = next(iter(shares))
    bundles: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        bundles[groups.get(sample.path, f"\0{sample.path}")].append(sample)
    kinds = {key: Counter(kind for sample in members for kind in kinds_of(sample)) for key, members in bundles.items()}
    total = sum(kinds.values(), Counter())
    room = {part: {kind: share * count for kind, count in total.items()} for part, share in shares.items()}
    keys = sorted(bundles)
    order = [keys[i] for i in np.random.default_rng(seed).permutation(len(keys))]
    order.sort(key=lambda key: len(bundles[key]))  # small groups first, and in the order drawn
    place: dict[str, str] = {}

    def put(key: str, part: str) -> None:
        place[key] = part
        for kind, count in kinds[key].items():
            room[part][kind] -= count

    for part in [part for part in shares if part != rest]:  # one of every class, where there are enough
        for kind in sorted(total, key=lambda k: (total[k], k)):
            free = [key for key in order if key not in place and kind in kinds[key]]
            there = any(kind in kinds[key] for key, where in place.items() if where == part)
            if not there and len(free) > 1:  # training has the last one
                put(free[0], part)
    for key in reversed([key for key in order if key not in place]):  # large ones first
        put(key, max(shares, key=lambda p: (gain(kinds[key], room[p], p == rest), p == rest)))
    return {part: [s for s in samples if place[groups.get(s.path, f"\0{s.path}")] == part] for part in shares}


def gain(counts: Mapping[int, int], room: Mapping[int, float], rest: bool) -> float:
    """Return how well a group fits into a part: the room that it fills, less what it overfills.

    A group that fits into no other part costs nothing in training.
    """
    filled = sum(min(count, max(room[kind], 0.0)) for kind, count in counts.items())
    over = sum(max(count - max(room[kind], 0.0), 0.0) for kind, count in counts.items())
    relative = sum(max(room[kind], 0.0) / 1e3 for kind in counts)
    return filled + relative - (0.0 if rest else 1.5 * over)
