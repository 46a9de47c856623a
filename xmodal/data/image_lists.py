"""Readers of image annotations: list files, folders of classes, and JSON files from image to class."""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from xmodal.registry import did_you_mean

IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff", ".gif")


@dataclass(frozen=True)
class Sample:
    """One image.

    Args:
        path: the file.
        label: class index.
        sample_id: its name in the annotation.
    """

    path: str
    label: int
    sample_id: str


@dataclass(frozen=True)
class Listing:
    """Hold the content of an annotation: the images, and the class names where it gives them."""

    samples: list[Sample]
    classes: list[str] | None = None


def read_images(
    annotation: str | os.PathLike,
    root: str | os.PathLike | None = None,
    format: str = "auto",  # noqa: A002
    classes: Sequence[str] | str | os.PathLike | None = None,
) -> Listing:
    """Read an annotation.

    Args:
        annotation: list file (`path label`), folder with one folder per class, or JSON `{image: class}`.
        root: folder the paths start from; where the annotation lies when not given.
        format: `list`, `folders`, `json`, or `auto` to tell by the annotation.
        classes: names by class index, or a file with one a line.

    Raises:
        ValueError: an annotation that cannot be understood, naming file, line and the fix.
    """
    path = Path(annotation)
    if not path.exists():
        raise ValueError(f"annotation {path} does not exist (looked from {Path.cwd()})")
    kind = detect(path) if format == "auto" else format
    if kind not in FORMATS:
        raise ValueError(f"no annotation format is called {kind!r}; {did_you_mean(kind, [*FORMATS, 'auto'])}")
    base = Path(root) if root is not None else (path if path.is_dir() else path.parent)
    if not base.is_dir():
        raise ValueError(f"root {base} is not a folder; it should hold the images of {path}")
    listing = FORMATS[kind](path, base, names_of(classes))
    if not listing.samples:
        raise ValueError(f"{path} (read as {kind!r}) names no images")
    check_root(listing.samples, path, base)
    return listing


def detect(path: Path) -> str:
    """Tell the format of an annotation by what it is."""
    if path.is_dir():
        return "folders"
    return "json" if path.suffix.lower() == ".json" else "list"


def names_of(classes: Sequence[str] | str | os.PathLike | None) -> list[str] | None:
    """Class names, read from a file where one is given."""
    if isinstance(classes, str | os.PathLike):
        if not Path(classes).is_file():
            raise ValueError(f"no file of class names at {classes}")
        return [line.strip() for line in Path(classes).read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    return list(classes) if classes is not None else None


def read_list(path: Path, root: Path, classes: list[str] | None) -> Listing:
    """Read lines `path label`, split from the right: paths may hold blanks; absolute ones are taken as they are."""
    samples = []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1):
        if not line.strip():
            continue
        name, _, text = line.strip().replace("\t", " ").rpartition(" ")
        if not name.strip() or not text.isdigit():
            raise ValueError(f"{path}:{number}: expected `path label` with a class index at the end, got {line!r}")
        name, label = name.strip(), int(text)
        if classes is not None and label >= len(classes):
            raise ValueError(f"{path}:{number}: label {label}, but there are {len(classes)} classes, counted from 0")
        samples.append(Sample(os.path.join(root, name), label, name))
    return Listing(samples, classes)


def read_folders(path: Path, root: Path, classes: list[str] | None) -> Listing:
    """Read a folder with one folder of images per class; classes in alphabetical order unless given."""
    found = sorted(entry.name for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    classes = classes if classes is not None else found
    index = {name: number for number, name in enumerate(classes)}
    samples = []
    for folder in found:
        if folder not in index:
            raise ValueError(f"{path / folder}: no class is called {folder!r}; {did_you_mean(folder, index)}")
        files = sorted(p for p in (path / folder).rglob("*") if p.suffix.lower() in IMAGES)
        samples += [Sample(str(p), index[folder], str(p.relative_to(path))) for p in files]
    return Listing(samples, classes)


def read_json(path: Path, root: Path, classes: list[str] | None) -> Listing:
    """Read `{image: class}`; classes are those of `train.json` beside it, sorted, so that all splits count alike.

    Differs from the released code: that one sorts the classes of each split by itself.
    """
    entries = load_json(path)
    beside = path.with_name("train.json")
    known = sorted(set((load_json(beside) if beside.is_file() else entries).values()), key=lambda c: (str(type(c)), c))
    index = {value: number for number, value in enumerate(known)}
    samples = []
    for name, value in entries.items():
        if value not in index:
            raise ValueError(f"{path}: class {value!r} of {name!r} does not occur in {beside}")
        samples.append(Sample(os.path.join(root, name), index[value], name))
    if classes is not None and len(classes) != len(known):
        raise ValueError(f"{path} has {len(known)} classes, and {len(classes)} names were given")
    return Listing(samples, classes if classes is not None else [str(value) for value in known])


def load_json(path: Path) -> dict:
    """Read a JSON object.

    Raises:
        ValueError: a broken file, or something else than an object.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no valid JSON: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path}: expected {{image: class}}, found a {type(found).__name__}")
    return found


def check_root(samples: Sequence[Sample], path: Path, root: Path) -> None:
    """Refuse a root under which none of the first images exists: then the root is wrong, not the images."""
    first = samples[:20]
    if not any(os.path.exists(sample.path) for sample in first):
        raise ValueError(
            f"none of the first {len(first)} images of {path} exists, e.g. {first[0].path}; "
            f"root is {root}: give the folder that the paths in it start from"
        )


FORMATS: dict[str, Callable[[Path, Path, list[str] | None], Listing]] = {
    "list": read_list,
    "folders": read_folders,
    "json": read_json,
}
