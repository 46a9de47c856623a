"""Readers of annotations: list files, folders of classes, JSON files, and the class names beside them."""

import csv
import hashlib
import json
import logging
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from xmodal.data.trouble import NotAFileError, regular_file
from xmodal.data.walk import LeftOut, files_below, is_loop, printable
from xmodal.registry import Registry, did_you_mean, resolve

log = logging.getLogger("xmodal.data")
NO_LABEL = -1
_LINE = re.compile(r"(?P<path>.+?)\s*[\s,]\s*(?P<label>-?\d+)\s*")
_UNSAFE = re.compile(r"[\n\r\t\"]|^\s|\s$")  # in a path: would end its line or its column, or be stripped
_NAMED_LINE = re.compile(r"(?P<path>.+?)\s*[\t,]\s*(?P<label>[^\t,]+?)\s*")


@dataclass(frozen=True)
class Sample:
    """One file of a set: its path, class (-1 for none) and name in reports."""

    path: str
    label: int
    sample_id: str


@dataclass(frozen=True)
class Listing:
    """Files and class names of a set.

    Args:
        samples: in the order of the annotation.
        classes: names by class index, when the annotation or the user gives them.
        missing: ids that the annotation names and the root does not have.
    """

    samples: list[Sample]
    classes: list[str] | None = None
    missing: list[str] = field(default_factory=list)


def part_of(samples: Sequence[Sample], share: float, held: bool) -> list[Sample]:
    """Leave a share of every class out, or take only that; which samples depends on their names alone.

    Raises:
        ValueError: a share outside 0..1, or nothing left.
    """
    if not 0 <= share < 1 or (held and not share):
        raise ValueError(f"hold_out={share}, held={held}: the share of samples held out lies between 0 and 1")
    if not share:
        return list(samples)
    order: dict[int, list[tuple[str, int]]] = {}
    for i, sample in enumerate(samples):
        order.setdefault(sample.label, []).append((hashlib.sha256(str(sample.sample_id).encode()).hexdigest(), i))
    out = {i for own in order.values() for _, i in sorted(own)[: math.ceil(share * len(own))]}
    kept = [sample for i, sample in enumerate(samples) if (i in out) == held]
    if not kept:
        raise ValueError(f"hold_out={share} leaves nothing of {len(samples)} samples to train on")
    return kept


Format = Callable[[Path, Path, list[str] | None], Listing]  # (annotation, root, classes)


