"""Scan the videos of a list: what can be read, what cannot and why.

LIST is anything the configs take as `annotation` (list file, Kinetics CSV, Something-Something JSON, folder of
classes), or a folder of videos without classes, or one video. The report holds one entry a video, with the way it is
read: `keyframes` (only what a frame needs) or `pyav` (in sequence, and why); the clean list holds the readable videos
with absolute paths. Ctrl-C keeps what was found; with the same report, the next run goes on from there. Exit status 1
when a video is broken or missing, 130 when stopped.
"""

import argparse
import json
import os
import sys
from collections import Counter
from contextlib import closing
from pathlib import Path
from statistics import median_high
from typing import Any


def arguments(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("list", metavar="LIST", help="annotation, folder or video")
    parser.add_argument("--root", help="folder of the videos (default: where LIST lies)")
    parser.add_argument("--format", default="auto", help="auto, list, kinetics, ssv2 or folders")
    parser.add_argument("--classes", help="class file, where the annotation needs one")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes (0: none)")
    parser.add_argument("--report", help="write a JSON report here; good entries of unchanged files in it are kept")
    parser.add_argument("--clean", help="write a list of the readable videos here")
    parser.add_argument("--full", action="store_true", help="decode every frame, not the first, middle and last only")
    return parser.parse_args(argv)


def check(job: tuple[str, bool]) -> dict[str, Any]:
    """Look at one video; see `video.check`."""
    from video.check import check as look

    return look(job)


def known(report: str | None, full: bool) -> dict[str, dict[str, Any]]:
    """What an earlier report says of files that have not changed since."""
    from video.check import stamp_of

    if not report or not os.path.exists(report):
        return {}
    try:
        entries = json.loads(Path(report).read_text())["entries"]
        stamped = {e["path"]: e for e in entries if e.get("stamp")}
    except (ValueError, TypeError, KeyError, AttributeError):
        raise SystemExit(f"check_videos: {report} is no report of check_videos; name another file") from None
    same = {p: e for p, e in stamped.items() if e["stamp"][:2] == stamp_of(p) and (e["stamp"][2] or not full)}
    return {p: {k: v for k, v in e.items() if k not in ("path", "id", "label")} for p, e in same.items()}


def videos_of(options: argparse.Namespace) -> tuple[list, list[str]]:
    """The videos to look at, and the ids of those that the annotation names and the root does not have."""
    from video.annotations import EXTENSIONS, VIDEOS
    from xmodal.data.annotations import NO_LABEL, Sample

    path = Path(options.list)
    if path.is_file() and path.suffix.lower() in EXTENSIONS:
        return [Sample(str(path), NO_LABEL, path.name)], []
    loose = path.is_dir() and not any(VIDEOS.below(folder) for folder in path.iterdir() if folder.is_dir())
    if loose and options.format == "auto":
        paths = sorted(p for found in VIDEOS.below(path).values() for p in found)
        return [Sample(p, NO_LABEL, os.path.relpath(p, path)) for p in paths], []
    listing = VIDEOS.read(path, options.root, options.format, options.classes)
    return list(listing.samples), listing.missing


def summary(entries: list[dict[str, Any]]) -> dict[str, Any]:
    """Counts over all videos."""
    good = [entry for entry in entries if "broken" not in entry]
    lengths = sorted(entry["frames"] for entry in good)
    return {
        "videos": len(entries),
        "readable": len(good),
        "broken": len(entries) - len(good),
        "codecs": Counter(entry["codec"] for entry in good),
        "readers": Counter(entry["reader"] for entry in good),
        "in_sequence": Counter(entry["why"] for entry in good if entry["why"]),
        "sizes": Counter(f"{entry['width']}x{entry['height']}" for entry in good).most_common(10),
        "frames": {"least": lengths[0], "median": median_high(lengths), "most": lengths[-1]} if lengths else {},
    }


def scan(options: argparse.Namespace) -> int:
    """Check the videos of a list; 1 when one is broken or missing."""
    from video.batch import CRASHED, over_video
    from xmodal.atomic import write_text
    from xmodal.data.annotations import write_list
    from xmodal.data.trouble import TroubleError
    from xmodal.data.walk import printable

    samples, missing = videos_of(options)
    if options.clean and any(s.label < 0 and s.labels is None for s in samples):
        raise ValueError("--clean needs classes, and these videos have none")
    found = known(options.report, options.full)
    paths = dict.fromkeys(sample.path for sample in samples)
    jobs = [(path, options.full) for path in paths if path not in found]
    stopped = ""
    try:
        with closing(over_video(check, jobs, options.workers, "checking")) as results:
            for (path, _), result in results:
                found[path] = result if result is not None else {"broken": CRASHED, "found_by": "process"}
    except KeyboardInterrupt:
        stopped = "stopped"
    except TroubleError as error:
        stopped = str(error)
    entries = [
        {"path": s.path, "id": s.sample_id, "label": s.label, **found[s.path]} for s in samples if s.path in found
    ]
    report = {"list": options.list, "missing": missing, **summary(entries), "entries": entries}
    if options.report:
        write_text(options.report, json.dumps({**report, "unchecked": len(paths) - len(found)}, indent=1))
    if stopped:
        print(f"check_videos: {printable(stopped)}; {len(found)} of {len(paths)} videos were checked", end="")
        print(f", the same command goes on from {options.report}" if options.report else "")
        return 130 if stopped == "stopped" else 2
    if options.clean:
        write_list(options.clean, [sample for sample in samples if "broken" not in found[sample.path]])
    show(entries, report, missing)
    return 1 if report["broken"] or missing else 0


def show(entries: list[dict[str, Any]], report: dict[str, Any], missing: list[str]) -> None:
    """Print the broken videos and the counts."""
    from xmodal.data.walk import printable

    for entry in entries:
        if "broken" in entry:
            print(f"broken: {printable(entry['path'])}: {printable(entry['broken'])} [{entry['found_by']}]")
    print(f"{report['readable']} of {report['videos']} videos can be read, {report['broken']} broken", end="")
    print(f", {len(missing)} missing; codecs {dict(report['codecs'])}; frames {report['frames']}")
    if report["in_sequence"]:
        ways = ", ".join(f"{count} ({why})" for why, count in report["in_sequence"].items())
        print(f"read in sequence: {ways}; tools/reencode_videos.py makes copies that are read at random")


def main(argv: list[str] | None = None) -> int:
    """Check; returns the exit status."""
    options = arguments(argv)
    from xmodal.engine.launch import run

    return run(lambda: scan(options))


if __name__ == "__main__":
    sys.exit(main())
