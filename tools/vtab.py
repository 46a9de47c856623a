#!/usr/bin/env python
"""Run the tasks of an image benchmark (VTAB-1k, FGVC, few-shot FGVC) with one config, and print the table.

Every task ends in one file, OUT/TASK[_16-shot]/seed-0/result.json: what is there is not run again, what was interrupted
goes on from its last checkpoint.
"""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = ROOT / "configs" / "image" / "settings"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("config", help="a config of configs/image")
    p.add_argument("--benchmark", help="vtab, fgvc or fewshot, of those that the config offers; default: the config's")
    p.add_argument("--tasks", nargs="+", metavar="NAME", help="default: all tasks of the config's benchmark")
    p.add_argument("--root", type=Path, help="folder of the benchmark; default data/vtab-1k, data/fgvc, data/few-shot")
    p.add_argument("--out", type=Path, help="folder of the runs; default work_dirs/<name of the config>_<benchmark>")
    p.add_argument("--seeds", nargs="+", type=int, default=[0], help="of the runs, and of the few-shot lists")
    p.add_argument("--shots", nargs="+", type=int, default=[16], help="of the few-shot lists: 1, 2, 4, 8, 16")
    p.add_argument("--search", action="store_true",
                   help="first choose the settings on the validation split; the last epoch counts")  # fmt: skip
    p.add_argument("--own-settings", action="store_true", help="leave the published settings per task aside")
    p.add_argument("--table-only", action="store_true", help="run nothing, print what is there")
    p.add_argument("--cfg-options", nargs="+", default=[], metavar="KEY=VALUE", help="for all runs; they come last")
    return p


def work_through(args: argparse.Namespace) -> None:
    """Run what is missing, print the table and keep it as OUT/table.txt."""
    from xmodal.evaluation.image_tasks import ImageTasks, table

    given = {k: getattr(args, k) for k in ("benchmark", "tasks", "shots", "seeds", "root", "out", "search")}
    settings = None if args.own_settings else SETTINGS
    tasks = ImageTasks(args.config, options=args.cfg_options, settings=settings, **given)
    if not args.table_only:
        tasks.run()
    text = table(tasks.results(), tasks.benchmark)
    tasks.out.mkdir(parents=True, exist_ok=True)
    (tasks.out / "table.txt").write_text(text + "\n")
    print("\n" + text)


def main(argv: list[str] | None = None) -> int:
    """Run the tasks; returns the exit status."""
    args = parser().parse_args(argv)
    from xmodal.engine.launch import run

    return run(lambda: work_through(args))


if __name__ == "__main__":
    import checkout  # noqa: F401 - puts the root of the checkout on the path

    sys.exit(main())
