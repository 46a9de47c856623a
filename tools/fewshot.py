"""A grid of few-shot runs: python tools/fewshot.py CONFIG --shots 1 2 4 8 16 --seeds 1 2 3."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

EPILOG = """The grid resumes: runs whose result file is there and whose recipe is the same are not run again.
Results, learned prompts (in the layout of Dassl), table.md and plot.png go to the output folder.
Selecting on the test set, as some released code does, must be asked for and is printed as such."""


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
    p.add_argument("--allow-test-selection", action="store_true", help="allow recipes that select on the test set")
    return p


def job(args: argparse.Namespace) -> None:
    """Run the grid, print the table, draw the plot."""
    import logging
    import shutil

    from xmodal.protocols.config import build_grid, read_grid_config
    from xmodal.protocols.grid import draw_plot, format_table

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    cfg = read_grid_config(args.config)
    out = Path(args.out or Path("work_dirs/fewshot") / Path(args.config).stem)
    load = dict(entry.split("=", 1) for entry in args.load)
    more = dict(load=load, device=args.device, cache=args.cache or out / "features")
    grid = build_grid(cfg, out, args.methods, args.allow_test_selection, **more)
    shots = args.shots or list(cfg.get("shots", grid.protocol.shots))
    seeds = args.seeds or list(cfg.get("seeds", grid.protocol.seeds))
    results = grid.run(shots, seeds)
    table = format_table(results)
    (out / "table.md").write_text(table + "\n")
    draw_plot(results, out / "plot.png", cfg.get("title", ""))
    if args.plot:
        Path(args.plot).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(out / "plot.png", args.plot)
    print(f"\n{table}\n\n{out}/table.md, {out}/plot.png")


def main(argv: list[str] | None = None) -> int:
    """Run; returns the exit status."""
    args = parser().parse_args(argv)
    try:
        job(args)
    except (ValueError, FileNotFoundError) as error:
        print(f"fewshot: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
