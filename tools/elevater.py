"""Judge an encoder with ELEVATER's protocol (arXiv 2204.08790) on data sets in its published layout.

python tools/elevater.py check DATA                        what is there, what is missing
python tools/elevater.py draw DATA                         small generated data sets and scikit-learn's digits
python tools/elevater.py run DATA OUT --encoder tiny_clip  zero-shot, linear probe, adapters
python tools/elevater.py report OUT                        table, ranking, plot, submission files
python tools/elevater.py speed DATA SET                    the search with kept features against without
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = p.add_subparsers(dest="verb", required=True)

    def add(job: Any, text: str, *paths: str) -> argparse.ArgumentParser:
        verb = verbs.add_parser(job.__name__.removesuffix("_jobs"), help=text)
        for path in paths:
            verb.add_argument(path, type=Path)
        verb.set_defaults(job=job)
        return verb

    add(check, "what of the benchmark is there", "data").add_argument(
        "--fast", action="store_true", help="do not look into the archives"
    )
    to_draw = add(draw, "write the generated data sets", "data")
    for name, count in (("--train", 600), ("--test", 300), ("--seed", 0)):
        to_draw.add_argument(name, type=int, default=count)
    add(report, "table, ranking, plot and submissions of finished jobs", "out")
    to_time = add(speed, "time the search with kept features and without", "data")
    to_time.add_argument("dataset")
    to_time.add_argument("--shots", type=int, default=20)
    run = add(run_jobs, "run jobs; finished ones are not run again", "data", "out")
    run.add_argument("--config", help="Python file with `encoder`, `sources`, `methods`, ..., see configs/elevater/")
    run.add_argument("--encoder", help="registered name of a CLIP or an image tower; default tiny_clip")
    run.add_argument("--encoder-options", type=json.loads, help="its arguments as JSON")
    run.add_argument("--datasets", nargs="+", help="default: every one of the benchmark's that is there, and your own")
    run.add_argument("--methods", nargs="+", help="default zero-shot linear-probe; or fine-tune, or an adapter")
    run.add_argument("--shots", nargs="+", type=lambda s: None if s == "full" else int(s), help="or `full`; default 5")
    run.add_argument("--seeds", nargs="+", type=int, help="default 0 1 2")
    run.add_argument("--rate", nargs=2, type=float, metavar=("LR", "WD"), help="instead of the search")
    run.add_argument("--epochs", type=int, help="default 10")
    run.add_argument("--extra-epochs", type=int, help="default 40")
    random = dict(dest="text_init", action="store_const", const=False, help="start heads from random weights")
    run.add_argument("--no-text-init", **random)
    run.add_argument("--prompts", type=Path, help="the toolkit's prompts.py, or JSON of the same form")
    knowledge = dict(nargs=2, metavar=("FOLDER", "SOURCE"), help="knowledge files, and which text of them")
    run.add_argument("--knowledge", **knowledge)
    run.add_argument("--device", help="default: the GPU of this process, else the CPU")
    return p


def check(args: argparse.Namespace) -> int:
    """Say what is missing; status 1 when anything of the 20 is."""
    from xmodal.evaluation import elevater_catalog as catalog
    from xmodal.evaluation import elevater_data as datasets

    found = [datasets.check(args.data, name, archives=not args.fast) for name in catalog.CARDS]
    for one in found:
        word = "MISSING" if one["problems"] else "ok     "
        print(f"{word} {one['name']}: {'; '.join(one['problems']) or one['folder']}")
    for name in catalog.DETECTION:
        print(f"not evaluated (detection) {name}: {datasets.check_detection(args.data, name)['splits'] or 'absent'}")
    complete = sum(not one["problems"] for one in found)
    print(f"{complete} of {len(found)} classification data sets are complete")
    return int(complete < len(found))


def draw(args: argparse.Namespace) -> None:
    """Write every generated data set, and scikit-learn's digits where it is installed."""
    from xmodal.toys.elevater_worlds import WORLDS, write_digits, write_world

    for name in WORLDS:
        print(write_world(args.data, name, args.train, args.test, seed=args.seed))
    try:
        print(write_digits(args.data, args.train, args.test))
    except ImportError:
        print("scikit-learn is not installed: no handwritten digits (pip install scikit-learn)")


