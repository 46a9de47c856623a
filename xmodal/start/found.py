"""Find out how a user's files are laid out: task, splits, classes, groups."""

import logging
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pointcloud.datasets.own import CLOUDS
from video.annotations import VIDEOS
from video.frames import frame_folders, frames_in, is_frame_folder
from xmodal.data.annotations import IMAGES, Annotations, Listing, Sample, path_and_name
from xmodal.data.class_names import read_classes
from xmodal.data.lists import JSON, lines_of, rows_of
from xmodal.data.tables import columns_of, part_of
from xmodal.data.walk import LeftOut, files_below, passed_over, printable
from xmodal.start.groups import group_of
from xmodal.start.numbering import counts_from_one, joined, labels_of, numbered, with_numbers, without_empty

READERS: dict[str, Annotations] = {"video": VIDEOS, "image": IMAGES, "cloud": CLOUDS}
LISTS = (".txt", ".csv", ".tsv", ".json", ".jsonl", ".lst", ".list")
CLASS_FILES = ("classes.txt", "class_names.txt", "labels.txt", "classes.json", "labels.json", "label_map.txt",
               "classInd.txt")  # fmt: skip
METADATA = ("metadata.csv", "metadata.jsonl")  # of Hugging Face's image folders
PARTS = ("train", "val", "test")
LOOK = 3000  # files by whose endings the task is told


@dataclass
class Found:
    """Files of a user.

    Args:
        task: `video`, `image` or `cloud`.
        layout: how they lie, in words.
        parts: samples of `train`, `val` and `test`; `all` where there is no split.
        classes: names by number.
        groups: of paths, where a column or the names tell them.
        notes: what the user should know.
    """

    task: str
    layout: str
    parts: dict[str, list[Sample]]
    classes: list[str]
    groups: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def multilabel(self) -> bool:
        """Return whether files may have several classes, or none."""
        return any(sample.labels is not None for part in self.parts.values() for sample in part)


def find(source: str, task: str | None = None, root: str | None = None, classes: str | None = None) -> Found:
    """Find the files of a folder or list.

    Args:
        source: folder (of classes, of splits, of lists), list, table or annotation file.
        task: `video`, `image` or `cloud`; default: what most files are.
        root: folder that the paths of lists start from; default: tried.
        classes: file of class names.

    Raises:
        ValueError: nothing there that can be understood, with what was looked for.
    """
    path = Path(source)
    if not path.exists():
        raise ValueError(f"there is no folder or list at {path} (looked from {Path.cwd()})")
    lists = lists_of(path) or table_of_splits(path)
    given = read_classes(classes) if classes else None
    if lists:
        found = from_lists(lists, task, root, given)
    elif path.is_file():
        found = from_lists({"all": path}, task, root, given)
    else:
        path = unwrapped(path)
        lists = lists_of(path)
        found = from_lists(lists, task, root, given) if lists else from_folders(path, task, given)
    if not found.groups:
        named = {s.path: group_of(s.sample_id) for part in found.parts.values() for s in part}
        found.groups = {path: group for path, group in named.items() if group is not None}
    return found


def lists_of(path: Path) -> dict[str, Path]:
    """Return the lists of the splits: in a folder, or beside a list whose name tells its split."""
    folder = path if path.is_dir() else path.parent
    if path.is_file() and split_of(path.stem) != "train":
        return {}
    found: dict[str, Path] = {}
    pattern = re.sub(r"(?i)train(ing)?", "", path.stem) if path.is_file() else None
    for entry in sorted(folder.iterdir()):
        part = split_of(entry.stem)
        alike = pattern is None or re.sub(r"(?i)train(ing)?|val(id(ation)?)?|test(ing)?|dev", "", entry.stem) == pattern
        if entry.is_file() and entry.suffix.lower() in LISTS and part and alike:
            found.setdefault(part, entry)
    if path.is_file():
        found["train"] = path
    return found if "train" in found else {}


def table_of_splits(path: Path) -> dict[str, Path]:
    """Return the one table of a folder that names the split of each file, such as CoOp's `split_zhou_NAME.json`."""
    entries = [p for p in sorted(path.iterdir()) if p.suffix.lower() in (".csv", *JSON)] if path.is_dir() else []
    tables = []
    for entry in entries:
        try:
            rows = rows_of(entry)
            tables += [entry] if rows and columns_of(rows, str(entry)).split else []
        except ValueError:
            continue
    return {"all": tables[0]} if len(tables) == 1 else {}


def split_of(stem: str) -> str | None:
    """Return the split that the name of a file or folder tells."""
    words = (re.sub(r"(?i)(list|set|split)s?$", "", word) for word in re.split(r"[^a-zA-Z]+", stem))
    return next((part for word in words if (part := part_of(word))), None)


