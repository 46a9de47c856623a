"""Make copies of the videos of a list that are quick to read at random: short side 256, a key frame every 12 frames.

Copies go to OUT under the same names, ending in .mp4, together with `list.txt` of what succeeded and `broken.json` of
what did not. Run it again to go on, after Ctrl-C too: complete copies are kept. Exit status 1 when a video is broken.
"""

import argparse
import json
import os
import sys
from functools import partial
from pathlib import Path


def arguments(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("list", metavar="LIST", help="annotation: list file, Kinetics CSV, SSv2 JSON or class folders")
    parser.add_argument("out", metavar="OUT", help="folder for the copies")
    parser.add_argument("--root", help="folder of the videos (default: where LIST lies)")
    parser.add_argument("--format", default="auto", help="auto, list, kinetics, ssv2 or folders")
    parser.add_argument("--classes", help="class file, where the annotation needs one")
    parser.add_argument("--short-side", type=int, default=256, help="pixels; smaller videos are not enlarged")
    parser.add_argument("--gop", type=int, default=12, help="frames from key frame to key frame")
    parser.add_argument("--crf", type=int, default=20, help="quality of x264, lower is better")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes (0: none)")
    return parser.parse_args(argv)


def copy(job: tuple[str, str], short_side: int, gop: int, crf: int) -> str:
    """Copy one video unless it has been copied; returns what went wrong, or nothing."""
    from video.decode import VideoError
    from video.reencode import reencode
    from xmodal.data.trouble import retried

    source, target = job
    if os.path.exists(target):
        return ""
    try:
        retried(lambda: reencode(source, target, short_side, gop, crf))
    except VideoError as error:
        return f"{error.reason} [{error.backend}]"
    return ""


def same_settings(out: Path, settings: dict[str, int]) -> None:
    """Refuse to go on in a folder whose copies were made with other settings."""
    note = out / "settings.json"
    if note.exists() and (before := json.loads(note.read_text())) != settings:
        raise ValueError(f"{out} holds copies made with {before}, not {settings}; choose another OUT")
    out.mkdir(parents=True, exist_ok=True)
    note.write_text(json.dumps(settings))


def copy_all(options: argparse.Namespace) -> int:
    """Copy the videos of a list; 1 when one is broken or missing."""
    from video.annotations import VIDEOS
    from video.batch import CRASHED, over_video
    from video.reencode import copy_names
    from xmodal.data.annotations import Sample, write_list
    from xmodal.data.trouble import TroubleError
    from xmodal.data.walk import printable

    settings = {"short_side": options.short_side, "gop": options.gop, "crf": options.crf}
    listing = VIDEOS.read(options.list, options.root, options.format, options.classes)
    out = Path(options.out)
    same_settings(out, settings)
    at = Path(options.list)
    sources = list(dict.fromkeys(sample.path for sample in listing.samples))
    names = copy_names(sources, options.root or str(at if at.is_dir() else at.parent))
    target = {source: str(out / name) for source, name in zip(sources, names, strict=True)}
    kept = sum(os.path.exists(path) for path in target.values())
    broken: dict[str, str] = {}
    try:
        for (source, _), problem in over_video(
            partial(copy, **settings), target.items(), options.workers, "re-encoding"
        ):
            if problem is None or problem:
                broken[source] = problem or CRASHED
                print(f"broken: {printable(source)}: {broken[source]}")
    except (KeyboardInterrupt, TroubleError) as stop:
        for part in out.rglob(".*.part"):
            part.unlink(missing_ok=True)
        print(f"reencode_videos: {printable(str(stop)) or 'stopped'}; the same command goes on from here")
        return 2 if isinstance(stop, TroubleError) else 130
    good = [sample for sample in listing.samples if sample.path not in broken]
    write_list(out / "list.txt", [Sample(target[s.path], s.label, s.sample_id) for s in good])
    (out / "broken.json").write_text(json.dumps({**broken, **dict.fromkeys(listing.missing, "missing")}, indent=1))
    print(f"{len(sources) - len(broken)} of {len(sources)} videos in {out} ({kept} were there), {len(broken)} broken")
    return 1 if broken or listing.missing else 0


def main(argv: list[str] | None = None) -> int:
    """Copy; returns the exit status."""
    options = arguments(argv)
    from xmodal.engine.launch import run

    return run(lambda: copy_all(options))


if __name__ == "__main__":
    sys.exit(main())
