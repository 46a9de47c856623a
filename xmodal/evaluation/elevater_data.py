"""Reading data sets in the benchmark's published layout, and saying what of it is missing. Nothing is downloaded.

A data set is a folder `<root>/classification/<name>[_<date>]/` that holds `labels.txt` (a class name
a line), `train.txt` and `test.txt` (`archive.zip@path/in/archive.jpg 3` or `path.jpg 0,4` a line), and the archives.
A `dataset.json` beside them may give `metric`, `templates`, `center_crop` and `multilabel` of a data set that the
benchmark does not know.
"""

import json
import re
import zipfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from xmodal.data.pictures import Folder, read_picture
from xmodal.evaluation.bench import TEMPLATES, Source
from xmodal.evaluation.elevater_catalog import CARDS, REFERENCE, Card, plain
from xmodal.evaluation.images import FewShotImages
from xmodal.registry import did_you_mean


@dataclass(frozen=True)
class Entry:
    """One line of an index file."""

    path: str
    classes: tuple[int, ...]


@dataclass
class DataSet:
    """A data set on disk.

    Args:
        card: what is known about it.
        folder: where it lies.
        class_names: of `labels.txt`.
        templates: of `dataset.json`, empty when it gives none.
        train: entries of `train.txt`.
        test: entries of `test.txt`.
    """

    card: Card
    folder: Path
    class_names: list[str]
    templates: list[str] = field(default_factory=list)
    train: list[Entry] = field(default_factory=list)
    test: list[Entry] = field(default_factory=list)

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.class_names)

    def labels(self, entries: Sequence[Entry]) -> list:
        """Class of every entry, or the list of its classes where there are several."""
        return [list(e.classes) if self.card.multilabel else e.classes[0] for e in entries]

    def targets(self, entries: Sequence[Entry]) -> Tensor:
        """(N,) i64, or (N, K) 0/1 float32 where an image has several classes."""
        if not self.card.multilabel:
            return torch.tensor([e.classes[0] for e in entries])
        hot = torch.zeros(len(entries), self.num_classes)
        for i, entry in enumerate(entries):
            hot[i, list(entry.classes)] = 1
        return hot


def find_folder(root: str | Path, card: Card) -> Path | None:
    """The folder of a data set below `root` or `root/classification`, the newest when dates differ."""
    wanted = {plain(card.name), *map(plain, card.aliases)}
    folders = [p for base in (Path(root) / "classification", Path(root)) if base.is_dir() for p in base.iterdir()]
    return max((p for p in folders if p.is_dir() and plain(p.name) in wanted), key=lambda p: p.name, default=None)


def present(root: Path) -> list[str]:
    """Names of the data sets that are there: the benchmark's, then others."""
    names = [name for name, card in CARDS.items() if find_folder(root, card)]
    known = {plain(alias) for name in names for alias in (name, *CARDS[name].aliases)}
    folders = sorted(p.name for p in (root / "classification").glob("*") if (p / "labels.txt").exists())
    return names + [re.sub(r"_\d{8}$", "", f) for f in folders if plain(f) not in known]


def read_dataset(root: str | Path, name: str) -> DataSet:
    """Open a data set by the benchmark's name, or by the name of its folder.

    Raises:
        FileNotFoundError: no such folder, or one without its index files.
        ValueError: a broken index file.
    """
    card = CARDS.get(name) or (REFERENCE if name == REFERENCE.name else Card(name))
    folder = find_folder(root, card)
    if folder is None:
        known = [*CARDS, *(p.name for p in Path(root).glob("classification/*"))]
        raise FileNotFoundError(f"no folder of {name!r} below {root}/classification; {did_you_mean(name, known)}")
    missing = [n for n in ("labels.txt", "train.txt", "test.txt") if not (folder / n).exists()]
    if missing:
        raise FileNotFoundError(
            f"{folder} lacks {', '.join(missing)}; `tools/elevater.py check` lists all that is missing"
        )
    own = json.loads(text) if (text := _text(folder / "dataset.json")) else {}
    keys = {"metric", "center_crop", "multilabel", "templates"}
    if unknown := sorted(set(own) - keys):
        raise ValueError(f"{folder}/dataset.json: {unknown[0]!r} is not known; {did_you_mean(unknown[0], keys)}")
    names = [line.strip() for line in _text(folder / "labels.txt").splitlines() if line.strip()]
    card = replace(card, classes=len(names), **{k: v for k, v in own.items() if k != "templates"})
    splits = {s: list(read_index(folder / f"{s}.txt", len(names), card.multilabel)) for s in ("train", "test")}
    return DataSet(card, folder, names, own.get("templates", []), **splits)


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