def from_lists(lists: dict[str, Path], task: str | None, root: str | None, classes: list[str] | None) -> Found:
    """Read lists of splits, or one list that may name them in a column."""
    first = next(iter(lists.values()))
    classes = classes or next(
        (read_classes(first.parent / name) for name in CLASS_FILES if (first.parent / name).is_file()), None
    )
    task = task or task_of_list(first)
    reader = READERS[task]
    kinds = {part: reader.detect(path) for part, path in lists.items()}
    plain_lists = [path for part, path in lists.items() if kinds[part] == "list"]
    classes = classes or names_in(plain_lists)
    from_one = counts_from_one(plain_lists, classes or ())
    known = ["(none)", *classes] if classes and from_one else classes
    listings = {part: read(reader, path, root, known) for part, path in lists.items()}
    parts = {part: list(listing.samples) for part, listing in listings.items()}
    names = next((x.classes for x in listings.values() if x.classes), None) or numbered(parts)
    for part, listing in listings.items():  # every split by the same names
        if listing.classes and listing.classes != names:
            names, parts[part] = joined(names, listing)
    if from_one or (not classes and plain_lists and min(labels_of(parts), default=0) == 1):
        parts = {
            part: with_numbers(samples, {y: y - 1 for y in range(1, len(names))}) for part, samples in parts.items()
        }
        names = names[1:]
    found = Found(task, f"{kinds[next(iter(kinds))]} ({', '.join(p.name for p in lists.values())})", parts, names)
    missing = sum(len(x.missing) for x in listings.values())
    if missing:
        found.notes.append(f"{missing} files of the lists are not there")
    if lists.keys() == {"all"} and kinds["all"] == "csv":
        by_columns(found, first)
    return found


def read(reader: Annotations, path: Path, root: str | None, classes: list[str] | None) -> Listing:
    """Read a list with the root that fits: the given one, the list's folder, a folder in or beside it.

    Raises:
        ValueError: none does.
    """
    try:
        return reader.read(path, root, "auto", classes)
    except ValueError as error:
        if root is not None or not re.search("exists|are missing", str(error)):
            raise
        problem = error
    near = [p for folder in (path.parent, path.parent.parent) for p in sorted(folder.iterdir()) if p.is_dir()]
    for place in [*near, path.parent.parent]:
        with held(logging.getLogger("xmodal.data")) as said:
            try:
                listing = reader.read(path, place, "auto", classes)
            except ValueError:
                said.clear()  # of folders that are not the root
            else:
                return listing
    raise ValueError(f"{problem} (--root FOLDER)") from problem


@contextmanager
def held(log: logging.Logger) -> Iterator[list[logging.LogRecord]]:
    """Keep back what is logged until the end; what is taken out of the list by then is never said."""
    records: list[logging.LogRecord] = []

    def keep(record: logging.LogRecord) -> bool:
        records.append(record)
        return False

    log.addFilter(keep)
    try:
        yield records
    finally:
        log.removeFilter(keep)
        for record in records:
            log.handle(record)


def names_in(paths: Sequence[Path]) -> list[str] | None:
    """Return the class names of lists `path<tab>name` or `path,name`; None where labels are numbers."""
    names = set()
    for path in paths:
        for line in filter(str.strip, lines_of(path)):
            found = path_and_name(line.strip())
            if not found or re.fullmatch(r"[\d;|]+", found[1]):
                return None
            names.add(found[1])
    return sorted(names) or None


def by_columns(found: Found, path: Path) -> None:
    """Split a table's samples by its column of splits, and note its column of groups."""
    rows = rows_of(path)
    columns, samples = columns_of(rows, str(path)), found.parts["all"]
    if columns.group:
        found.groups = {s.path: str(row[columns.group]) for s, row in zip(samples, rows, strict=True)}
        found.layout += f", groups by its column {columns.group!r}"
    if columns.split:
        parts: dict[str, list[Sample]] = {}
        for sample, row in zip(samples, rows, strict=True):
            parts.setdefault(part_of(row[columns.split] or "") or "other", []).append(sample)
        if "train" in parts:
            other = parts.pop("other", [])
            found.parts = parts
            found.layout += f", splits by its column {columns.split!r}"
            if other:
                found.notes.append(f"{len(other)} rows are in none of train, val and test by {columns.split!r}")


def from_folders(path: Path, task: str | None, classes: list[str] | None) -> Found:
    """Read folders of classes, or folders of splits that hold them."""
    task = task or task_of_folder(path)
    reader = READERS[task]
    inner = folders_in(path)
    named = [(part, p) for p in inner if (part := part_of(p.name))]
    splits = dict(named)
    if "train" not in splits or not folders_in(splits["train"]):  # a class may be called train
        if named and len(named) == len(inner):
            return from_split_folders(splits, path, task, classes)
        listing = reader.read(path, None, "folders", classes)
        inside = splits_inside(listing.samples)
        layout = f"a folder of {task}s a class" + (
            f", with folders {', '.join(part for part in PARTS if part in inside)} in each" if inside else ""
        )
        return filled(Found(task, layout, inside or {"all": list(listing.samples)}, listing.classes or []), classes)
    if len(splits) < len(named):
        raise ValueError(f"{path}: several folders for one split: {', '.join(p.name for _, p in named)}; join them")
    parts: dict[str, list[Sample]] = {}
    names, notes = list(classes or []), []
    for part, folder in sorted(splits.items(), key=lambda item: PARTS.index(item[0])):
        try:
            listing = reader.read(folder, None, "folders", classes)
        except ValueError as error:
            if part == "train":
                raise
            notes.append(f"{folder} is left out: {error}")
            continue
        names, parts[part] = joined(names, listing)
    layout = f"folders {', '.join(p.name for p in splits.values())} with a folder of {task}s a class"
    return filled(Found(task, layout, parts, names, notes=notes), classes)


