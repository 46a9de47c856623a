"""Reading data sets in the benchmark's published layout, and saying what of it is missing. Nothing is downloaded.

A data set is a folder `<root>/classification/<name>[_<date>]/` that holds `labels.txt` (a class name
a line), `train.txt` and `test.txt` (`archive.zip@path/in/archive.jpg 3` or `path.jpg 0,4` a line), and the archives.
A `dataset.json` beside them may give `metric`, `templates`, `center_crop` and `multilabel` of a data set that the
benchmark does not know.
"""

import hashlib
import json
import re
import zipfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from xmodal.data.pictures import Folder, ImageError, center_crop, read_picture, to_array
from xmodal.data.trouble import retried
from xmodal.evaluation.elevater_catalog import CARDS, REFERENCE, Card, plain
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


class ImageSet:
    """Images of some entries, decoded when asked for; indexing with a tensor gives (n, 3, S, S) u8.

    The short side is resized to `size` (bicubic) and the center cut out, or the whole squeezed in, as the benchmark
    does.

    Args:
        folder: of the data set.
        entries: which images.
        size: S, pixels.
        center_crop: False squeezes.
        keep: keep decoded images up to this many bytes in all.
        max_broken: share of images that may be unreadable (5 always may); such an image is gray and noted in `broken`.
    """

    device = torch.device("cpu")

    def __init__(
        self,
        folder: Path,
        entries: Sequence[Entry],
        size: int,
        center_crop: bool = True,
        keep: int = 2 << 30,
        max_broken: float = 0.01,
    ):
        self.folder, self.entries, self.size, self.center_crop = Path(folder), list(entries), size, center_crop
        self.limit = max(5, int(max_broken * len(self.entries)))
        self.broken: dict[str, str] = {}
        self.files = Folder(folder)
        self._kept: dict[int, np.ndarray] | None = {} if len(entries) * 3 * size**2 <= keep else None

    def __deepcopy__(self, memo: dict) -> "ImageSet":
        return self

    def __len__(self) -> int:
        return len(self.entries)

    def __add__(self, other: "ImageSet") -> "ImageSet":
        return ImageSet(self.folder, [*self.entries, *other.entries], self.size, self.center_crop)

    def __getitem__(self, index: Tensor) -> Tensor:
        with ThreadPoolExecutor(4) as pool:
            return torch.from_numpy(np.stack(list(pool.map(self.image, index.tolist()))))  # (n, 3, S, S)

    def split(self, size: int) -> Iterator[Tensor]:
        """Batches in order."""
        for part in torch.arange(len(self)).split(size):
            yield self[part]

    def image(self, i: int) -> np.ndarray:
        """One image (3, S, S) u8.

        Raises:
            ValueError: too many images are unreadable.
        """
        if self._kept is not None and i in self._kept:
            return self._kept[i]
        path = self.entries[i].path
        try:
            picture = retried(lambda: read_picture(self.files.read(path)))
            pixels = to_array(fit(picture, self.size, self.center_crop))
        except ImageError as error:
            self.broken[path] = str(error)
            if len(self.broken) > self.limit:
                raise ValueError(
                    f"{self.folder}: {len(self.broken)} images cannot be read, the last {path}: {error}"
                ) from error
            pixels = np.full((3, self.size, self.size), 127, np.uint8)
        if self._kept is not None:
            self._kept[i] = pixels
        return pixels

    def digest(self) -> str:
        """A hash of which images these are and how they are fitted."""
        about = [str(self.folder.name), self.size, self.center_crop, [(e.path, e.classes) for e in self.entries]]
        return hashlib.sha256(json.dumps(about).encode()).hexdigest()


def fit(picture: Image.Image, size: int, center: bool) -> Image.Image:
    """Make a square of `size` pixels: the center, or the whole picture squeezed in."""
    return center_crop(picture, size) if center else picture.resize((size, size), Image.Resampling.BICUBIC)


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
