"""Readers of video annotations: Kinetics CSV and Something-Something beside plain lists and folders."""

import logging
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from video.frames import frame_folders
from xmodal.data.annotations import NO_LABEL, Annotations, Listing, Sample
from xmodal.data.class_names import index_of, look_up, plain, read_classes
from xmodal.data.lists import each_line, load_json, rows_of
from xmodal.data.tables import names_of

log = logging.getLogger("xmodal.data")

EXTENSIONS = (
    ".mp4", ".m4v", ".mov", ".qt", ".3gp", ".3g2", ".3gpp", ".f4v", ".mj2", ".webm", ".mkv", ".mk3d", ".avi", ".divx",
    ".ts", ".m2ts", ".m2t", ".mts", ".tod", ".trp", ".mod", ".mpg", ".mpeg", ".mpe", ".mpv", ".m1v", ".m2v", ".m2p",
    ".vob", ".evo", ".vro", ".wmv", ".asf", ".wtv", ".flv", ".ogv", ".ogg", ".ogm", ".mxf", ".gif", ".rm", ".rmvb",
    ".dv", ".dif", ".amv", ".nut", ".nsv", ".ivf", ".y4m", ".h264", ".264", ".avc", ".h265", ".265", ".hevc", ".mjpg",
    ".mjpeg",
)  # fmt: skip
SSV2_LABELS = "something-something-v2-labels.json"
VIDEOS = Annotations(
    "video",
    EXTENSIONS,
    json="ssv2",
    folders=frame_folders,
    heads={
        "kinetics": lambda line: "youtube_id" in map(str.lower, names_of(line)),
        "ssv2": lambda line: "template" in names_of(line) or line == "id",
        "ssv1": lambda line: re.fullmatch(r"\s*\d+\s*(;.*[^\W\d_].*)?", line) is not None,
    },
)


@VIDEOS.formats.register_module(name="kinetics")
def read_kinetics(path: Path, root: Path, classes: list[str] | None) -> Listing:
    """Read a Kinetics CSV or JSON; videos are `<youtube_id>_<start:06d>_<end:06d>.*` anywhere below `root`.

    The zeros may be missing, and a video that the table names once may be called `<youtube_id>.*`. Classes are the
    labels in alphabetical order unless given; underscores may stand for spaces.
    """
    rows = [{key.strip().lower(): value for key, value in row.items() if key} for row in rows_of(path)]
    for key in ("youtube_id", "time_start", "time_end"):
        if not rows or rows[0].get(key) is None:
            official = "label,youtube_id,time_start,time_end,split"
            raise ValueError(f"{path}: no column {key!r}; official files have {official}")
    if classes is None and rows[0].get("label") is not None:
        classes = sorted({row["label"] for row in rows if row.get("label")})
    index = index_of(classes or ())
    videos = VIDEOS.below(root)
    names = [_kinetics_name(row, f"{path}:{number}") for number, row in enumerate(rows, 2)]
    keys = {(row["youtube_id"], plain(row.get("label") or ""), name) for row, name in zip(rows, names, strict=True)}
    clips = Counter(key for video, label, _ in keys for key in (video, (video, label)))
    samples, missing = [], []
    for number, (name, row) in enumerate(zip(names, rows, strict=True), 2):
        label = look_up(row["label"], index, f"{path}:{number}") if row.get("label") else NO_LABEL
        found = _clip_of(row, name, videos, clips)
        if found:
            samples.append(Sample(found, label, name))
        else:
            missing.append(name)
    whole = [s.path for s in samples if not re.search(r"_\d+_\d+$", Path(s.path).stem)]
    if whole:
        log.warning("%s: %d videos have no times in their names, e.g. %s: taken as cut", path, len(whole), whole[0])
    unclear = [name for name in missing if name.rsplit("_", 2)[0] in videos]
    if unclear:
        form = "several clips are of one uncut video; cut it and name them <id>_<start>_<end>"
        log.warning("%s: %d videos are left out, e.g. %s: %s", path, len(unclear), unclear[0], form)
    return Listing(samples, classes, missing)