def run_jobs(args: argparse.Namespace) -> None:
    """Run this process's share of the runs."""
    import logging

    from mmengine.device import get_device

    from xmodal.evaluation.elevater import elevater_grid
    from xmodal.evaluation.elevater_report import write_report
    from xmodal.registry import ENCODERS, build

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    encoder, names, methods, shots, seeds, settings = read_plan(args)
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if get_device() == "cuda" else "cpu"
    clip, done, tried = build(encoder, ENCODERS), 0, 0
    for number, name in enumerate(names):
        grid = attempt(
            lambda name=name: elevater_grid(clip, args.data, name, methods, args.out, settings, args.device or device),
            name,
        )
        tried += grid is None
        for method, k, seed in grid.cells(shots, seeds)[(rank + number) % world :: world] if grid else ():
            what = f"{name}, {method}, {k} shots, seed {seed}"
            tried += 1
            done += attempt(lambda cell=(method, k, seed), grid=grid: grid.cell(*cell), what) is not None
    if world == 1 and done:
        print(write_report(args.out))
    elif rank == 0 and done:
        print(f"when all {world} processes are done: python tools/elevater.py report {args.out}")
    if done < tried:
        raise ValueError(f"{tried - done} of {tried} runs failed")


def attempt(work: Callable[[], Any], what: str) -> Any:
    """Do something; where it fails, say so and return None, so that the others go on."""
    try:
        return work()
    except (ValueError, FileNotFoundError, RuntimeError) as error:
        print(f"{what}: FAILED, {error}", file=sys.stderr, flush=True)
        return None


def read_plan(args: argparse.Namespace) -> tuple[Any, list[str], list[str], list[int], list[int], Any]:
    """Encoder, data sets, methods, shots, seeds and settings of the config and the command line.

    Raises:
        ValueError: both set the same thing, or there is no data set.
    """
    from xmodal.evaluation.config import read_config
    from xmodal.evaluation.elevater import ALL, Elevater
    from xmodal.evaluation.elevater_data import present
    from xmodal.evaluation.prompts import read_prompts
    from xmodal.registry import check_arguments

    cfg = read_config(args.config, ()) if args.config else {}
    settings = {k: v for k, v in cfg.get("protocol", {}).items() if k != "type"}
    for key in ("epochs", "extra_epochs", "text_init", "rate", "knowledge", "prompts"):
        if (value := chosen(args, key, settings, key)) is not None:
            settings[key] = tuple(value) if isinstance(value, list) else value
    check_arguments(Elevater, settings)
    if isinstance(settings.get("prompts"), Path):
        settings["prompts"] = read_prompts(settings["prompts"])
    names = chosen(args, "datasets", cfg, "sources") or present(args.data)
    methods = chosen(args, "methods", cfg, "methods") or ["zero-shot", "linear-probe"]
    shots = [ALL if s is None else s for s in chosen(args, "shots", cfg, "shots") or Elevater.shots]
    seeds = list(chosen(args, "seeds", cfg, "seeds") or Elevater.seeds)
    if not names:
        raise ValueError(f"no data set below {args.data}/classification: see `check`, or `draw` for generated ones")
    options = chosen(args, "encoder_options", cfg, "encoder")
    encoder = chosen(args, "encoder", cfg, "encoder") or "tiny_clip"
    encoder = {"type": encoder, **(options or {})} if isinstance(encoder, str) else encoder
    return encoder, names, methods, shots, seeds, Elevater(**settings)


def chosen(args: argparse.Namespace, option: str, config: Mapping[str, Any], key: str) -> Any:
    """Return what the command line or the config says about something; None where neither does.

    Raises:
        ValueError: both do.
    """
    given = getattr(args, option)
    if given is not None and key in config:
        words = "--no-text-init" if option == "text_init" else f"--{option.replace('_', '-')}"
        raise ValueError(f"{args.config} sets {key!r} already: leave out {words}, or take {key!r} out of the config")
    return config.get(key) if given is None else given


def speed(args: argparse.Namespace) -> None:
    """Time the linear probe's search both ways with the tiny CLIP."""
    from xmodal.encoders.tiny import tiny_clip
    from xmodal.evaluation.speed import search_speed

    found = search_speed(tiny_clip(), args.data, args.dataset, args.shots)
    print(json.dumps({key: round(value, 3) for key, value in found.items()}))


def report(args: argparse.Namespace) -> None:
    """Write the report of a folder."""
    from xmodal.evaluation.elevater_report import write_report

    print(write_report(args.out))


def main(argv: list[str] | None = None) -> int:
    """Run a verb; returns the exit status: that of the other tools, or 1 where `check` found something missing."""
    args = parser().parse_args(argv)
    from xmodal.engine.launch import run

    return run(lambda: args.job(args))


if __name__ == "__main__":
    import checkout  # noqa: F401 - puts the root of the checkout on the path

    sys.exit(main())
