"""Readers of annotations: plain lists, Kinetics CSV, Something-Something v2 JSON, folders of classes."""

import csv
import logging
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from video.listing import NO_LABEL, Listing, Sample, load_json, look_up, plain, read_classes, videos_below
from xmodal.registry import Registry, did_you_mean, resolve

FORMATS = Registry("annotation format", scope="xmodal")
log = logging.getLogger("xmodal.video")
SSV2_LABELS = "something-something-v2-labels.json"
_LINE = re.compile(r"(?P<path>.+?)\s*[\s,]\s*(?P<label>-?\d+)\s*")
_NAMED_LINE = re.compile(r"(?P<path>.+?)\s*[\t,]\s*(?P<label>[^\t,]+?)\s*")


def read_listing(
    annotation: str | os.PathLike,
    root: str | os.PathLike | None = None,
    format: str | Callable[[Path, Path, list[str] | None], Listing] = "auto",  # noqa: A002
    classes: Sequence[str] | str | os.PathLike | None = None,
) -> Listing:
    """Read an annotation.

    Args:
        annotation: list file, Kinetics CSV, Something-Something JSON, or a folder with one folder per class.
        root: folder of the videos; where the annotation lies when not given.
        format: `list`, `kinetics`, `ssv2`, `folders`, `auto` to detect one of these, or a function of (annotation,
            root, classes), or its import path.
        classes: names by class index, or a file of them (one a line, or JSON).

    Raises:
        ValueError: an annotation that cannot be understood, naming file, line, key and the fix.
    """
    path = Path(annotation)
    if not path.exists():
        raise ValueError(f"annotation {path} does not exist (looked from {Path.cwd()})")
    kind = detect_format(path) if format == "auto" else format
    read = resolve(kind, FORMATS)
    base = Path(root) if root is not None else (path if path.is_dir() else path.parent)
    if not base.is_dir():
        raise ValueError(f"root {base} is not a folder; it should hold the videos of {path}")
    listing = read(path, base, read_classes(classes))
    if not listing.samples:
        missing = f"; all {len(listing.missing)} are missing, e.g. {listing.missing[0]!r}" if listing.missing else ""
        raise ValueError(f"{path} (read as {kind!r}) gives no videos under {base}{missing}")
    _report(listing, path, base)
    return listing


def detect_format(path: Path) -> str:
    """Detect the format of an annotation file or folder."""
    if path.is_dir():
        return "folders"
    if path.suffix.lower() == ".json":
        return "ssv2"
    with path.open(encoding="utf-8-sig", errors="replace") as lines:
        header = next(lines, "")
    return "kinetics" if "youtube_id" in header.split(",") else "list"


@FORMATS.register_module(name="list")
def read_list(path: Path, root: Path, classes: list[str] | None) -> Listing:
    """Read lines `path label`: space, tab or comma between, spaces in paths allowed, absolute paths taken as they are.

    The label is a number, or, after a tab or comma and with `classes` given, a class name.
    """
    known = {name: index for index, name in enumerate(classes or ())}
    samples = []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        name, label = _split(line.strip(), where, known)
        if classes is not None and label >= len(classes):
            raise ValueError(f"{where}: label {label}, but there are {len(classes)} classes (0 to {len(classes) - 1})")
        samples.append(Sample(os.path.join(root, name), label, name))
    _check_root(samples, path, root)
    return Listing(samples, classes)


def _split(line: str, where: str, known: Mapping[str, int]) -> tuple[str, int]:
    found = _LINE.fullmatch(line)
    if found:
        if int(found["label"]) < 0:
            raise ValueError(f"{where}: negative label {found['label']}; classes count from 0")
        return found["path"].strip('"'), int(found["label"])
    named = _NAMED_LINE.fullmatch(line)
    if named and named["label"] in known:
        return named["path"].strip('"'), known[named["label"]]
    if named and known:
        raise ValueError(f"{where}: no class is called {named['label']!r}; {did_you_mean(named['label'], known)}")
    raise ValueError(
        f"{where}: expected `path label` with a whole number at the end, got {line!r}"
        "; for class names put a tab or comma before them and give `classes`"
    )


def _check_root(samples: Sequence[Sample], path: Path, root: Path) -> None:
    """Refuse a root under which none of the first videos exists: then it is the root that is wrong, not the videos."""
    first = samples[:20]
    if first and not any(os.path.exists(sample.path) for sample in first):
        raise ValueError(
            f"none of the first {len(first)} videos of {path} exists, e.g. {first[0].path}; "
            f"root is {root}: give the folder that the paths in the list start from"
        )