def read_index(path: Path, classes: int, multilabel: bool = False) -> Iterator[Entry]:
    """Entries of an index file.

    Raises:
        ValueError: a line that is not `path labels`, or a class that `labels.txt` has no name for.
    """
    for number, line in enumerate(_text(path).splitlines(), 1):
        if not line.strip():
            continue
        where, _, labels = line.strip().rpartition(" ")
        try:
            own = tuple(int(v) for v in labels.split(","))
        except ValueError:
            own = ()
        if not where or not own:
            raise ValueError(f"{path}:{number}: expected `path class[,class]`, got {line!r}")
        if not all(0 <= c < classes for c in own) or (len(own) > 1 and not multilabel):
            raise ValueError(
                f"{path}:{number}: classes {own} do not fit {classes} classes, one an image={not multilabel}"
            )
        yield Entry(where, own)


class ElevaterImages(FewShotImages):
    """Images of one split, at the size of an encoder: the center, or the whole squeezed in, as the benchmark does.

    Args:
        data: the data set.
        split: `train` or `test`.
        size: pixels.
        keep: keep decoded images up to this many bytes in all.
        max_broken: share of images that may be unreadable (5 always may); such an image is gray and noted in `broken`.
    """

    def __init__(self, data: DataSet, split: str, size: int, keep: int = 2 << 30, max_broken: float = 0.01):
        entries: list[Entry] = getattr(data, split)
        super().__init__(data.labels(entries), data.class_names, [e.path for e in entries], size)
        self.data, self.center_crop, self.files = data, data.card.center_crop, Folder(data.folder)
        self.limit = max(5, int(max_broken * len(entries)))
        self.broken: dict[str, str] = {}
        self._kept: dict[int, Tensor] | None = {} if len(entries) * 3 * size**2 <= keep else None

    def read(self, index: int) -> Image.Image:
        """Read the whole image, RGB."""
        return read_picture(self.files.read(self.ids[index]))

    def view(self, picture: Image.Image) -> Image.Image:
        """Make a square: the center, or the whole picture squeezed in."""
        if self.center_crop:
            return super().view(picture)
        return picture.resize((self.size, self.size), Image.Resampling.BICUBIC)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        """Return the item of an index.

        Raises:
            ValueError: too many images are unreadable.
        """
        index = key[1] if isinstance(key, tuple) else key
        if self._kept is not None and index in self._kept:
            return {"image": self._kept[index], "label": self.labels[index], "sample_id": self.ids[index]}
        item = super().__getitem__(index)
        if "skipped" in item:
            path = self.ids[index]
            self.broken[path] = item["reason"]
            if len(self.broken) > self.limit:
                raise ValueError(
                    f"{self.data.folder}: {len(self.broken)} images cannot be read, the last {path}: {item['reason']}"
                )
            gray = torch.full((3, self.size, self.size), 127, dtype=torch.uint8)
            item = {"image": gray, "label": self.labels[index], "sample_id": path}
        if self._kept is not None:
            self._kept[index] = item["image"]
        return item

    def __getitems__(self, keys: Sequence[int]) -> list[dict[str, Any]]:
        """Read several at once."""
        with ThreadPoolExecutor(4) as pool:
            return list(pool.map(self.__getitem__, keys))


