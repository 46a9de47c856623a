#!/usr/bin/env python
"""The main job on what ships with the project: make videos, train, test, and leave a table and a page.

Every step is a command that a user would type; the commands are printed.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
METHODS = {
    "ST-Adapter": "st-adapter_tiny-clip_8u_actions8",
    "EVL": "evl_tiny-clip_8u_actions8",
    "Linear probe": "probe_tiny-clip_8u_actions8",
}
# Shorter than the configs, which are measured at full length; what is frozen as a whole is computed once and cached.
SHORTER = {
    "ST-Adapter": ["train_cfg.max_epochs=5", "train_cfg.val_interval=3"],
    "EVL": ["train_cfg.max_epochs=6", "cache.views=2"],
    "Linear probe": ["cache.views=1"],
}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("demo_out"), help="folder of runs and page (default demo_out)")
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS), metavar="NAME",
                        help=f"of {', '.join(METHODS)}")  # fmt: skip
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cfg-options", nargs="+", default=[], metavar="KEY=VALUE", help="for all trainings")
    return parser.parse_args(argv)


def run_method(config: str, out: Path, seed: int, options: list[str], name: str = "") -> dict:
    """Train and test one config; returns its reports. `name` stands in front of every line."""
    from tools.demo_steps import run_config

    return run_config(f"configs/video/{config}.py", out / "runs" / config, seed, options, name=name)


def side_by_side(args: argparse.Namespace, out: Path) -> dict[str, dict]:
    """Run the first method beside the others, one core each; returns the results in order."""
    wide = max(map(len, args.methods))

    def run(names: list[str]) -> dict[str, dict]:
        return {
            name: run_method(
                METHODS[name], out, args.seed, [*cached(name, out), *args.cfg_options], f"{name:{wide}} | "
            )
            for name in names
        }

    with ThreadPoolExecutor(2) as pool:
        parts = [pool.submit(run, names) for names in (args.methods[:1], args.methods[1:])]
        return {name: result for part in parts for name, result in part.result().items()}


def cached(name: str, out: Path) -> list[str]:
    """Return the options of a method, its cache in the folder of the demo."""
    options = list(SHORTER[name])
    return [*options, f"cache.root={out / 'cache'}"] if any(o.startswith("cache") for o in options) else options


def table(results: dict[str, dict]) -> str:
    """Return what came out, as text."""
    from xmodal.evaluation.results import aligned

    rows = [("method", "test accuracy", "trained weights", "minutes")]
    for name, result in results.items():
        report, test = result["train"], result["test"]
        share = 100 * report["trained_parameters"] / report["total_parameters"]
        over = f"{test['top1']:.1f} % of {test['evaluated']}"
        rows.append((name, over, f"{report['trained_parameters']:,} ({share:.1f} %)", f"{result['minutes']:.1f}"))
    return aligned(rows)


def page_of(names: Sequence[str], out: Path, minutes: float) -> Path:
    """Write the report of the runs of some methods, beside each other."""
    from tools.demo_steps import write_page

    note = (
        f"{len(names)} methods on the same frozen encoder and the same H.264 files; {minutes:.1f} minutes. Every class "
        "comes with its reverse in time, so whoever is blind to order is right half the time at best. The encoder was "
        "pretrained on pictures of the same renderer (other seeds): this shows that the machinery works and says "
        "nothing about natural video."
    )
    folders = {name: out / "runs" / METHODS[name] for name in names}
    title = "Actions in video files, read through a frozen image encoder"
    return write_page(folders, out / "report.html", title, note)


def main(argv: list[str] | None = None) -> None:
    """Make the data, train, test, write the page."""
    args = parse_args(argv)
    from tools.demo_steps import call

    start = time.time()
    out = args.out if args.out.is_absolute() else ROOT / args.out
    call("tools/data/make_actions.py", "demo_out/actions8")
    results = side_by_side(args, out)
    page = page_of(args.methods, out, (time.time() - start) / 60)
    print("\n" + table(results))
    print(
        "Each class comes with its reverse in time: a method that is blind to order can at best be right half the time."
    )
    print(f"\n{(time.time() - start) / 60:.1f} minutes in all. Open {page}")


if __name__ == "__main__":
    import checkout  # noqa: F401 - puts the root of the checkout on the path

    try:
        main()
    except RuntimeError as error:
        sys.exit(f"stopped: {error}")
