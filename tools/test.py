"""Test a trained checkpoint: python tools/test.py work_dirs/NAME/best.pth."""

import argparse
import sys


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        description="Test a checkpoint on the config's test data; writes test.json beside it, "
        "and the figures into report.html where training left one."
    )
    p.add_argument("config", nargs="?", help="a config file; left out: the config that the checkpoint holds")
    p.add_argument("checkpoint", help="last.pth or best.pth of a run")
    p.add_argument("--dump", metavar="FILE", help="write the predictions (.npz or .json)")
    p.add_argument("--views", metavar="TEMPORALxSPATIAL", help="views of a video, such as 3x1; default: the config's")
    p.add_argument("--amp", choices=("bf16", "fp16"), help="mixed precision (fp16 needs a GPU)")
    p.add_argument("--work-dir", help="default: the folder of the checkpoint")
    p.add_argument(
        "--cfg-options", nargs="+", default=[], metavar="KEY=VALUE", help="such as test_dataloader.batch_size=1"
    )
    p.add_argument("--launcher", choices=("none", "pytorch", "slurm"), default="none", help="pytorch under torchrun")
    return p


def views(text: str) -> dict[str, int]:
    """Read `3x1` as 3 temporal and 1 spatial view."""
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(part.isdigit() and int(part) for part in parts):
        raise ValueError(f"--views takes TEMPORALxSPATIAL such as 3x1, got {text!r}")
    return {"temporal_views": int(parts[0]), "spatial_views": int(parts[1])}


def main(argv: list[str] | None = None) -> int:
    """Test; returns the exit status."""
    args = parser().parse_args(argv)
    from pathlib import Path

    from mmengine.dist import is_main_process

    from xmodal.engine.launch import evaluate, prepare, run

    def job() -> None:
        options = list(args.cfg_options)
        if args.views:
            options += [f"test_dataloader.dataset.{key}={value}" for key, value in views(args.views).items()]
        work_dir = args.work_dir or str(Path(args.checkpoint).parent)
        cfg = prepare(args.config or args.checkpoint, work_dir, options, None, args.amp, args.launcher)
        if args.dump:
            cfg.test_evaluator.dump = args.dump
        evaluate(cfg, args.checkpoint)
        if (Path(work_dir) / "report.html").exists() and is_main_process():
            from xmodal.use.report import page_of

            page_of(work_dir)

    return run(job)


if __name__ == "__main__":
    sys.exit(main())
