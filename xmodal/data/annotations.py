"""Readers of annotations: list files, folders of classes, JSON files, and the class names beside them."""

import hashlib
import logging
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xmodal.data import stores
from xmodal.data.lists import each_line, lines_of, load_json, open_text, rows_of, unquoted, write_lines
from xmodal.data.samples import NO_LABEL, Sample, Samples
from xmodal.data.tables import columns_of, has_header, labels_of, names_of
from xmodal.data.walk import LeftOut, printable
from xmodal.registry import Registry, did_you_mean, resolve

log = logging.getLogger("xmodal.data")
_LINE = re.compile(r"(?P<path>.+?)\s*[\s,;]\s*(?P<label>-?\d+)\s*")
_SEVERAL_LINE = re.compile(r"(?P<path>.+?)\s*[\s,]\s*(?P<labels>\d+(?:[;|]\d+)+[;|]?|\d*[;|])\s*")
NAMED_LINE = re.compile(r"(?P<path>.+?)\s*[\t,]\s*(?P<label>[^\t,]+?)\s*")


@dataclass(frozen=True)
class Listing:
    """Files and class names of a set.

    Args:
        samples: in the order of the annotation.
        classes: names by class index, when the annotation or the user gives them.
        missing: ids that the annotation names and the root does not have.

    Attributes:
        multilabel: whether files may have several classes, or none.
    """

    samples: Sequence[Sample]
    classes: list[str] | None = None
    missing: list[str] = field(default_factory=list)

    @property
    def multilabel(self) -> bool:
        """Return whether files may have several classes, or none."""
        return any(sample.labels is not None for sample in self.samples)


def part_of(samples: Sequence[Sample], share: float, held: bool) -> Sequence[Sample]:
    """Leave a share of every class out, or take only that; which samples depends on their names alone.

    Raises:
        ValueError: a share outside 0..1, or nothing left.
    """
    if not 0 <= share < 1 or (held and not share):
        raise ValueError(f"hold_out={share}, held={held}: the share of samples held out lies between 0 and 1")
    if not share:
        return samples
    order: dict[int, list[tuple[str, int]]] = {}
    for i, sample in enumerate(samples):
        order.setdefault(sample.label, []).append((hashlib.sha256(str(sample.sample_id).encode()).hexdigest(), i))
    out = {i for own in order.values() for _, i in sorted(own)[: math.ceil(share * len(own))]}
    kept = [sample for i, sample in enumerate(samples) if (i in out) == held]
    if not kept:
        raise ValueError(f"hold_out={share} leaves nothing of {len(samples)} samples to train on")
    return kept


Format = Callable[[Any, Any, list[str] | None], Listing]  # (annotation, root, classes)