class Pictures:
    """Images of some samples in the place of a tensor: a batch (n, 3, S, S) u8 is decoded when it is asked for.

    Args:
        data: the data set.
        rows: indices of the samples.
    """

    device = torch.device("cpu")

    def __init__(self, data: ElevaterImages, rows: Sequence[int]):
        self.data, self.rows = data, list(rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __add__(self, other: "Pictures") -> "Pictures":
        return Pictures(self.data, [*self.rows, *other.rows])

    def __getitem__(self, index: Tensor) -> Tensor:
        return torch.stack([item["image"] for item in self.data.__getitems__([self.rows[i] for i in index.tolist()])])

    def split(self, size: int) -> Iterator[Tensor]:
        """Batches in order."""
        for part in torch.arange(len(self)).split(size):
            yield self[part]


def elevater_source(root: str | Path, name: str, size: int) -> Source:
    """Build the source of a data set in the benchmark's layout; `read_dataset` has the errors.

    Args:
        root: folder of the data sets.
        name: of the data set.
        size: pixels of the encoder's images.
    """
    data = read_dataset(root, name)
    train, test = (ElevaterImages(data, split, size) for split in ("train", "test"))
    return Source(data.card.name, train, test=test, templates=data.templates or TEMPLATES)


def check(root: str | Path, name: str, archives: bool = True) -> dict[str, Any]:
    """Say what is there and what is missing of one data set.

    Returns:
        `name`, `folder` (or None) and `problems`, a list of sentences; empty when everything is there.
    """
    card = CARDS.get(name, Card(name))
    folder = find_folder(root, card)
    if folder is None:
        return {"name": name, "folder": None, "problems": [f"no folder {name}_<date> below {root}/classification"]}
    try:
        data = read_dataset(root, name)
    except (ValueError, FileNotFoundError) as error:
        return {"name": name, "folder": str(folder), "problems": [str(error)]}
    problems = []
    for what, have, want in (
        ("classes in labels.txt", data.num_classes, card.classes),
        ("images in train.txt", len(data.train), card.train),
        ("images in test.txt", len(data.test), card.test),
    ):
        if want and have not in (want, want + card.val if "train" in what else want):
            problems.append(f"{have} {what}, the benchmark has {want}")
    if archives:
        problems += missing_files(folder, [*data.train, *data.test])
    return {"name": name, "folder": str(folder), "problems": problems}


def missing_files(folder: Path, entries: Sequence[Entry]) -> list[str]:
    """Archives, files in archives and loose files that an index names and that are not there."""
    problems: list[str] = []
    absent: list[str] = []
    contents: dict[str, set[str] | None] = {}
    for entry in entries:
        archive, at, inner = entry.path.rpartition("@")
        if not at:
            absent += [] if (folder / entry.path).exists() else [entry.path]
            continue
        if archive not in contents:
            try:
                with zipfile.ZipFile(folder / archive) as file:
                    contents[archive] = set(file.namelist())
            except (OSError, zipfile.BadZipFile) as error:
                contents[archive] = None
                problems.append(f"archive {archive}: {error}")
        inside = contents[archive]
        if inside is not None and inner not in inside:
            absent.append(entry.path)
    if absent:
        problems.append(f"{len(absent)} images that the index names are missing, such as {absent[0]}")
    return problems


def check_detection(root: str | Path, name: str) -> dict[str, Any]:
    """Counts of a detection data set (COCO files below a folder of its name); these are not evaluated."""
    found = [p for base in ("odinw", "detection", ".") for p in (Path(root) / base).glob(f"{name}*") if p.is_dir()]
    splits = {}
    for path in sorted(found[0].rglob("*annotations*.json")) if found else ():
        about = json.loads(path.read_text(encoding="utf-8"))
        splits[path.parent.name] = {k: len(about.get(k, ())) for k in ("images", "annotations", "categories")}
    return {"name": name, "folder": str(found[0]) if found else None, "splits": splits, "evaluated": False}
