"""Find out how a user's files are laid out: task, splits, classes, groups."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pointcloud.datasets.own import CLOUDS
from video.annotations import VIDEOS
from video.frames import frame_folders, frames_in, is_frame_folder
from xmodal.data.annotations import IMAGES, NAMED_LINE, Annotations, Listing, Sample, plain, read_classes
from xmodal.data.lists import lines_of, rows_of
from xmodal.data.tables import columns_of, names_of, part_of
from xmodal.data.walk import LeftOut, files_below, passed_over
from xmodal.start.groups import group_of

READERS: dict[str, Annotations] = {"video": VIDEOS, "image": IMAGES, "cloud": CLOUDS}
LISTS = (".txt", ".csv", ".tsv", ".json", ".lst", ".list")
CLASS_FILES = ("classes.txt", "class_names.txt", "labels.txt", "classes.json", "labels.json", "label_map.txt")
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
    lists = lists_of(path)
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


def split_of(stem: str) -> str | None:
    """Return the split that the name of a file or folder tells."""
    return next((part for word in re.split(r"[^a-zA-Z]+", stem) if (part := part_of(word))), None)


def from_lists(lists: dict[str, Path], task: str | None, root: str | None, classes: list[str] | None) -> Found:
    """Read lists of splits, or one list that may name them in a column."""
    first = next(iter(lists.values()))
    classes = classes or next(
        (read_classes(first.parent / name) for name in CLASS_FILES if (first.parent / name).is_file()), None
    )
    task = task or task_of_list(first)
    reader = READERS[task]
    classes = classes or names_in([path for path in lists.values() if reader.detect(path) == "list"])
    listings = {part: read(reader, path, root, classes) for part, path in lists.items()}
    parts = {part: list(listing.samples) for part, listing in listings.items()}
    kinds = {part: reader.detect(path) for part, path in lists.items()}
    names = next((x.classes for x in listings.values() if x.classes), None) or numbered(parts)
    for part, listing in listings.items():  # every split by the same names
        if listing.classes and listing.classes != names:
            names, parts[part] = joined(names, listing)
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
        try:
            return reader.read(path, place, "auto", classes)
        except ValueError:
            continue
    raise ValueError(f"{problem} (--root FOLDER)") from problem


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
    new = [known[key(name)] for name in own]
    renumber = lambda s: replace(  # noqa: E731
        s, label=new[s.label] if s.label >= 0 else s.label, labels=s.labels and tuple(sorted(new[y] for y in s.labels))
    )
    return names, [renumber(s) for s in listing.samples]


def numbered(parts: dict[str, list[Sample]]) -> list[str]:
    """Return names for classes that have only numbers."""
    highest = max((y for part in parts.values() for s in part for y in s.labels or (s.label,)), default=-1)
    return [str(number) for number in range(highest + 1)]


def names_in(paths: Sequence[Path]) -> list[str] | None:
    """Return the class names of lists `path<tab>name` or `path,name`; None where labels are numbers."""
    names = set()
    for path in paths:
        for line in filter(str.strip, lines_of(path)):
            found = NAMED_LINE.fullmatch(line.strip())
            if not found or re.fullmatch(r"[\d;|]+", found["label"]):
                return None
            names.add(found["label"])
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
        listing = reader.read(path, None, "folders", classes)
        inside = splits_inside(listing.samples)
        layout = f"a folder of {task}s a class" + (
            f", with folders {', '.join(part for part in PARTS if part in inside)} in each" if inside else ""
        )
        return Found(task, layout, inside or {"all": list(listing.samples)}, listing.classes or [])
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
    return Found(task, layout, parts, names, notes=notes)


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
    if path.suffix.lower() == ".json":
        usual = "image" if '"id"' not in "".join(lines_of(path)[:50]) else "video"
    else:
        usual = "video"
    lines = lines_of(path)[:LOOK]
    if lines and "youtube_id" in map(str.lower, names_of(lines[0])):
        return "video"
    words = [word for line in lines for word in re.findall(r"\.[A-Za-z0-9]{1,6}(?=$|[\s,;\"|])", line)]
    return most(words, lambda: usual, str(path))


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
    """Return the task of most endings."""
    counts = Counter(task for word in words for task, reader in READERS.items() if word.lower() in reader.endings)
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
