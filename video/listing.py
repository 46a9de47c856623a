"""Samples and class names of annotated video sets, and the files below a folder."""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xmodal.registry import did_you_mean

NO_LABEL = -1
EXTENSIONS = (".mp4", ".webm", ".mkv", ".avi", ".mov", ".m4v", ".mpg", ".mpeg", ".ts", ".flv", ".wmv", ".3gp", ".gif")


@dataclass(frozen=True)
class Sample:
    """One video of a set: its path, class (-1 for none) and name in reports."""

    path: str
    label: int
    sample_id: str


@dataclass(frozen=True)
class Listing:
    """Videos and class names of a set.

    Args:
        samples: in the order of the annotation.
        classes: names by class index, when the annotation or the user gives them.
        missing: ids that the annotation names and the root does not have.
    """

    samples: list[Sample]
    classes: list[str] | None = None
    missing: list[str] = field(default_factory=list)


def read_classes(classes: Sequence[str] | str | os.PathLike | None) -> list[str] | None:
    """Class names by index from a sequence or a file.

    A text file has one name a line. A JSON file has a list, {name: index} or {index: name}; indices may be strings.

    Raises:
        ValueError: indices that are not 0 to K-1, or names that occur twice.
    """
    if classes is None:
        return None
    if isinstance(classes, (str, os.PathLike)):
        where, names = str(classes), _classes_of_file(Path(classes))
    else:
        where, names = "classes", [str(name) for name in classes]
    twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if twice:
        raise ValueError(f"{where}: class {twice[0]!r} occurs twice")
    return names


def _classes_of_file(path: Path) -> list[str]:
    if not path.is_file():
        raise ValueError(f"class file {path} does not exist")
    if path.suffix.lower() != ".json":
        return [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    content = load_json(path)
    if isinstance(content, list):
        return [str(name) for name in content]
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a list or an object of classes, found {type(content).__name__}")
    by_name = all(str(value).isdigit() for value in content.values())
    pairs = [(int(v), k) if by_name else (int(k), str(v)) for k, v in content.items() if by_name or k.isdigit()]
    if sorted(index for index, _ in pairs) != list(range(len(content))):
        raise ValueError(f"{path}: class indices must be 0 to {len(content) - 1}, each once")
    return [name for _, name in sorted(pairs)]


def videos_below(root: Path) -> dict[str, list[str]]:
    """Paths of all videos below a folder, by name without ending."""
    found: dict[str, list[str]] = {}
    for folder, folders, names in os.walk(root, followlinks=True):
        folders.sort()
        for name in sorted(names):
            stem, ending = os.path.splitext(name)
            if ending.lower() in EXTENSIONS and not name.startswith("."):
                found.setdefault(stem, []).append(os.path.join(folder, name))
    return found


def plain(name: str) -> str:
    """Normalize a class name: underscores become spaces, quotes and outer spaces are removed."""
    return name.strip().strip('"').replace("_", " ")


def look_up(name: str, index: Mapping[str, int], where: str) -> int:
    """The index of a class, or an error that names the place and the nearest class."""
    if name not in index:
        raise ValueError(f"{where}: no class is called {name!r}; {did_you_mean(name, index)}"[:400])
    return index[name]


def load_json(path: Path) -> Any:
    """Read a JSON file; errors name the line."""
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}:{error.lineno}: not valid JSON: {error.msg}") from None


def write_list(path: str | os.PathLike, samples: Iterable[Sample]) -> None:
    """Write a list file of absolute paths, tab before the label, so that any path survives."""
    lines = [f"{os.path.abspath(sample.path)}\t{sample.label}\n" for sample in samples]
    Path(path).write_text("".join(lines), encoding="utf-8")
