"""Number the classes of several splits alike: by their names, from 0, and without those that have no files."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from xmodal.data.annotations import Listing, Sample
from xmodal.data.class_names import plain
from xmodal.data.lists import each_line


def with_numbers(samples: Iterable[Sample], new: Mapping[int, int]) -> list[Sample]:
    """Return samples whose classes have new numbers; -1, which stands for no class, stays."""
    return [
        replace(s, label=new.get(s.label, s.label), labels=s.labels and tuple(sorted(new[y] for y in s.labels)))
        for s in samples
    ]


def joined(names: list[str], listing: Listing) -> tuple[list[str], list[Sample]]:
    """Return all names, and a listing's samples numbered by them."""
    own = listing.classes or []
    # `a_b` and `a b` are one class, unless a split has both
    both = {plain(n) for split in (names, own) for n, count in Counter(map(plain, split)).items() if count > 1}
    key = lambda name: name if plain(name) in both else plain(name)  # noqa: E731
    known = {key(name): i for i, name in enumerate(names)}
    for name in own:
        if key(name) not in known:
            known[key(name)] = len(names)
            names = [*names, name]
    return names, with_numbers(listing.samples, {old: known[key(name)] for old, name in enumerate(own)})


def labels_of(parts: Mapping[str, Sequence[Sample]]) -> set[int]:
    """Return the numbers of the classes that have files."""
    return {y for part in parts.values() for s in part for y in (s.labels if s.labels is not None else (s.label,))}


def numbered(parts: Mapping[str, Sequence[Sample]]) -> list[str]:
    """Return names for classes that have only numbers."""
    return [str(number) for number in range(max(labels_of(parts), default=-1) + 1)]


def without_empty(
    parts: dict[str, list[Sample]], names: list[str]
) -> tuple[dict[str, list[Sample]], list[str], list[str]]:
    """Leave out classes without files; returns the parts, the names that are left, and the others."""
    used = [number for number in range(len(names)) if number in labels_of(parts)]
    new = {old: i for i, old in enumerate(used)}
    empty = [name for number, name in enumerate(names) if number not in new]
    return {part: with_numbers(samples, new) for part, samples in parts.items()}, [names[i] for i in used], empty


def counts_from_one(paths: Sequence[Path], classes: Sequence[str]) -> bool:
    """Return whether the labels of lists run from 1 to the number of classes, as in UCF101's."""
    found: set[int] = set()
    for path in paths:
        labels = (re.search(r"[\s,;](\d+)\s*$", line) for line in each_line(path))
        found |= {int(label[1]) for label in labels if label}
    return bool(found) and 0 not in found and max(found) == len(classes)