class Annotations:
    """Read annotations of one kind of files; further formats are registered in `formats`.

    Args:
        noun: the name of one file in messages.
        endings: of such files, in lower case.
        json: the format of a JSON file.
        unique: refuse class names that occur twice.
    """

    def __init__(self, noun: str, endings: tuple[str, ...], json: str, unique: bool = True):
        self.noun, self.endings, self.json, self.unique = noun, endings, json, unique
        self.formats = Registry("annotation format")
        self.formats.register_module("list", module=self.read_list)
        self.formats.register_module("folders", module=self.read_folders)

    def read(
        self,
        annotation: str | os.PathLike,
        root: str | os.PathLike | None = None,
        format: str | Format = "auto",  # noqa: A002
        classes: Sequence[str] | str | os.PathLike | None = None,
    ) -> Listing:
        """Read an annotation.

        Args:
            annotation: list file (`path label`), folder with one folder per class, or file of another format.
            root: folder the paths start from; where the annotation lies when not given.
            format: a name in `formats`, `auto` to detect it, or a function of (annotation, root, classes), or its
                import path.
            classes: names by class index, or a file of them (one a line, or JSON).

        Raises:
            ValueError: an annotation that cannot be understood, naming file, line, key and the fix.
        """
        path = Path(annotation)
        if not path.exists():
            raise ValueError(f"annotation {path} does not exist (looked from {Path.cwd()})")
        kind = self.detect(path) if format == "auto" else format
        read = resolve(kind, self.formats)
        base = Path(root) if root is not None else (path if path.is_dir() else path.parent)
        if not base.is_dir():
            raise ValueError(f"root {base} is not a folder; it should hold the {self.noun}s of {path}")
        listing = read(path, base, read_classes(classes, self.unique))
        missing, total = listing.missing, len(listing.samples) + len(listing.missing)
        if not listing.samples:
            all_missing = f" that are below {base}; all {total} are missing, e.g. {missing[0]!r}" if missing else ""
            raise ValueError(f"{path} (read as {kind!r}) names no {self.noun}s{all_missing}")
        if missing:
            some = ", ".join(map(printable, missing[:3]))
            log.warning("%s: %d of %d %ss are not below %s, e.g. %s", path, len(missing), total, self.noun, base, some)
        return listing

    def detect(self, path: Path) -> str:
        """Detect the format of an annotation file or folder."""
        if path.is_dir():
            return "folders"
        if path.suffix.lower() == ".json":
            return self.json
        with open_text(path) as lines:
            header = next(lines, "")
        return "kinetics" if "kinetics" in self.formats and "youtube_id" in header.split(",") else "list"

    def read_list(self, path: Path, root: Path, classes: list[str] | None) -> Listing:
        """Read lines `path label`: space, tab or comma between, spaces in paths allowed, absolute paths taken as is.

        The label is a number, or, after a tab or comma and with `classes` given, a class name.
        """
        known = {name: index for index, name in enumerate(classes or ())}
        samples = []
        for number, line in enumerate(lines_of(path), 1):
            if not line.strip():
                continue
            where = f"{path}:{number}"
            name, label = _split(line.strip(), where, known)
            if classes is not None and label >= len(classes):
                count = len(classes)
                raise ValueError(f"{where}: label {label}, but there are {count} classes (0 to {count - 1})")
            samples.append(Sample(os.path.join(root, name), label, name))
        self.check_root(samples, path, root)
        return Listing(samples, classes)

    def read_folders(self, path: Path, root: Path, classes: list[str] | None) -> Listing:
        """Read a folder that has one folder of files per class; classes in alphabetical order unless given."""
        real = os.path.realpath(path)
        inner = sorted(entry.name for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))
        folders = [name for name in inner if not is_loop(path / name, real)]
        if not folders:
            raise ValueError(f"{path} has no folders; with format 'folders' each class is a folder of {self.noun}s")
        classes = classes if classes is not None else folders
        index = index_of(classes)
        samples, left_out = [], LeftOut()
        for folder in folders:
            label = look_up(folder, index, str(path / folder))
            files = files_below(path / folder, self.endings, left_out)
            samples += [Sample(p, label, os.path.relpath(p, path)) for p in sorted(files)]
        for entry in sorted(entry for entry in path.iterdir() if entry.is_file() and not entry.name.startswith(".")):
            left_out.add(str(entry), entry.suffix.lower())  # in no class
        self.say_left_out(path, left_out)
        return Listing(samples, classes)

    def below(self, root: Path) -> dict[str, list[str]]:
        """Find the paths of all files below a folder, by name without ending; others are counted and named."""
        found: dict[str, list[str]] = {}
        left_out = LeftOut()
        for path in files_below(root, self.endings, left_out):
            found.setdefault(os.path.splitext(os.path.basename(path))[0], []).append(path)
        self.say_left_out(root, left_out)
        return found

    def say_left_out(self, root: Path, left_out: LeftOut) -> None:
        """Warn of files whose ending is none of ours."""
        if left_out.counts:
            where = printable(str(root))
            log.warning("%s: left out, as no %ss by their ending or place: %s", where, self.noun, left_out)

    def check_root(self, samples: Sequence[Sample], path: Path, root: Path) -> None:
        """Refuse a root under which none of the first files exists: then the root is wrong, not the files."""
        first = samples[:20]
        if first and not any(os.path.exists(sample.path) for sample in first):
            raise ValueError(
                f"none of the first {len(first)} {self.noun}s of {path} exists, e.g. {first[0].path}; "
                f"root is {root}: give the folder that the paths in it start from"
            )


def open_text(path: str | os.PathLike, newline: str | None = None) -> TextIO:
    """Open a text file so that names of any bytes come through.

    Raises:
        ValueError: a FIFO, a device or a folder.
    """
    try:
        regular_file(path)
    except NotAFileError as error:
        raise ValueError(f"{path} {error}") from None
    return open(path, encoding="utf-8-sig", errors="surrogateescape", newline=newline)


def lines_of(path: str | os.PathLike) -> list[str]:
    """Read the lines of a text file; only line feeds and carriage returns end one (names may hold other separators)."""
    with open_text(path) as lines:
        return [line.rstrip("\n") for line in lines]


