"""Classify, label or search files: python tools/predict.py work_dirs/NAME/best.pth clip.mp4 scans/."""

import argparse
import contextlib
import os
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
    p.add_argument("checkpoint", help="last.pth or best.pth of a run")
    p.add_argument("files", nargs="+", metavar="FILE", help="files, folders, patterns, lists (@list, .txt of paths)")
    p.add_argument("--out", default="predictions", help="folder of labels, boxes and pages of point clouds")
    p.add_argument("--json", action="store_true", help="print JSON: all scores, or why a file could not be read")
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
    args = parser().parse_intermixed_args(argv)
    if args.config is not None and args.config.endswith((".pth", ".pt")):
        args.config, args.checkpoint, args.files = None, args.config, [args.checkpoint, *args.files]
    return args


def files_of(named: list[str], endings: tuple[str, ...], videos: bool) -> list[str]:
    """Return the files that a user named; with `videos`, a folder of frames is one, and so is each below a folder."""
    from video.frames import frame_folders, is_frame_folder
    from xmodal.engine.inputs import expand

    files: list[str] = []
    for word in named:
        if videos and os.path.isdir(word):
            inner = [word] if is_frame_folder(word) else list(frame_folders(word))
            if inner:
                files += inner
                continue
        files += [entry.path for entry in expand([word], endings)]
    return list(dict.fromkeys(files))


def show(rows: list[dict]) -> None:
    """Print a few lines a file."""
    from xmodal.data.walk import printable

    for row in rows:
        if "error" in row:
            print(f"{printable(row['file'])}\n    cannot be read: {row['error']}")
            continue
        print(printable(row["file"]))
        for entry in row["top"]:
            print(f"    {100 * entry['score']:6.2f} %  {entry['name']}")


def reads_clouds(cfg: Any) -> bool:
    """Return whether the model of a config is one of point clouds."""
    from pointcloud.model import CloudModel
    from xmodal.registry import MODELS, resolve

    return issubclass(resolve(cfg.model.type, MODELS), CloudModel)


def predict_clouds(cfg: Any, args: argparse.Namespace) -> list[dict]:
    """Predict point clouds; prints a line each as they come, with --json to standard error."""
    from pointcloud.formats.columns import check_columns
    from pointcloud.formats.frame import Frame
    from pointcloud.predict import predict_files

    if args.columns:
        check_columns(args.columns)
    Frame(args.unit or "m", args.up or "z")
    known = ("top", "min_score", "amp", "columns", "unit", "up")
    options = {k: getattr(args, k) for k in known if getattr(args, k) is not None}
    with contextlib.redirect_stdout(sys.stderr) if args.json else contextlib.nullcontext():
        return predict_files(cfg, args.checkpoint, args.files, args.out, **options)


def main(argv: list[str] | None = None) -> int:
    """Predict; returns the exit status, 1 when no file could be read."""
    args = read(argv)
    import json

    from video.annotations import VIDEOS
    from video.datasets import VideoDataset
    from xmodal.data.annotations import IMAGES
    from xmodal.engine.launch import prepare, run
    from xmodal.engine.predict import predict
    from xmodal.registry import DATASETS, resolve

    rows: list[dict] = []

    def job() -> None:
        cfg = prepare(args.config or args.checkpoint, options=args.cfg_options, amp=args.amp)
        clouds = reads_clouds(cfg)
        if clouds:
            rows.extend(predict_clouds(cfg, args))
        else:
            videos = issubclass(resolve(cfg.test_dataloader.dataset.type, DATASETS), VideoDataset)
            files = files_of(args.files, VIDEOS.endings + IMAGES.endings, videos)
            rows.extend(predict(cfg, args.checkpoint, files, args.amp, args.top or 5, args.min_score))
        if args.json:
            print(json.dumps(rows, indent=1))
        elif not clouds:
            show(rows)

    return run(job) or int(all("error" in row for row in rows))


if __name__ == "__main__":
    sys.exit(main())
