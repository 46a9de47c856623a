#!/usr/bin/env python
"""Make a small action set as real encoded files: shapes that move, grow, appear, turn or meet."""

import argparse
import sys
from pathlib import Path
from typing import Any

SETS = ("easy", "hard")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--layout", default="list", choices=["list", "kinetics", "ssv2", "folders"])
    parser.add_argument("--set", default="easy", choices=SETS, help="8 classes, or 12 with approach and rotation")
    parser.add_argument("--classes", nargs="+", help='names instead of a set, e.g. "moving left" "moving right"')
    parser.add_argument("--train", type=int, default=800, help="clips")
    parser.add_argument("--val", type=int, default=160, help="clips")
    parser.add_argument("--test", type=int, default=240, help="clips")
    parser.add_argument("--size", type=int, default=64, help="edge of a frame in pixels")
    parser.add_argument("--frames", type=int, default=32)
    parser.add_argument("--fps", type=int, default=16)
    parser.add_argument("--codec", default="h264", choices=["h264", "vp9"])
    parser.add_argument("--moving", action="store_true", help="let the thing that stands by drift")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(argv)


def make(args: dict[str, Any]) -> None:
    """Make the set."""
    import cv2

    from video.toys.actions import EASY, HARD, ActionSet, make_actions

    cv2.setNumThreads(1)
    out, named = args.pop("out"), args.pop("classes")
    preset = dict(zip(SETS, (EASY, HARD), strict=True))[args.pop("set")]
    spec = ActionSet(classes=tuple(named) if named else preset, **args)
    print(f"{len(spec.classes)} classes: {', '.join(spec.classes)}")
    print("in", make_actions(out, spec, tell=print))


def main(argv: list[str] | None = None) -> int:
    """Make the set; returns the exit status."""
    args = vars(parse_args(argv))
    from xmodal.engine.launch import run

    return run(lambda: make(args))


if __name__ == "__main__":
    sys.exit(main())
