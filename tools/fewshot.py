"""A grid of few-shot runs: python tools/fewshot.py CONFIG --shots 1 2 4 8 16 --seeds 1 2 3 --workers 2."""

import argparse
import sys
from pathlib import Path

EPILOG = """The grid resumes: runs whose result file is there and whose recipe is the same are not run again.
Results, learned prompts (in the layout of Dassl), table.md and plot.png go to the output folder.
Selecting on the test set, as some released code does, must be asked for and is printed as such; choose rates and ranges
with --on val, which reports on the validation split and never looks at the test split."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("config", help="a config under configs/fewshot/")
    p.add_argument("--shots", type=int, nargs="+", help="training images per class; default: the config's")
    p.add_argument("--seeds", type=int, nargs="+", help="default: the config's, else those of the protocol")
    p.add_argument("--methods", nargs="+", help="names of methods in the config; default: all")
    p.add_argument("--out", help="default: work_dirs/fewshot/<name of the config>")
    p.add_argument("--plot", help="also write the plot to this file")
    p.add_argument("--cache", help="folder that keeps features between calls; default: <out>/features")
    p.add_argument(
        "--load", nargs="+", default=[], metavar="METHOD=PATH", help="test a Dassl run (folder) or best_F_*.pt instead"
    )
    p.add_argument("--device", default="cpu", help="cpu or cuda")
    p.add_argument("--workers", type=int, default=1, help="processes that share the runs (default 1)")
    p.add_argument("--on", choices=("test", "val"), default="test", help="the split that is reported on")
    p.add_argument("--allow-test-selection", action="store_true", help="allow recipes that select on the test set")
    return p


def job(args: argparse.Namespace) -> None:
    """Run the grid, print the table, draw the plot."""
    import logging
    import shutil
    from functools import partial

    from xmodal.evaluation.config import grid_from_file, read_config
    from xmodal.evaluation.run_grid import draw_plot, format_searches, format_table, run_in_processes

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    cfg = read_config(args.config)
    name = Path(args.config).stem + ("-val" if args.on == "val" else "")
    out = Path(args.out or Path("work_dirs/fewshot") / name)
    load = dict(entry.split("=", 1) for entry in args.load)
    more = dict(load=load, on=args.on, device=args.device, cache=args.cache or out / "features")
    more |= dict(methods=args.methods, allow_test_selection=args.allow_test_selection)
    make = partial(grid_from_file, args.config, out, **more)
    grid = make()
    shots = args.shots or list(cfg.get("shots", grid.protocol.shots))
    seeds = args.seeds or list(cfg.get("seeds", grid.protocol.seeds))
    missing = [cell for cell in grid.cells(shots, seeds) if grid.found(*cell) is None]
    if args.workers > 1 and len(missing) > 1:
        run_in_processes(make, missing, args.workers)
    results = grid.run(shots, seeds)
    table = "\n\n".join(filter(None, (format_table(results), format_searches(results))))
    if args.on == "val":
        table = f"On the VALIDATION split, for choosing recipes; these are no test figures.\n\n{table}"
    (out / "table.md").write_text(table + "\n")
    draw_plot(results, out / "plot.png", cfg.get("title", ""))
    if args.plot:
        Path(args.plot).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(out / "plot.png", args.plot)
    print(f"\n{table}\n\n{out}/table.md, {out}/plot.png")


def main(argv: list[str] | None = None) -> int:
    """Run; returns the exit status."""
    args = parser().parse_args(argv)
    from xmodal.engine.launch import run

    return run(lambda: job(args))


if __name__ == "__main__":
    import checkout  # noqa: F401 - puts the root of the checkout on the path

    sys.exit(main())
