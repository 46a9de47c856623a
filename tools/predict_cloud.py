"""Label a cloud file: python tools/predict_cloud.py CONFIG work_dirs/NAME/last.pth room.ply --out found."""

import argparse
import sys
from typing import Any


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        description="Classify, segment or find boxes in .ply, .npy, .npz, .las, .pcd, .txt or .bin clouds; writes "
        "JSON, labels and a page with an interactive 3D view."
    )
    p.add_argument("config", help="a config file of a point-cloud model")
    p.add_argument("checkpoint", help="last.pth or best.pth of a run")
    p.add_argument("files", nargs="+", metavar="FILE")
    p.add_argument("--out", default="predictions", help="folder of the results")
    p.add_argument("--cfg-options", nargs="+", default=[], metavar="KEY=VALUE")
    return p


def main(argv: list[str] | None = None) -> int:
    """Predict; returns the exit status, 1 when no file could be read."""
    args = parser().parse_intermixed_args(argv)
    from pointcloud.predict import predict_files
    from xmodal.engine.launch import prepare, run

    rows: list[dict[str, Any]] = []

    def job() -> None:
        cfg = prepare(args.config, options=args.cfg_options)
        rows.extend(predict_files(cfg, args.checkpoint, args.files, args.out))

    return run(job) or int(all("error" in row for row in rows))


if __name__ == "__main__":
    sys.exit(main())
