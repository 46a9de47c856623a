"""Turn what a user names (files, folders, patterns, lists) into files and names of their results."""

import glob
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from xmodal.data.lists import lines_of

LIST_ENDINGS = (".txt", ".lst", ".list")
Whole = Callable[[str], bool]


@dataclass(frozen=True)
class Input:
    """One file to predict.

    Args:
        path: as named by the user, or found.
        name: relative path of its results, without ending; no two inputs have the same.
    """

    path: str
    name: str


def no_folder(path: str) -> bool:
    """Return whether a folder is one sample; here, none is."""
    return False


def expand(
    named: Sequence[str], endings: Sequence[str], out: str | Path | None = None, whole: Whole = no_folder
) -> list[Input]:
    """Find the files that a user named.

    Args:
        named: files, folders (searched with their subfolders), patterns such as `scans/*.ply`, and lists: `@list`, a
            text file whose first line is the path of a file, or `-` for lines of standard input. What is not there
            stays, so that it is reported.
        endings: of the files taken from folders, lower case.
        out: folder of results inside a folder that is searched: left out.
        whole: says which folders are one sample each, such as videos stored as frames.

    Raises:
        ValueError: a folder, pattern or list without such files.
    """
    skip = Path(out).resolve() if out is not None else None
    found: dict[str, PurePath] = {}  # absolute path -> relative name
    shown: dict[str, str] = {}
    for word in named:
        for path, name in files_of(str(word), endings, skip, whole):
            key = os.path.abspath(path)
            if key not in found:
                found[key], shown[key] = name, path
    names = unique_names(found)
    return [Input(shown[key], names[key]) for key in found]


def files_of(
    word: str, endings: Sequence[str], skip: Path | None, whole: Whole = no_folder
) -> Iterator[tuple[str, PurePath]]:
    """Paths and relative names of the files that one word stands for."""
    path = Path(word)
    if word == "-":
        lines = [line.rstrip("\r\n") for line in sys.stdin]
        yield from listed("standard input", lines, Path(), endings, skip, whole)
    elif os.path.isdir(path):
        files = [path] if whole(word) else list(below(path, endings, skip, whole))
        if not files:
            raise ValueError(f"no files below {word} that end in {' '.join(endings)}")
        yield from ((str(file), file.relative_to(path) if file != path else relative(word)) for file in files)
    elif word.startswith("@") and not os.path.exists(path):
        yield from read_list(Path(word[1:]), endings, skip, whole)
    elif path.suffix.lower() in LIST_ENDINGS and os.path.isfile(path) and is_list(path):
        yield from read_list(path, endings, skip, whole)
    elif not os.path.exists(path) and glob.has_magic(word):
        matches = sorted(glob.glob(word, recursive=True))
        if not matches:
            raise ValueError(f"no file matches {word}")
        for match in matches:
            if Path(match).is_file() or whole(match):
                yield match, relative(match)
    else:
        yield word, relative(word)


def relative(path: str) -> PurePath:
    """Return a path that stays below a folder of results: as given when it is relative, else its last part."""
    pure = PurePath(path)
    return PurePath(pure.name) if pure.is_absolute() or ".." in pure.parts else pure


def below(folder: Path, endings: Sequence[str], skip: Path | None, whole: Whole = no_folder) -> Iterator[Path]:
    """Files with these endings below a folder, in order; links to folders already seen are not followed again."""
    seen: set[str] = set()
    for root, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(root)
        if real in seen or (skip is not None and real == str(skip) and skip != folder.resolve()):
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if Path(root) != folder and whole(root):
            folders.clear()
            yield Path(root)
            continue
        for name in sorted(names):
            path = Path(root, name)
            if not name.startswith(".") and path.suffix.lower() in endings and not is_result(path):
                yield path


def is_result(path: Path) -> bool:
    """Return whether a file was written beside a prediction's JSON by an earlier run."""
    stem, _, part = path.stem.rpartition("_")
    return part in ("segment", "boxes", "classes") and path.with_name(f"{stem}.json").exists()


def is_list(path: Path) -> bool:
    """Return whether the first line of a text file is the path of something that is there."""
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        line = file.readline(4096).strip()
    # os.path says no to names that are too long, where pathlib raises
    return bool(line) and (os.path.exists(line) or os.path.exists(path.parent / line))


def read_list(path: Path, endings: Sequence[str], skip: Path | None, whole: Whole) -> Iterator[tuple[str, PurePath]]:
    """Files of a list, one a line.

    Raises:
        ValueError: no such list, or nothing in it.
    """
    if not path.is_file():
        raise ValueError(f"no list at {path}")
    yield from listed(f"the list {path}", lines_of(path), path.parent, endings, skip, whole)


def listed(
    source: str, lines: Sequence[str], home: Path, endings: Sequence[str], skip: Path | None, whole: Whole
) -> Iterator[tuple[str, PurePath]]:
    """Files of the lines of a list; relative ones start from the working directory or from `home`.

    Raises:
        ValueError: nothing in it.
    """
    lines = [line.strip() for line in lines]
    if not any(lines):
        raise ValueError(f"{source} is empty")
    for line in filter(None, lines):
        beside = home / line
        if not os.path.exists(line) and os.path.exists(beside):
            if beside.is_dir():
                yield from files_of(str(beside), endings, skip, whole)
            else:
                yield str(beside), relative(line)
        elif line == "-":
            yield line, relative(line)
        else:
            yield from files_of(line, endings, skip, whole)


def unique_names(found: dict[str, PurePath]) -> dict[str, str]:
    """Name results by relative path without ending; with it, or from the common folder on, where two would meet."""
    names = {key: str(name.with_suffix("")) for key, name in found.items()}
    for longer in (
        lambda key: str(found[key]),
        lambda key: os.path.relpath(key, os.path.commonpath([os.path.dirname(k) for k in found])),
    ):
        counts = Counter(name.casefold() for name in names.values())
        names = {key: longer(key) if counts[name.casefold()] > 1 else name for key, name in names.items()}
    return names
