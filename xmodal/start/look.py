"""Look at a user's files: which cannot be read, their sizes and lengths, and which are equal in two splits."""

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from statistics import median_high
from typing import Any

import numpy as np

from pointcloud.datasets.base import CloudError
from pointcloud.datasets.files import read_cloud
from video.batch import CRASHED, over_video
from video.check import check
from video.frames import frames_in
from xmodal.data.annotations import Sample
from xmodal.data.pictures import ImageError, read_picture
from xmodal.data.trouble import retried

AT_MOST = 5000  # files that are opened; of larger sets as many are drawn
PROCESSES_FROM = 100  # files from which on several processes are worth their start


@dataclass
class Look:
    """Counts, sizes and lengths found in the files of a data set.

    Args:
        broken: reasons by path.
        facts: of the files that can be read: `height` and `width`, `frames` and `seconds`, or `points`.
        drawn: how many files were opened, where not all were.
        equal: paths of equal content, in bundles of two and more.
    """

    broken: dict[str, str] = field(default_factory=dict)
    facts: list[dict[str, Any]] = field(default_factory=list)
    drawn: int | None = None
    equal: list[list[str]] = field(default_factory=list)


def look(task: str, samples: Sequence[Sample], workers: int | None = None, seed: int = 0) -> Look:
    """Open the files of a set, with a progress bar.

    Args:
        task: `video`, `image` or `cloud`.
        samples: of all splits.
        workers: processes; default: none for small sets, one a core for large ones.
        seed: of the files drawn from a very large set.
    """
    paths = list(dict.fromkeys(sample.path for sample in samples))
    found = Look()
    if len(paths) > AT_MOST:
        rows = np.random.default_rng(seed).permutation(len(paths))[:AT_MOST]
        paths, found.drawn = [paths[i] for i in sorted(rows)], AT_MOST
    if workers is None:
        workers = 0 if len(paths) < PROCESSES_FROM else min(os.cpu_count() or 1, 8)
    with closing(over_video(partial(look_at, task), paths, workers, f"looking at {task}s")) as results:
        for path, facts in results:
            if facts is None or "broken" in facts:
                found.broken[path] = CRASHED if facts is None else facts["broken"]
            else:
                found.facts.append(facts)
    found.equal = equal_files(path for path in paths if path not in found.broken)
    return found


def look_at(task: str, path: str) -> dict[str, Any]:
    """Describe one file, or say why it cannot be read (`broken`)."""
    if task == "video":
        return check((path, False))
    try:
        if task == "image":
            width, height = retried(lambda: read_picture(path)).size
            return {"height": height, "width": width}
        cloud = retried(lambda: read_cloud(path))
        extent = cloud["coord"].max(0) - cloud["coord"].min(0)
        return {"points": len(cloud["coord"]), "extent": float(extent.max()), "color": cloud.get("feat") is not None}
    except (ImageError, CloudError, OSError) as error:
        return {"broken": str(error)}


def equal_files(paths: Iterable[str]) -> list[list[str]]:
    """Return bundles of files of equal content, whatever their names; only files of equal size are read."""
    sizes: dict[Any, list[str]] = defaultdict(list)
    for path in paths:
        sizes[size_of(path)].append(path)
    bundles: dict[Any, list[str]] = defaultdict(list)
    for size, members in sizes.items():
        if len(members) > 1 and size:
            for path in members:
                bundles[size, digest(path)].append(path)
    return [members for members in bundles.values() if len(members) > 1]


def files_at(path: str) -> list[str]:
    """Return the files of a path: itself, or the frames of a folder."""
    return frames_in(path) if os.path.isdir(path) else [path]


def size_of(path: str) -> tuple[int, int]:
    """Return the number of a path's files and their bytes."""
    files = files_at(path)
    return len(files), sum(os.path.getsize(file) for file in files)


def digest(path: str) -> str:
    """Hash the content of a file, or of the frames of a folder."""
    found = hashlib.sha256()
    for file in files_at(path):
        with open(file, "rb") as stream:
            while piece := stream.read(1 << 20):
                found.update(piece)
    return found.hexdigest()


def shared(equal: Sequence[Sequence[str]], parts: Mapping[str, Sequence[Sample]]) -> list[tuple[str, str]]:
    """Return pairs of equal files (or of one file named twice) that are in different splits."""
    where = defaultdict(set)
    for part, samples in parts.items():
        for sample in samples:
            where[sample.path].add(part)
    pairs = [(path, path) for path, found in where.items() if len(found) > 1]
    for members in equal:
        first = members[0]
        pairs += [(first, other) for other in members[1:] if where[first] != where[other]]
    return pairs


def lines(found: Look, task: str) -> list[str]:
    """Say in a few lines what the files hold."""
    facts = found.facts
    said = []
    if facts and "width" in facts[0]:
        sizes = Counter(f"{f['width']}x{f['height']}" for f in facts).most_common(4)
        said.append(
            "sizes: " + ", ".join(f"{size} ({count})" for size, count in sizes) + (", ..." if len(sizes) > 3 else "")
        )
    for key, word in (("frames", "frames"), ("seconds", "seconds"), ("points", "points")):
        values = sorted(f[key] for f in facts if f.get(key))
        if values:
            said.append(f"{word}: {values[0]:g} to {values[-1]:g}, median {median_high(values):g}")
    if found.drawn:
        said.append(f"opened {found.drawn} files drawn at random; xmodal check-videos opens all")
    return said
