"""Look at runs: python tools/report.py work_dirs/NAME [work_dirs/OTHER ...]."""

import argparse
import sys
from pathlib import Path


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        description="Write one page about a run: curves, classes, confusion matrix, confident mistakes that play or "
        "turn, training samples, config and environment; of several runs, they are compared. The page needs no network."
    )
    p.add_argument("runs", nargs="+", metavar="RUN_DIR", help="work directories")
    p.add_argument("--out", type=Path, help="the page; default: report.html in the first work directory")
    p.add_argument("--title", default="", help="of the page; default: the names of the runs")
    p.add_argument("--no-scenes", action="store_true", help="load no model to predict scenes of 3D tasks")
    return p


def main(argv: list[str] | None = None) -> int:
    """Write the page; returns the exit status."""
    args = parser().parse_args(argv)
    from xmodal.engine.launch import run

    def job() -> None:
        from xmodal.registry import load_catalog
        from xmodal.use.report import NAME, write_report
        from xmodal.use.runs import read_runs

        load_catalog()
        runs = read_runs(args.runs)
        print(write_report(runs, args.out or runs[0].folder / NAME, args.title, with_scenes=not args.no_scenes))

    return run(job)


if __name__ == "__main__":
    sys.exit(main())
