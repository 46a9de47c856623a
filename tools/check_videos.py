"""Scan the videos of a list: what can be read, what cannot and why.

LIST is anything the configs take as `annotation` (list file, Kinetics CSV, Something-Something JSON, folder of
classes), or a folder of videos without classes, or one video. The report holds one entry a video; the clean list
holds the readable videos with absolute paths. Exit status 1 when a video is broken or missing.
"""

import argparse
import json
import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any


def arguments(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("list", metavar="LIST", help="annotation, folder or video")
    parser.add_argument("--root", help="folder of the videos (default: where LIST lies)")
    parser.add_argument("--format", default="auto", help="auto, list, kinetics, ssv2 or folders")
    parser.add_argument("--classes", help="class file, where the annotation needs one")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes (0: none)")
    parser.add_argument("--report", help="write a JSON report here")
    parser.add_argument("--clean", help="write a list of the readable videos here")
    parser.add_argument("--full", action="store_true", help="decode every frame, not the first, middle and last only")
    return parser.parse_args(argv)


def check(job: tuple[str, bool]) -> dict[str, Any]:
    """Read one video and describe it."""
    from video.decode import VideoError, VideoFile

    path, full = job
    try:
        with VideoFile(path) as video:
            last = video.num_frames - 1
            for first in range(0, last + 1, 64) if full else ():
                video.read(range(first, min(first + 64, last + 1)))
            video.read([0, last // 2, last])
            height, width = video.size
            seconds = round(video.num_frames / video.fps, 2) if video.fps else None
            return {
                "frames": video.num_frames,
                "fps": round(video.fps, 3),
                "seconds": seconds,
                "height": height,
                "width": width,
                "codec": video.codec,
                "reader": video.backend,
            }
    except VideoError as error:
        return {"broken": error.reason, "found_by": error.backend}


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
    return listing.samples, listing.missing


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
        "sizes": Counter(f"{entry['width']}x{entry['height']}" for entry in good).most_common(10),
        "frames": dict(zip(("least", "median", "most"), _spread(lengths), strict=False)),
    }


def _spread(values: list[int]) -> list[int]:
    return [values[0], values[len(values) // 2], values[-1]] if values else []


def scan(options: argparse.Namespace) -> int:
    """Check the videos of a list; 1 when one is broken or missing."""
    from video.batch import CRASHED, over_video
    from xmodal.data.annotations import write_list

    samples, missing = videos_of(options)
    if options.clean and any(sample.label < 0 for sample in samples):
        raise ValueError("--clean needs classes, and these videos have none")
    found: dict[str, dict[str, Any]] = {}
    jobs = [(path, options.full) for path in dict.fromkeys(sample.path for sample in samples)]
    for (path, _), result in over_video(check, jobs, options.workers, "checking"):
        found[path] = result if result is not None else {"broken": CRASHED, "found_by": "process"}
    entries = [{"path": s.path, "id": s.sample_id, "label": s.label, **found[s.path]} for s in samples]
    report = {"list": options.list, "missing": missing, **summary(entries), "entries": entries}
    if options.report:
        Path(options.report).write_text(json.dumps(report, indent=1), encoding="utf-8")
    if options.clean:
        write_list(options.clean, [sample for sample in samples if "broken" not in found[sample.path]])
    for entry in entries:
        if "broken" in entry:
            print(f"broken: {entry['path']}: {entry['broken']} [{entry['found_by']}]")
    print(f"{report['readable']} of {report['videos']} videos can be read, {report['broken']} broken", end="")
    print(f", {len(missing)} missing; codecs {dict(report['codecs'])}; frames {report['frames']}")
    return 1 if report["broken"] or missing else 0


def main(argv: list[str] | None = None) -> int:
    """Check; returns the exit status."""
    options = arguments(argv)
    from xmodal.engine.launch import run

    return run(lambda: scan(options))


if __name__ == "__main__":
    sys.exit(main())
