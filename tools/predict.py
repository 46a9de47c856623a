"""Classify, label or search files: python tools/predict.py work_dirs/NAME/best.pth clip.mp4 scans/."""

import argparse
import sys
from typing import Any


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        description="Predict files with a trained checkpoint, as the config's test data are read: videos and images "
        "are classified; point clouds are classified, segmented or searched for boxes, with a 3D page each. Results of "
        "clouds are in meters, z up, in the file's own place and point order; boxes are center, full sizes, yaw.",
    )
    p.add_argument("config", nargs="?", help="a config file; left out: the config that the checkpoint holds")
    p.add_argument("checkpoint", help="last.pth or best.pth of a run, or its folder")
    p.add_argument(
        "files", nargs="+", metavar="FILE", help="files, folders, patterns, lists (@list, .txt of paths), - for stdin"
    )
    p.add_argument("--out", default="predictions", help="folder of pages, and of labels and boxes of point clouds")
    p.add_argument("--format", choices=("text", "json", "jsonl", "csv"), default="text", help="of what is printed")
    p.add_argument("--json", action="store_const", const="json", dest="format", help="same as --format json")
    p.add_argument("--write", metavar="FILE", help="write there instead: .json, .jsonl (a row as it comes), .csv, .txt")
    p.add_argument("--window", metavar="2s", help="of long videos: predict windows of this length, with a page each")
    p.add_argument("--stride", metavar="1s", help="from one window to the next (half a window)")
    p.add_argument("--top", type=int, help="classes to show (5)")
    p.add_argument("--min-score", type=float, help="leave out classes and boxes below this score (boxes: 0.3)")
    p.add_argument("--amp", choices=("bf16", "fp16"), help="mixed precision (fp16 needs a GPU)")
    p.add_argument("--columns", type=lambda text: text.split(","), help="of tables of points: x,y,z,intensity,r,g,b")
    p.add_argument("--unit", help="of point clouds: m (default), cm, mm, um, km, in, ft, us-ft")
    p.add_argument("--up", help="the axis of point clouds that points up: z (default; glTF: y), y, x, -y, -z, -x")
    p.add_argument("--cfg-options", nargs="+", default=[], metavar="KEY=VALUE")
    return p


def read(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line; a checkpoint in the first place stands for the config that it holds."""
    import os

    words = list(sys.argv[1:] if argv is None else argv)
    args = parser().parse_intermixed_args(words)
    first = args.config
    if first is not None and (first.endswith((".pth", ".pt")) or os.path.isdir(first)):
        args.config, args.checkpoint, args.files = None, first, [args.checkpoint, *args.files]
    return args


def reading(args: argparse.Namespace, kind: str) -> dict[str, Any]:
    """Return the options of the files of a kind, checked before anything is loaded.

    Raises:
        ValueError: an unknown unit, axis or column, or an option of files of another kind.
    """
    from pointcloud.formats.columns import check_columns
    from pointcloud.formats.frame import Frame

    given = {k: getattr(args, k) for k in ("columns", "unit", "up") if getattr(args, k) is not None}
    if given and kind != "cloud":
        raise ValueError(f"--{next(iter(given))} is for point clouds, and this model reads {kind}s")
    if args.columns:
        check_columns(args.columns)
    Frame(args.unit or "m", args.up or "z")
    return given


def rows_of(args: argparse.Namespace) -> tuple[int, Any]:
    """Load the model and return how many files there are and their rows, which come one by one."""
    from video.windows import seconds_of
    from xmodal.engine.launch import prepare
    from xmodal.use.loaded import Loaded, find_checkpoint, kind_of

    checkpoint = find_checkpoint(args.checkpoint)
    cfg = prepare(args.config or str(checkpoint), options=args.cfg_options, amp=args.amp)
    kind = kind_of(cfg)
    options = reading(args, kind)
    window = seconds_of(args.window) if args.window else None
    stride = seconds_of(args.stride, "--stride") if args.stride else (window or 0) / 2
    if window and kind != "video":
        raise ValueError(f"--window is for videos, and this model reads {kind}s")
    model = Loaded(cfg, checkpoint, args.amp)
    found = model.inputs(args.files, args.out)
    paths, names = [entry.path for entry in found], [entry.name for entry in found]
    if window:
        from xmodal.use.timeline import Timeline

        line = Timeline(model.predictor, window, stride, args.top or 5, args.min_score)
        return len(paths), line.stream(paths, args.out, names)
    if kind == "cloud":
        options |= {"out": args.out, "names": names, "bars": True}
    top = args.top if kind == "cloud" else args.top or 5
    return len(paths), model.stream(paths, top=top, min_score=args.min_score, **options)


def main(argv: list[str] | None = None) -> int:
    """Predict; returns the exit status, 1 when no file could be read."""
    args = read(argv)
    from xmodal.engine.launch import run

    read_any = []

    def job() -> None:
        from tqdm import tqdm

        from xmodal.use.rows import written

        count, rows = rows_of(args)
        with written(args.write, args.format) as out, tqdm(total=count, unit="file", disable=None) as bar:
            for row in rows:
                read_any.append("error" not in row)
                bar.clear()
                out.add(row)
                bar.update()

    return run(job) or int(not any(read_any))


if __name__ == "__main__":
    sys.exit(main())
