"""Label a cloud file: python tools/predict_cloud.py CONFIG work_dirs/NAME/last.pth room.ply --out found."""

import argparse
import sys
from collections.abc import Sequence
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


def predict_files(cfg: Any, checkpoint: str, files: Sequence[str], out: str) -> list[dict[str, Any]]:
    """Label files one by one with a progress bar; returns what was found, or `error`, of each."""
    from tqdm import tqdm

    from pointcloud.datasets.base import CloudError
    from pointcloud.predict import load_model, predict_file

    model, names = load_model(cfg, checkpoint)
    rows: list[dict[str, Any]] = []
    for file in files:
        with tqdm(desc=file, unit="crop", disable=None) as bar:

            def show(done: int, total: int, bar: tqdm = bar) -> None:
                bar.total = total
                bar.update(done - bar.n)

            try:
                rows.append(predict_file(model, names, cfg, file, out, show))
            except CloudError as error:
                rows.append({"file": file, "error": str(error)})
        print(line_of(rows[-1]), flush=True)
    return rows


def line_of(row: dict[str, Any]) -> str:
    """One line about a file."""
    if "error" in row:
        return f"{row['file']} cannot be read: {row['error']}"
    found = {k: v for k, v in row.items() if k in ("name", "score", "counts")} or f"{len(row['boxes'])} boxes"
    return f"{row['page']} {found}"


def main(argv: list[str] | None = None) -> int:
    """Predict; returns the exit status, 1 when no file could be read."""
    args = parser().parse_intermixed_args(argv)
    from xmodal.engine.launch import prepare, run

    rows: list[dict[str, Any]] = []

    def job() -> None:
        cfg = prepare(args.config, options=args.cfg_options)
        rows.extend(predict_files(cfg, args.checkpoint, args.files, args.out))

    return run(job) or int(all("error" in row for row in rows))


if __name__ == "__main__":
    sys.exit(main())
