"""Train and test the ten few-shot episodes of a config: python tools/fewshot_clouds.py CONFIG --work-dir W.

Reports the mean and the standard deviation of the overall accuracy over the folds, as the field does.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("config", help="a few-shot config, such as configs/pointcloud/*_modelnet-5way10shot.py")
    p.add_argument(
        "--work-dir", type=Path, required=True, help="a folder per fold is made in it; finished ones are kept"
    )
    p.add_argument("--folds", type=int, nargs="+", default=list(range(10)), help="default 0 to 9")
    p.add_argument("--cfg-options", nargs="+", default=[], metavar="KEY=VALUE")
    return p


def run_fold(config: str, fold: int, work: Path, options: list[str]) -> float:
    """Train and test one episode; its overall accuracy in percent.

    Raises:
        SystemExit: the training or the test failed.
    """
    report = work / "test.json"
    if not report.exists():
        loaders = ("train_dataloader", "val_dataloader", "test_dataloader")
        given = [*options, *(f"{name}.dataset.fold={fold}" for name in loaders)]
        train = ["tools/train.py", config, "--work-dir", str(work), "--resume", "--cfg-options", *given]
        for words in (train, ["tools/test.py", config, str(work / "last.pth"), "--cfg-options", *given]):
            if status := subprocess.run([sys.executable, *words], cwd=ROOT, check=False).returncode:
                raise SystemExit(status)
    return float(json.loads(report.read_text())["test"]["top1"])


def work_through(args: argparse.Namespace) -> None:
    """Run all folds, print and keep mean and deviation."""
    from xmodal.evaluation.results import write_result

    work = args.work_dir.resolve()
    config = str(Path(args.config).resolve())
    found = {fold: run_fold(config, fold, work / f"fold{fold}", args.cfg_options) for fold in args.folds}
    values = list(found.values())
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    write_result(work / "folds.json", {"folds": found, "mean": statistics.mean(values), "std": spread})
    print(f"{len(values)} folds: overall accuracy {statistics.mean(values):.1f} +- {spread:.1f} %")


def main(argv: list[str] | None = None) -> int:
    """Run all folds; returns the exit status."""
    args = parser().parse_intermixed_args(argv)
    from xmodal.engine.launch import run

    return run(lambda: work_through(args))


if __name__ == "__main__":
    import checkout  # noqa: F401 - puts the root of the checkout on the path

    sys.exit(main())
