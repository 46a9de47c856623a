"""Lists of labeled images, as the split files of the few-shot protocols hold them."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from xmodal.data.lists import load_json

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Item:
    """One labeled image: path below the image folder, label, class name."""

    path: str
    label: int
    name: str


@dataclass(frozen=True)
class Splits:
    """The three splits of a data set.

    Args:
        dataset: its name.
        train: items.
        val: items; the test items where a data set has no validation split.
        test: items.
        image_dir: folder that the paths are relative to.
    """

    dataset: str
    train: list[Item]
    val: list[Item]
    test: list[Item]
    image_dir: Path = Path()

    @property
    def class_names(self) -> list[str]:
        """Names in the order of the labels, underscores read as spaces.

        Raises:
            ValueError: a label with two names, or labels with a gap.
        """
        names: dict[int, str] = {}
        for item in (*self.train, *self.val, *self.test):
            if names.setdefault(item.label, item.name) != item.name:
                raise ValueError(f"{self.dataset}: label {item.label} is {names[item.label]!r} and {item.name!r}")
        if sorted(names) != list(range(len(names))):
            raise ValueError(f"{self.dataset}: labels must be 0 to {len(names) - 1}, got {sorted(names)[:5]} ...")
        return [names[i].replace("_", " ") for i in range(len(names))]

    def counts(self) -> tuple[int, int, int, int]:
        """Classes and items of each split."""
        return len(self.class_names), len(self.train), len(self.val), len(self.test)


def read_split_file(path: str | Path, dataset: str = "", image_dir: str | Path = "") -> Splits:
    """Read a `split_zhou_<Name>.json`: {split: [[path, label, class name], ...]}.

    Raises:
        ValueError: no such file, or a split or field is missing.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"no split file at {path}; the field gets it from the data notes of the CoOp repository")
    content = load_json(path, dict, "{split: [[path, label, class name], ...]}")
    missing = [s for s in SPLITS if s not in content]
    if missing:
        raise ValueError(f"{path}: no split {missing[0]!r}; it has {sorted(content)}")
    parts = []
    for split in SPLITS:
        try:
            parts.append([Item(str(p), int(y), str(n)) for p, y, n in content[split]])
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}: an entry of {split!r} is not [path, label, class name]: {error}") from error
    return Splits(dataset or path.stem, parts[0], parts[1], parts[2], Path(image_dir))


def split_hash(parts: Mapping[str, Iterable[tuple[str, int]]]) -> str:
    """sha256 over {split: (sample, label) in order}, first 16 digits: equal splits, equal hash."""
    digest = hashlib.sha256()
    for name in sorted(parts):
        digest.update(f"[{name}]\n".encode())
        for sample, label in parts[name]:
            digest.update(f"{sample}\t{label}\n".encode())
    return digest.hexdigest()[:16]
