"""Write an action set to disk as a list, as Kinetics, as Something-Something v2 or as class folders."""

import csv
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

Rows = Sequence[tuple[Path, int]]


class Layout:
    """Place the files of a set and list them.

    Args:
        root: folder of the set.
        classes: names, in the order of their labels.
        suffix: of the files, with the dot.
    """

    def __init__(self, root: Path, classes: Sequence[str], suffix: str):
        self.root, self.classes, self.suffix = root, list(classes), suffix
        root.mkdir(parents=True, exist_ok=True)

    def path(self, split: str, index: int, label: int) -> Path:
        """The file of a clip."""
        raise NotImplementedError

    def annotate(self, split: str, rows: Rows) -> None:
        """Write what lists the clips of a split."""
        raise NotImplementedError


class PathLabelList(Layout):
    """`train.txt` with lines `path label`, relative to its folder, and `classes.txt`."""

    def path(self, split: str, index: int, label: int) -> Path:
        """`clips/<split>/<index>`; the name says nothing about the label."""
        return self.root / "clips" / split / f"{index:05d}{self.suffix}"

    def annotate(self, split: str, rows: Rows) -> None:
        """Write the list and the class names."""
        lines = [f"{path.relative_to(self.root).as_posix()} {label}\n" for path, label in rows]
        (self.root / f"{split}.txt").write_text("".join(lines))
        (self.root / "classes.txt").write_text("".join(f"{name}\n" for name in self.classes))


class Kinetics(Layout):
    """`train.csv` as released, with clips `<youtube_id>_<start>_<end>` in a folder per split."""

    def path(self, split: str, index: int, label: int) -> Path:
        """The file name of the official downloaders; the id is made up."""
        name = hashlib.sha256(f"{split}{index}".encode()).hexdigest()[:11]
        start = index % 60
        return self.root / split / f"{name}_{start:06d}_{start + 10:06d}{self.suffix}"

    def annotate(self, split: str, rows: Rows) -> None:
        """Write the official columns."""
        with open(self.root / f"{split}.csv", "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["label", "youtube_id", "time_start", "time_end", "split"])
            for path, label in rows:
                name, start, end = path.stem.rsplit("_", 2)
                writer.writerow([self.classes[label], name, int(start), int(end), split])


SSV2_NAMES = {"train": "train", "val": "validation", "test": "test-labeled"}


class SomethingV2(Layout):
    """Three JSON files as released and all clips in one folder, named by number."""

    def path(self, split: str, index: int, label: int) -> Path:
        """`videos/<id>`."""
        number = index + 100_000 * (1 + list(SSV2_NAMES).index(split))
        return self.root / "videos" / f"{number}{self.suffix}"

    def template(self, label: int) -> str:
        """The template of a class, with the place of the thing in brackets."""
        first, *rest = self.classes[label].split()
        return " ".join([first.capitalize(), "[something]", *rest])

    def annotate(self, split: str, rows: Rows) -> None:
        """Write the list of a split and the labels."""
        stem = "something-something-v2"
        entries = [
            {
                "id": path.stem,
                "label": self.template(label).replace("[something]", "a shape").lower(),
                "template": self.template(label),
                "placeholders": ["a shape"],
            }
            for path, label in rows
        ]
        (self.root / f"{stem}-{SSV2_NAMES[split]}.json").write_text(json.dumps(entries, indent=1))
        labels = {self.template(i).replace("[", "").replace("]", ""): str(i) for i in range(len(self.classes))}
        (self.root / f"{stem}-labels.json").write_text(json.dumps(labels, indent=1))


class Folders(Layout):
    """A folder per class in a folder per split; spaces become `_`."""

    def path(self, split: str, index: int, label: int) -> Path:
        """`<split>/<class>/<index>`."""
        return self.root / split / self.classes[label].replace(" ", "_") / f"{index:05d}{self.suffix}"

    def annotate(self, split: str, rows: Rows) -> None:
        """The folders say it all."""


LAYOUTS: dict[str, type[Layout]] = {
    "list": PathLabelList,
    "kinetics": Kinetics,
    "ssv2": SomethingV2,
    "folders": Folders,
}
