"""Classify files, label clouds: python tools/predict.py CONFIG work_dirs/NAME/best.pth clip.mp4 other.webm."""

import argparse
import sys
from typing import Any


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        description="Classify files with a trained checkpoint, read as the config's test data are; point clouds (.ply, "
        ".npy, .npz, .las, .pcd, .txt, .bin) are classified, segmented or searched for boxes, with a 3D page each."
    )
    p.add_argument("config", help="a config file")
    p.add_argument("checkpoint", help="last.pth or best.pth of a run")
    p.add_argument("files", nargs="+", metavar="FILE", help="such as a video")
    p.add_argument("--out", default="predictions", help="folder of labels, boxes and pages of point clouds")
    p.add_argument("--json", action="store_true", help="print JSON: all scores, or why a file could not be read")
    p.add_argument("--top", type=int, default=5, help="classes to show (5)")
    p.add_argument("--amp", choices=("bf16", "fp16"), help="mixed precision (fp16 needs a GPU)")
    p.add_argument("--cfg-options", nargs="+", default=[], metavar="KEY=VALUE")
    return p


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
    """Whether the model of a config is one of point clouds."""
    from pointcloud.model import CloudModel
    from xmodal.registry import MODELS

    kind = cfg.model.type
    return issubclass(MODELS.get(kind) if isinstance(kind, str) else kind, CloudModel)


def main(argv: list[str] | None = None) -> int:
    """Predict; returns the exit status, 1 when no file could be read."""
    args = parser().parse_intermixed_args(argv)
    import json

    from xmodal.engine.launch import prepare, run
    from xmodal.engine.predict import predict

    rows: list[dict] = []

    def job() -> None:
        cfg = prepare(args.config, options=args.cfg_options, amp=args.amp)
        if reads_clouds(cfg):
            from pointcloud.predict import predict_files

            rows.extend(predict_files(cfg, args.checkpoint, args.files, args.out))
            return
        rows.extend(predict(cfg, args.checkpoint, args.files, args.amp, args.top))
        if args.json:
            print(json.dumps(rows, indent=1))
        else:
            show(rows)

    return run(job) or int(all("error" in row for row in rows))


if __name__ == "__main__":
    sys.exit(main())
