"""Label a cloud file: python tools/predict_cloud.py CONFIG work_dirs/NAME/last.pth room.ply --out found."""

import argparse
import sys


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
    """Predict; returns the exit status."""
    args = parser().parse_intermixed_args(argv)
    from tqdm import tqdm

    from pointcloud.predict import load_model, predict_file
    from xmodal.engine.launch import prepare, run

    def job() -> None:
        cfg = prepare(args.config, options=args.cfg_options)
        model, names = load_model(cfg, args.checkpoint)
        for file in args.files:
            bar = tqdm(desc=file, unit="crop", disable=None)

            def show(done: int, total: int, bar: tqdm = bar) -> None:
                bar.total = total
                bar.update(done - bar.n)

            row = predict_file(model, names, cfg, file, args.out, show)
            bar.close()
            print(
                row["page"],
                {k: v for k, v in row.items() if k in ("name", "score", "counts")} or f"{len(row['boxes'])} boxes",
            )

    return run(job)


if __name__ == "__main__":
    sys.exit(main())
