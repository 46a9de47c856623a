"""Readers of video annotations: Kinetics CSV and Something-Something v2 JSON beside plain lists and folders."""

import re
from collections.abc import Mapping
from pathlib import Path

from video.frames import frame_folders
from xmodal.data.annotations import (
    NO_LABEL,
    Annotations,
    Listing,
    Sample,
    index_of,
    look_up,
    read_classes,
)
from xmodal.data.lists import load_json, rows_of

EXTENSIONS = (
    ".mp4", ".m4v", ".mov", ".qt", ".3gp", ".3g2", ".3gpp", ".f4v", ".mj2", ".webm", ".mkv", ".mk3d", ".avi", ".divx",
    ".ts", ".m2ts", ".m2t", ".mts", ".tod", ".trp", ".mod", ".mpg", ".mpeg", ".mpe", ".mpv", ".m1v", ".m2v", ".m2p",
    ".vob", ".evo", ".vro", ".wmv", ".asf", ".wtv", ".flv", ".ogv", ".ogg", ".ogm", ".mxf", ".gif", ".rm", ".rmvb",
    ".dv", ".dif", ".amv", ".nut", ".nsv", ".ivf", ".y4m", ".h264", ".264", ".avc", ".h265", ".265", ".hevc", ".mjpg",
    ".mjpeg",
)  # fmt: skip
SSV2_LABELS = "something-something-v2-labels.json"
VIDEOS = Annotations("video", EXTENSIONS, json="ssv2", folders=frame_folders)


@VIDEOS.formats.register_module(name="kinetics")
def read_kinetics(path: Path, root: Path, classes: list[str] | None) -> Listing:
    """Read a Kinetics CSV; videos are `<youtube_id>_<start:06d>_<end:06d>.*` anywhere below `root`, or without zeros.

    Classes are the labels in alphabetical order unless given; underscores may stand for spaces.
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
    samples, missing = [], []
    for number, row in enumerate(rows, 2):
        name = _kinetics_name(row, f"{path}:{number}")
        label = look_up(row["label"], index, f"{path}:{number}") if row.get("label") else NO_LABEL
        choices = videos.get(name) or videos.get(re.sub(r"_0*(\d+)_0*(\d+)$", r"_\1_\2", name), [])
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
    index = index_of(classes or ())
    videos = VIDEOS.below(root)
    samples, missing = [], []
    for number, entry in enumerate(entries):
        where = f"{path}: entry {number}"
        if not isinstance(entry, dict) or "id" not in entry:
            raise ValueError(f"{where}: no key 'id' in {str(entry)[:120]}")
        name, template = str(entry["id"]), entry.get("template", entry.get("label"))
        label = NO_LABEL
        if template is not None:
            label = look_up(str(template).replace("[", "").replace("]", ""), index, where)
        if name in videos:
            samples.append(Sample(videos[name][0], label, name))
        else:
            missing.append(name)
    return Listing(samples, classes, missing)