def _clip_of(row: Mapping[str, str], name: str, videos: Mapping[str, list[str]], clips: Mapping) -> str | None:
    """Return the file of a row: named with its times, else with its id alone where only one clip can be meant."""
    video, split, label = row["youtube_id"], row.get("split") or "", plain(row.get("label") or "")
    choices = videos.get(name) or videos.get(re.sub(r"_0*(\d+)_0*(\d+)$", r"_\1_\2", name), [])
    if not choices and video in videos and clips[video, label] == 1:
        of_class = [path for path in videos[video] if label in map(plain, Path(path).parts)]
        choices = videos[video] if clips[video] == 1 else of_class
    in_place = lambda path: (split in Path(path).parts, label in map(plain, Path(path).parts))  # noqa: E731
    return max(choices, key=in_place, default=None)


def _kinetics_name(row: Mapping[str, str], where: str) -> str:
    try:
        start, end = (int(float(row[key])) for key in ("time_start", "time_end"))
    except (TypeError, ValueError):
        raise ValueError(f"{where}: time_start and time_end must be seconds, got {dict(row)}") from None
    return f"{row['youtube_id']}_{start:06d}_{end:06d}"


@VIDEOS.formats.register_module(name="ssv2")
def read_ssv2(path: Path, root: Path, classes: list[str] | None) -> Listing:
    """Read a Something-Something v2 JSON; videos are `<id>.webm` (or another ending) in `root`.

    Classes come from the official labels file, given as `classes` or lying beside the annotation.
    """
    entries = load_json(path, list, "a list of {id, template, ...}")
    if classes is None:
        beside = path.parent / SSV2_LABELS
        if not beside.is_file():
            raise ValueError(f"{path} needs the classes: give the labels file as `classes`, or put it at {beside}")
        classes = read_classes(beside)
    return by_ids((_ssv2_entry(entry, f"{path}: entry {n}") for n, entry in enumerate(entries)), root, classes)


def _ssv2_entry(entry: object, where: str) -> tuple[str, str, str | None]:
    if not isinstance(entry, dict) or "id" not in entry:
        raise ValueError(f"{where}: no key 'id' in {str(entry)[:120]}")
    template = entry.get("template", entry.get("label"))
    return where, str(entry["id"]), None if template is None else str(template).replace("[", "").replace("]", "")


@VIDEOS.formats.register_module(name="ssv1")
def read_ssv1(path: Path, root: Path, classes: list[str] | None) -> Listing:
    """Read lines `id;class` or `id`, of Something-Something v1 and Jester; videos are folders of frames called `<id>`.

    Classes are given, or those of `...-labels.csv` beside `...-train.csv`, or the names in alphabetical order.
    """
    rows = [(f"{path}:{n}", *line.partition(";")[::2]) for n, line in enumerate(each_line(path), 1) if line.strip()]
    entries = [(where, name.strip(), label.strip() or None) for where, name, label in rows]
    beside = path.with_name(re.sub(r"(train|validation|val|test)(?=\.\w+$)", "labels", path.name))
    if classes is None:
        known = sorted({label for _, _, label in entries if label})
        classes = read_classes(beside) if beside != path and beside.is_file() else known or None
    return by_ids(entries, root, classes)


def by_ids(entries: Iterable[tuple[str, str, str | None]], root: Path, classes: list[str] | None) -> Listing:
    """Find the videos of (place in the annotation, id, class name or None) below a folder by their ids."""
    index = index_of(classes or ())
    videos = VIDEOS.below(root)
    samples, missing = [], []
    for where, name, label_name in entries:
        label = NO_LABEL if label_name is None else look_up(label_name, index, where)
        if name in videos:
            samples.append(Sample(videos[name][0], label, name))
        else:
            missing.append(name)
    return Listing(samples, classes, missing)