@FORMATS.register_module(name="kinetics")
def read_kinetics(path: Path, root: Path, classes: list[str] | None) -> Listing:
    """Read an official Kinetics CSV; videos are `<youtube_id>_<start:06d>_<end:06d>.*` anywhere below `root`.

    Classes are the labels in alphabetical order unless given; underscores may stand for spaces.
    """
    with path.open(newline="", encoding="utf-8-sig") as lines:
        rows = list(csv.DictReader(lines))
    for key in ("youtube_id", "time_start", "time_end"):
        if not rows or rows[0].get(key) is None:
            official = "label,youtube_id,time_start,time_end,split"
            raise ValueError(f"{path}: no column {key!r}; official files have {official}")
    if classes is None and rows[0].get("label") is not None:
        classes = sorted({row["label"] for row in rows})
    index = {plain(name): number for number, name in enumerate(classes or ())}
    videos = videos_below(root)
    samples, missing = [], []
    for number, row in enumerate(rows, 2):
        name = _kinetics_name(row, f"{path}:{number}")
        label = look_up(plain(row["label"]), index, f"{path}:{number}") if row.get("label") else NO_LABEL
        choices = videos.get(name, ())
        if choices:
            split = row.get("split") or ""
            in_split = [choice for choice in choices if split in Path(choice).parts]
            samples.append(Sample((in_split or choices)[0], label, name))
        else:
            missing.append(name)
    return Listing(samples, classes, missing)


def _kinetics_name(row: Mapping[str, str], where: str) -> str:
    try:
        start, end = (int(float(row[key])) for key in ("time_start", "time_end"))
    except (TypeError, ValueError):
        raise ValueError(f"{where}: time_start and time_end must be seconds, got {dict(row)}") from None
    return f"{row['youtube_id']}_{start:06d}_{end:06d}"


@FORMATS.register_module(name="ssv2")
def read_ssv2(path: Path, root: Path, classes: list[str] | None) -> Listing:
    """Read a Something-Something v2 JSON; videos are `<id>.webm` (or another ending) in `root`.

    Classes come from the official labels file, given as `classes` or lying beside the annotation.
    """
    if classes is None:
        beside = path.parent / SSV2_LABELS
        if not beside.is_file():
            raise ValueError(f"{path} needs the classes: give the labels file as `classes`, or put it at {beside}")
        classes = read_classes(beside)
    index = {name: number for number, name in enumerate(classes or ())}
    entries = load_json(path)
    if not isinstance(entries, list):
        raise ValueError(f"{path}: expected a list of {{id, template, ...}}, found {type(entries).__name__}")
    videos = videos_below(root)
    samples, missing = [], []
    for number, entry in enumerate(entries):
        where = f"{path}: entry {number}"
        if not isinstance(entry, dict) or "id" not in entry:
            raise ValueError(f"{where}: no key 'id' in {str(entry)[:120]}")
        name, template = str(entry["id"]), entry.get("template")
        label = NO_LABEL
        if template is not None:
            label = look_up(str(template).replace("[", "").replace("]", ""), index, where)
        if name in videos:
            samples.append(Sample(videos[name][0], label, name))
        else:
            missing.append(name)
    return Listing(samples, classes, missing)


@FORMATS.register_module(name="folders")
def read_folders(path: Path, root: Path, classes: list[str] | None) -> Listing:
    """Read a folder that has one folder of videos per class; classes in alphabetical order unless given."""
    folders = sorted(entry.name for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not folders:
        raise ValueError(f"{path} has no folders; with format 'folders' each class is a folder of videos")
    classes = classes if classes is not None else folders
    index = {plain(name): number for number, name in enumerate(classes)}
    samples = []
    for folder in folders:
        label = look_up(plain(folder), index, str(path / folder))
        videos = sorted(p for paths in videos_below(path / folder).values() for p in paths)
        samples += [Sample(p, label, os.path.relpath(p, path)) for p in videos]
    return Listing(samples, classes)


def _report(listing: Listing, path: Path, root: Path) -> None:
    if listing.missing:
        total = len(listing.samples) + len(listing.missing)
        some = ", ".join(listing.missing[:3])
        log.warning("%s: %d of %d videos are not below %s, e.g. %s", path, len(listing.missing), total, root, some)
