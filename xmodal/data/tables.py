"""Find the columns of a user's table that hold paths, labels, splits and groups, and read several labels a file."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

PATHS = ("path", "file", "filename", "file_name", "filepath", "file_path", "video", "video_path", "video_name", "clip",
         "image", "image_path", "image_name", "img", "img_path", "cloud", "cloud_path", "frames", "folder", "name",
         "vid_name", "video_id", "image_id", "id")  # fmt: skip
LABELS = ("label", "labels", "class", "classes", "class_name", "label_name", "category", "categories", "tag", "tags",
          "target", "action", "action_name", "activity", "class_id", "label_id", "category_id", "action_id",
          "class_index", "label_index", "class_idx", "label_idx")  # fmt: skip
CAPTIONS = ("caption", "captions", "text", "title", "sentence", "sentences", "description", "alt_text", "alt",
            "comment")  # fmt: skip
SPLITS = ("split", "set", "subset", "partition", "phase", "usage")
GROUPS = ("group", "groups", "group_id", "subject", "subject_id", "person", "person_id", "patient", "patient_id",
          "participant", "participant_id", "actor", "actor_id", "user", "user_id", "scene", "scene_id", "session",
          "session_id", "source", "source_id", "recording", "recording_id", "site", "video_group")  # fmt: skip
SEVERAL = re.compile(r"\s*[;|]\s*")  # between the labels of one file


@dataclass(frozen=True)
class Columns:
    """Names of a table's columns: `path`, `label` (None: a column of 0 and 1 for each class), `split` and `group`."""

    path: str
    label: str | None
    split: str | None = None
    group: str | None = None
    classes: tuple[str, ...] = ()  # the columns of 0 and 1


def delimiter_of(header: str) -> str:
    """Return what separates the columns of a head line: tab, semicolon or comma, or bars where there is none."""
    most = max(",\t;", key=header.count)
    return most if most in header or "|" not in header else "|"


def names_of(header: str) -> list[str]:
    """Return the column names of a head line."""
    return [name.strip().strip('"') for name in header.strip().split(delimiter_of(header))]


def has_header(header: str) -> bool:
    """Return whether a line is the head of a table of files: a column of paths and at least one other."""
    names = [name.lower() for name in names_of(header)]
    return len(names) > 1 and any(name in PATHS for name in names)


def find(names: Sequence[str], known: Sequence[str]) -> str | None:
    """Return the column whose name comes first among the known ones, in any case."""
    by_name = {name.lower(): name for name in reversed(names)}
    return next((by_name[word] for word in known if word in by_name), None)


def columns_of(rows: Sequence[Mapping[str, str]], where: str) -> Columns:
    """Find out what the columns of a table are.

    Raises:
        ValueError: no column of paths, or none of labels.
    """
    names = [name for name in rows[0] if name is not None] if rows else []
    path = find(names, PATHS)
    if path is None:
        raise ValueError(f"{where}: no column of paths among {names}; call it `path`")
    label, split, group = (find([n for n in names if n != path], known) for known in (LABELS, SPLITS, GROUPS))
    if label is not None:
        return Columns(path, label, split, group)
    rest = [name for name in names if name not in (path, split, group)]
    ones = tuple(
        name for name in rest if all((row.get(name) or "").strip() in ("0", "1", "0.0", "1.0") for row in rows)
    )
    if not ones:
        raise ValueError(
            f"{where}: no column of labels among {names}; call it `label`, or give a column of 0 and 1 a class"
        )
    return Columns(path, None, split, group, ones)


def labels_of(row: Mapping[str, str], columns: Columns) -> list[str]:
    """Return the names of the classes of a row."""
    if columns.label is None:
        return [name for name in columns.classes if (row.get(name) or "").strip() in ("1", "1.0")]
    return [part for part in SEVERAL.split((row.get(columns.label) or "").strip()) if part]


def part_of(word: str) -> str | None:
    """Return the split that a word names: `train`, `val` or `test`, None for another word."""
    word = word.strip().lower()
    if word in ("train", "training", "tr"):
        return "train"
    if word in ("val", "valid", "validation", "validate", "dev", "eval"):
        return "val"
    return "test" if word in ("test", "testing", "te") else None