def read_csv(path: str | os.PathLike, delimiter: str = ",") -> list[dict[str, str]]:
    """Read the rows of a table with a head line.

    Raises:
        ValueError: not such a table, naming the file and line.
    """
    with open_text(path, newline="") as lines:
        rows = csv.DictReader(lines, delimiter=delimiter)
        try:
            return list(rows)
        except csv.Error as error:
            raise ValueError(f"{path}:{rows.line_num}: not a table of values: {error}") from None


def unquoted(name: str) -> str:
    """Return a path of a list without the quotes around it; in quotes, `write_list` escapes what would end a line."""
    if len(name) > 1 and name[0] == name[-1] == '"':
        try:
            escaped = str(json.loads(name))
        except ValueError:
            escaped = ""
        if _UNSAFE.search(escaped):
            return escaped
    return name.strip('"')


def _split(line: str, where: str, known: Mapping[str, int]) -> tuple[str, int]:
    found = _LINE.fullmatch(line)
    if found:
        if int(found["label"]) < 0:
            raise ValueError(f"{where}: expected a class counted from 0, got the negative label {found['label']}")
        return unquoted(found["path"]), int(found["label"])
    named = _NAMED_LINE.fullmatch(line)
    if named and named["label"] in known:
        return unquoted(named["path"]), known[named["label"]]
    if named and known:
        raise ValueError(f"{where}: no class is called {named['label']!r}; {did_you_mean(named['label'], known)}")
    raise ValueError(
        f"{where}: expected `path label` with a whole number at the end, got {line!r}"
        "; for class names put a tab or comma before them and give `classes`"
    )


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
        return [line.strip() for line in lines_of(path) if line.strip()]
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


def load_json(path: Path, kind: type = object, form: str = "") -> Any:
    """Read a JSON file; errors name the line, or the form that is expected of a `kind`."""
    try:
        with open_text(path) as file:
            found = json.load(file)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}:{error.lineno}: not valid JSON: {error.msg}") from None
    except RecursionError:
        raise ValueError(f"{path}: JSON nested too deeply") from None
    if not isinstance(found, kind):
        raise ValueError(f"{path}: expected {form}, found a {type(found).__name__}")
    return found


def write_list(path: str | os.PathLike, samples: Iterable[Sample]) -> None:
    """Write a list file of absolute paths, so that any path survives."""
    write_lines(path, ((os.path.abspath(sample.path), sample.label) for sample in samples))


def write_lines(path: str | os.PathLike, labeled: Iterable[tuple[str, int]]) -> None:
    """Write a list file of paths and labels, a tab between, paths that would not survive in quotes as JSON."""
    with open(path, "w", encoding="utf-8", errors="surrogateescape") as file:
        for name, label in labeled:
            file.write(f"{json.dumps(name) if _UNSAFE.search(name) else name}\t{label}\n")


IMAGE_ENDINGS = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".bmp", ".dib", ".webp", ".avif", ".ppm", ".pgm", ".pbm", ".pnm",
    ".tif", ".tiff", ".gif", ".tga", ".jp2", ".j2k", ".jpx", ".ico", ".pcx", ".sgi", ".dds",
)  # fmt: skip
IMAGES = Annotations("image", IMAGE_ENDINGS, json="json", unique=False)


@IMAGES.formats.register_module(name="json")
def read_json(path: Path, root: Path, classes: list[str] | None) -> Listing:
    """Read `{image: class}`; classes are those of `train.json` beside it, sorted, so that all splits count alike.

    Differs from the released code: that one sorts the classes of each split by itself.
    """
    entries = load_json(path, dict, "{image: class}")
    beside = path.with_name("train.json")
    of_all = load_json(beside, dict, "{image: class}") if beside.is_file() else entries
    known = sorted(set(of_all.values()), key=lambda c: (str(type(c)), c))
    index = {value: number for number, value in enumerate(known)}
    samples = []
    for name, value in entries.items():
        if value not in index:
            raise ValueError(f"{path}: class {value!r} of {name!r} does not occur in {beside}")
        samples.append(Sample(os.path.join(root, name), index[value], name))
    if classes is not None and len(classes) != len(known):
        raise ValueError(f"{path} has {len(known)} classes, and {len(classes)} names were given")
    IMAGES.check_root(samples, path, root)
    return Listing(samples, classes if classes is not None else [str(value) for value in known])
