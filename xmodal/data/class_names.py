"""Read the names of classes from a file, and find a class by a name that is written a little otherwise."""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from xmodal.data.lists import lines_of, load_json
from xmodal.registry import did_you_mean


def read_classes(classes: Sequence[str] | str | os.PathLike | None, unique: bool = True) -> list[str] | None:
    """Read class names by index from a sequence or a file.

    A text file has one name a line. A JSON file has a list, {name: index} or {index: name}; indices may be strings.

    Raises:
        ValueError: indices that are not 0 to K-1, or, with `unique`, names that occur twice.
    """
    if classes is None:
        return None
    if isinstance(classes, str | os.PathLike):
        where, names = str(classes), _classes_of_file(Path(classes))
    else:
        where, names = "classes", [str(name) for name in classes]
    if unique and len(set(names)) < len(names):
        twice = min(name for name in names if names.count(name) > 1)
        raise ValueError(f"{where}: class {twice!r} occurs twice")
    return names


def _classes_of_file(path: Path) -> list[str]:
    if not path.is_file():
        raise ValueError(f"class file {path} does not exist")
    if path.suffix.lower() != ".json":
        return without_numbers([line.strip() for line in lines_of(path) if line.strip()])
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


def without_numbers(names: list[str]) -> list[str]:
    """Return the names of lines `1 ApplyEyeMakeup` that count up from 0 or 1; other lines stay as they are."""
    parts = [re.fullmatch(r"(\d+)[\s,:]+(.+)", name) for name in names]
    numbers = [int(part[1]) for part in parts if part]
    counts = len(numbers) == len(names) > 1 and numbers == list(range(numbers[0], numbers[0] + len(names)))
    return [part[2] for part in parts if part] if counts and numbers[0] in (0, 1) else names


def index_of(classes: Iterable[str]) -> dict[str, int]:
    """Index classes by their names and by their plain names (without underscores and quotes)."""
    index = {name: number for number, name in enumerate(classes)}
    return {**{plain(name): number for name, number in index.items()}, **index}


def plain(name: str) -> str:
    """Normalize a class name: underscores become spaces, quotes and outer spaces are removed."""
    return name.strip().strip('"').replace("_", " ")


def look_up(name: str, index: Mapping[str, int], where: str) -> int:
    """Find a class in `index_of(classes)`; an unknown one is an error that names the place and the nearest class."""
    found = index.get(name, index.get(plain(name)))
    if found is None:
        raise ValueError(f"{where}: no class is called {plain(name)!r}; {did_you_mean(plain(name), index)}"[:400])
    return found