def from_split_folders(splits: dict[str, Path], path: Path, task: str | None, classes: list[str] | None) -> Found:
    """Read folders of splits that hold a table of their files each, as Hugging Face's image folders do.

    Raises:
        ValueError: there is neither such a table nor a folder for each class.
    """
    tables = {part: [f for f in sorted(folder.iterdir()) if f.name in METADATA] for part, folder in splits.items()}
    if not all(tables.values()):
        names = ", ".join(folder.name for folder in splits.values())
        raise ValueError(f"{path}: {names} hold neither a folder for each class nor one of {', '.join(METADATA)}")
    return from_lists({part: found[0] for part, found in tables.items()}, task, None, classes)


def filled(found: Found, given: list[str] | None) -> Found:
    """Leave out folders without files as classes, unless the user gave the names."""
    if given is None:
        found.parts, found.classes, empty = without_empty(found.parts, found.classes)
        if empty:
            found.notes.append(f"folders without {found.task}s are no classes: {', '.join(map(printable, empty))}")
    return found


def unwrapped(path: Path) -> Path:
    """Return the folder of several: of `data/my_data/walk/a.mp4`, whose outer folders hold one each, `data/my_data`."""
    inner = folders_in(path)
    if len(inner) != 1 or part_of(inner[0].name):
        return path
    below = folders_in(inner[0])
    return path if not below or any(map(is_frame_folder, below)) else unwrapped(inner[0])


def folders_in(path: Path) -> list[Path]:
    """Return the folders of a folder that may hold data."""
    return [entry for entry in sorted(path.iterdir()) if entry.is_dir() and not passed_over(entry.name)]


def splits_inside(samples: Sequence[Sample]) -> dict[str, list[Sample]]:
    """Return the samples of each split where every class has folders of splits (ModelNet40), else nothing."""
    parts: dict[str, list[Sample]] = {}
    for sample in samples:
        folders = re.split(r"[/\\]", str(sample.sample_id))[1:-1]
        parts.setdefault(part_of(folders[0]) or "" if folders else "", []).append(sample)
    return parts if "train" in parts and "" not in parts else {}


def task_of_list(path: Path) -> str:
    """Tell the task from the endings that a list names."""
    if VIDEOS.detect(path) in VIDEOS.heads:
        return "video"
    lines = lines_of(path)[:LOOK]
    words = [word for line in lines for word in re.findall(r"\.[A-Za-z0-9]{1,6}(?=$|[\s,;\"|])", line)]
    return most(words, lambda: beside(path), str(path))


def beside(path: Path) -> str:
    """Tell the task of a list that names no endings from the files below its folder; `video` where there are none."""
    try:
        return task_of_folder(path.parent)
    except ValueError:
        return "video"


def task_of_folder(path: Path) -> str:
    """Tell the task from the endings of the files below a folder; images that are frames of videos count as videos."""
    endings = {ending for reader in READERS.values() for ending in reader.endings}
    words = []
    left_out = LeftOut()
    for number, file in enumerate(files_below(path, tuple(endings), left_out)):
        words.append(Path(file).suffix)
        if number > LOOK:
            break
    task = most(words, lambda: None, f"{path} ({left_out})" if left_out.counts else str(path))
    if task == "image" and holds_frames(path):
        return "video"
    return task


def most(words: Sequence[str], otherwise: Callable[[], Any], where: str) -> str:
    """Return the task of most endings; texts, which lie beside everything, count where there is nothing else."""
    others = [word for word in words if word.lower() not in LISTS]
    counts = Counter(
        task for word in others or words for task, reader in READERS.items() if word.lower() in reader.endings
    )
    if not counts:
        if (found := otherwise()) is not None:
            return found
        raise ValueError(
            f"{where} holds no videos, images or clouds that can be read; give a folder of classes or a list"
        )
    return counts.most_common(1)[0][0]


def holds_frames(path: Path) -> bool:
    """Return whether images two folders down are numbered frames: `class/clip/img_00001.jpg`."""
    for number, folder in enumerate(frame_folders(path)):
        depth = len(Path(folder).relative_to(path).parts)
        numbers = [int(re.findall(r"\d+", Path(f).stem)[-1]) for f in frames_in(folder)]
        if depth < 2 or numbers != list(range(numbers[0], numbers[0] + len(numbers))) or len(numbers) < 4:
            return False
        if number == 20:
            break
    else:
        return "number" in locals()
    return True
