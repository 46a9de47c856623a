"""Walk folders of files: each real folder once, hidden ones skipped, files of other kinds counted and named."""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from xmodal.data.trouble import reading


@dataclass
class LeftOut:
    """Files that a walk met and did not take, by ending: how many, and one of them."""

    counts: dict[str, int] = field(default_factory=dict)
    examples: dict[str, str] = field(default_factory=dict)

    def add(self, path: str, ending: str) -> None:
        """Note a file."""
        self.counts[ending] = self.counts.get(ending, 0) + 1
        self.examples.setdefault(ending, path)

    def join(self, other: "LeftOut") -> None:
        """Take over what another walk noted."""
        for ending, count in other.counts.items():
            self.counts[ending] = self.counts.get(ending, 0) + count
            self.examples.setdefault(ending, other.examples[ending])

    def __str__(self) -> str:
        most = sorted(self.counts, key=lambda ending: (-self.counts[ending], ending))
        parts = [f"{self.counts[e]} {e or 'without an ending'} (e.g. {printable(self.examples[e])})" for e in most[:5]]
        return ", ".join(parts) + (f" and {len(most) - 5} further endings" if len(most) > 5 else "")


def printable(name: str) -> str:
    """Return a name in one line that every terminal and file can take: other characters as escapes."""
    plain = (c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode("ascii") for c in name)
    return "".join(plain)


def passed_over(name: str) -> bool:
    """Return whether a file or folder is no one's data: hidden, or made by macOS or a network drive beside the data."""
    return name.startswith(".") or name in ("__MACOSX", "@eaDir")


def above(folder: str, real: str) -> bool:
    """Return whether a folder is `real`, or lies above it."""
    found = os.path.realpath(folder)
    return real == found or real.startswith(found.rstrip(os.sep) + os.sep)


def files_below(
    root: str | os.PathLike, endings: tuple[str, ...] | None, left_out: LeftOut | None = None
) -> Iterator[str]:
    """Yield the paths of the files below a folder that have one of the endings, in order.

    Links are followed, except to a folder that lies above them and to one that was walked before.

    Args:
        root: the folder.
        endings: in lower case, with the dot; None for all files.
        left_out: takes note of the other files.
    """
    walked: set[tuple[int, int]] = set()
    for folder, folders, names in os.walk(os.fspath(root), onerror=refuse, followlinks=True):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in walked:
            folders.clear()
            continue
        walked.add((status.st_dev, status.st_ino))
        real = os.path.realpath(folder)
        inner = (name for name in sorted(folders) if not passed_over(name))
        folders[:] = [n for n in inner if not is_loop(os.path.join(folder, n), real)]
        for name in sorted(names):
            if passed_over(name):
                continue
            path, ending = os.path.join(folder, name), os.path.splitext(name)[1].lower()
            if endings is None or ending in endings:
                yield path
            elif left_out is not None:
                left_out.add(path, ending)


def class_folders(
    root: Path, endings: tuple[str, ...], left_out: LeftOut, folders: Callable[[Path], Iterable[str]] | None = None
) -> dict[str, list[tuple[str, str]]]:
    """Find the files in each folder of a folder.

    Args:
        root: the folder.
        endings: see `files_below`.
        left_out: see `files_below`; also of files that are in none of the folders.
        folders: finds the folders below a folder that count as one file each, where it has no files.

    Returns:
        Path and name below the root of the files of each folder, folders and files in alphabetical order.
    """
    real, found = os.path.realpath(root), {}
    inner = sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not passed_over(entry.name))
    for folder in (name for name in inner if not is_loop(root / name, real)):
        inner_out = LeftOut()
        files = sorted(files_below(root / folder, endings, inner_out))
        if not files and folders is not None and (files := sorted(folders(root / folder))):
            inner_out = LeftOut()  # the frames
        left_out.join(inner_out)
        found[folder] = [(file, os.path.relpath(file, root)) for file in files]
    for entry in sorted(entry for entry in root.iterdir() if entry.is_file() and not passed_over(entry.name)):
        left_out.add(str(entry), entry.suffix.lower())
    return found


def refuse(error: OSError) -> None:
    """Raise what a folder cannot be listed for; `os.walk` would pass over it in silence.

    Raises:
        TroubleError: the storage fails.
        ValueError: no permission, for example.
    """
    with reading(error.filename, ValueError, lambda e: ValueError(f"{error.filename} cannot be listed: {e}")):
        raise error


def is_loop(path: str | os.PathLike, real: str) -> bool:
    """Return whether a path is a link to a folder that holds the folder `real` in which the link lies."""
    return os.path.islink(path) and above(os.fspath(path), real)