class Annotations:
    """Read annotations of one kind of files; further formats are registered in `formats`.

    Args:
        noun: the name of one file in messages.
        endings: of such files, in lower case.
        json: the format of a JSON file.
        unique: refuse class names that occur twice.
        folders: finds the folders below a folder that count as one file each (frames of a video).
    """

    def __init__(
        self, noun: str, endings: tuple[str, ...], json: str, unique: bool = True,
        folders: Callable[[Path], Iterable[str]] | None = None,
    ):  # fmt: skip
        self.noun, self.endings, self.json, self.unique, self.folders = noun, endings, json, unique, folders
        self.formats = Registry("annotation format")
        self.formats.register_module("list", module=self.read_list)
        self.formats.register_module("folders", module=self.read_folders)
        self.formats.register_module("csv", module=self.read_csv)

    def read(
        self,
        annotation: stores.Place,
        root: stores.Place | None = None,
        format: str | Format = "auto",  # noqa: A002
        classes: Sequence[str] | str | os.PathLike | None = None,
    ) -> Listing:
        """Read an annotation.

        Args:
            annotation: list file (`path label`), folder with one folder per class, or file of another format.
            root: folder the paths start from, or tars, or either in a store, see `stores.root_of`; where the annotation
                lies when not given.
            format: a name in `formats`, `auto` to detect it, or a function of (annotation, root, classes), or its
                import path.
            classes: names by class index, or a file of them (one a line, or JSON).

        Raises:
            ValueError: an annotation that cannot be understood, naming file, line, key and the fix.
        """
        path: Any = stores.root_of(annotation)
        if not path.exists():
            raise ValueError(f"annotation {path} does not exist (looked from {Path.cwd()})")
        kind = self.detect(path) if format == "auto" else format
        read = resolve(kind, self.formats)
        base: Any = stores.root_of(root) if root is not None else (path if path.is_dir() else path.parent)
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
            header, row = next(lines, ""), next(lines, "")
        if "kinetics" in self.formats and "youtube_id" in map(str.lower, names_of(header)):
            return "kinetics"
        return "csv" if has_header(header) or self.is_table(path, header, row) else "list"

    def is_table(self, path: Path, header: str, row: str) -> bool:
        """Return whether the first line of a .csv or .tsv names no file and the second does: then it is a head line."""
        names_file = lambda line: any(n.lower().endswith(self.endings) for n in names_of(line))  # noqa: E731
        return path.suffix.lower() in (".csv", ".tsv") and names_file(row) and not names_file(header)

    def read_list(self, path: Path, root: Path, classes: list[str] | None) -> Listing:
        """Read lines `path label`: space, tab or comma between, spaces in paths allowed, absolute paths taken as is.

        The label is a number, or, after a tab or comma and with `classes` given, a class name. In a multi-label set,
        `path 1;4`: several numbers with semicolons between them, `path 1;` for one and `path ;` for none.
        """
        samples = consistent(Samples(self.samples_in(path, root, classes)))
        self.check_root(samples, path, root)
        return Listing(samples, classes)

    def samples_in(self, path: Path, root: Path, classes: list[str] | None) -> Iterator[Sample]:
        """Yield the samples of a list file, see `read_list`."""
        known = {name: index for index, name in enumerate(classes or ())}
        for number, line in enumerate(each_line(path), 1):
            if not line.strip():
                continue
            where = f"{path}:{number}"
            several = _SEVERAL_LINE.fullmatch(line.strip()) if ";" in line or "|" in line else None
            if several:
                name, labels = unquoted(several["path"]), [int(n) for n in re.findall(r"\d+", several["labels"])]
                label = max(labels, default=0)
            else:
                name, label = _split(line.strip(), where, known)
            if classes is not None and label >= len(classes):
                count = len(classes)
                raise ValueError(f"{where}: label {label}, but there are {count} classes (0 to {count - 1})")
            place = self.place(root, name)
            yield Sample.several(place, labels, name) if several else Sample(place, label, name)

    def place(self, root: Path, name: str) -> str:
        """Return the path of a name in a list; of `folder 120`, a folder of frames and their number, the folder."""
        place = stores.under(root, name)
        if "\\" in name and not stores.exists(place):  # written on Windows
            place = stores.under(root, name := name.replace("\\", "/"))
        folder = re.sub(r"[\s,]+\d+$", "", name) if self.folders is not None and name[-1:].isdigit() else name
        if folder != name and not stores.exists(place):
            folder = stores.under(root, folder)
            return folder if stores.is_folder(folder) else place
        return place

    def read_csv(self, path: Path, root: Path, classes: list[str] | None) -> Listing:
        """Read a table with a head line: a column of paths, and one of labels or one of 0 and 1 for every class.

        Columns are found by name (`path`, `file`, `video`, ...; `label`, `class`, ...). Labels are numbers or names;
        several of a file are separated by `;` or `|`. Classes are the names in alphabetical order unless given.
        """
        rows = rows_of(path)
        columns = columns_of(rows, str(path))
        named = [labels_of(row, columns) for row in rows]
        several = columns.label is None or any(len(found) > 1 for found in named)
        if classes is None and columns.label is None:
            classes = list(columns.classes)
        words = {name for found in named for name in found}
        if classes is None and not all(re.fullmatch(r"\d+(\.0)?", name) for name in words):
            classes = sorted(words)
        index = index_of(classes or ())
        samples = []
        for number, (row, found) in enumerate(zip(rows, named, strict=True), 2):
            name = (row.get(columns.path) or "").strip()
            if not name:
                raise ValueError(f"{path}:{number}: no path in the column {columns.path!r}")
            labels = [self.number(word, index, f"{path}:{number}") for word in found]
            place = self.with_ending(self.place(root, name))
            samples.append(
                Sample.several(place, labels, name)
                if several
                else Sample(place, labels[0] if labels else NO_LABEL, name)
            )
        self.check_root(samples, path, root)
        return Listing(samples, classes)

    def number(self, word: str, index: Mapping[str, int], where: str) -> int:
        """Return the number of a class in a table: of its name, or itself where classes are numbers."""
        if word not in index and re.fullmatch(r"\d+(\.0)?", word):
            label = int(float(word))
            if index and label >= len(set(index.values())):
                raise ValueError(f"{where}: label {label}, but there are {len(set(index.values()))} classes")
            return label
        return look_up(word, index, where)

    def with_ending(self, place: str) -> str:
        """Return a path of a table with its ending, where the table leaves it out and one such file is there."""
        if os.path.splitext(place)[1].lower() in self.endings or stores.exists(place):
            return place
        return next((place + ending for ending in self.endings if stores.exists(place + ending)), place)

    def read_folders(self, path: Path, root: Path, classes: list[str] | None) -> Listing:
        """Read a folder that has one folder of files per class; classes in alphabetical order unless given."""
        left_out = LeftOut()
        found = stores.class_folders(path, self.endings, left_out, self.folders)
        if not found:
            raise ValueError(f"{path} has no folders; with format 'folders' each class is a folder of {self.noun}s")
        classes = classes if classes is not None else list(found)
        index = index_of(classes)
        samples = []
        for folder, files in found.items():
            label = look_up(folder, index, f"{path}/{folder}")
            samples += [Sample(file, label, name) for file, name in files]
        self.say_left_out(path, left_out)
        return Listing(samples, classes)

    def below(self, root: Path) -> dict[str, list[str]]:
        """Find the paths of all files below a folder, by name without ending; others are counted and named."""
        found: dict[str, list[str]] = {}
        left_out = LeftOut()
        for path in stores.files_below(root, self.endings, left_out):
            found.setdefault(os.path.splitext(os.path.basename(path))[0], []).append(path)
        for path in self.folders(root) if self.folders is not None and not found else ():
            found.setdefault(os.path.basename(path), []).append(path)
            left_out = LeftOut()  # the frames
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
        if first and not any(stores.exists(sample.path) for sample in first):
            raise ValueError(
                f"none of the first {len(first)} {self.noun}s of {path} exists, e.g. {first[0].path}; "
                f"root is {root}: give the folder that the paths in it start from"
            )


def consistent(samples: Samples) -> Samples:
    """Return the samples as those of a multi-label set where one of them has several classes."""
    if not samples.multilabel:
        return samples
    return Samples(s if s.labels is not None else Sample.several(s.path, [s.label], s.sample_id) for s in samples)


def _split(line: str, where: str, known: Mapping[str, int]) -> tuple[str, int]:
    found = _LINE.fullmatch(line)
    if found:
        if int(found["label"]) < 0:
            raise ValueError(f"{where}: expected a class counted from 0, got the negative label {found['label']}")
        return unquoted(found["path"]), int(found["label"])
    named = NAMED_LINE.fullmatch(line)
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


def write_list(path: str | os.PathLike, samples: Iterable[Sample]) -> None:
    """Write a list file of absolute paths, so that any path survives."""
    write_lines(path, ((stores.absolute(s.path), s.label if s.labels is None else s.labels) for s in samples))


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
        samples.append(Sample(stores.under(root, name), index[value], name))
    if classes is not None and len(classes) != len(known):
        raise ValueError(f"{path} has {len(known)} classes, and {len(classes)} names were given")
    IMAGES.check_root(samples, path, root)
    return Listing(samples, classes if classes is not None else [str(value) for value in known])
