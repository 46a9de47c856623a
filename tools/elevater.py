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
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = p.add_subparsers(dest="verb", required=True)
    check = verbs.add_parser("check", help="what of the benchmark is there")
    check.add_argument("data", type=Path)
    check.add_argument("--fast", action="store_true", help="do not look into the archives")
    draw = verbs.add_parser("draw", help="write the generated data sets")
    draw.add_argument("data", type=Path)
    draw.add_argument("--train", type=int, default=600)
    draw.add_argument("--test", type=int, default=300)
    draw.add_argument("--seed", type=int, default=0)
    report = verbs.add_parser("report", help="table, ranking, plot and submissions of finished jobs")
    report.add_argument("out", type=Path)
    speed = verbs.add_parser("speed", help="time the search with kept features and without")
    speed.add_argument("data", type=Path)
    speed.add_argument("dataset")
    speed.add_argument("--shots", type=int, default=20)
    _run_arguments(verbs.add_parser("run", help="run jobs; finished ones are not run again"))
    return p


def _run_arguments(run: argparse.ArgumentParser) -> None:
    run.add_argument("data", type=Path)
    run.add_argument("out", type=Path)
    run.add_argument("--config", help="Python file with `jobs`, `encoder` and `settings`, see configs/elevater/")
    run.add_argument("--encoder", default="tiny_clip", help="registered name of a CLIP or an image tower")
    run.add_argument("--encoder-options", default="{}", help="its arguments as JSON")
    run.add_argument("--datasets", nargs="+", help="default: every one of the benchmark's that is there, and your own")
    run.add_argument("--methods", nargs="+", default=["zero-shot", "linear-probe"], help="or fine-tune, or an adapter")
    run.add_argument("--shots", nargs="+", default=["5"], help="numbers, or `full`")
    run.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    run.add_argument("--rate", nargs=2, type=float, metavar=("LR", "WD"), help="instead of the search")
    run.add_argument("--epochs", type=int, default=10)
    run.add_argument("--extra-epochs", type=int, default=40)
    run.add_argument("--no-text-init", action="store_true", help="start heads from random weights")
    run.add_argument("--prompts", type=Path, help="the toolkit's prompts.py, or JSON of the same form")
    run.add_argument(
        "--knowledge", nargs=2, metavar=("FOLDER", "SOURCE"), help="knowledge files, and which text of them"
    )
    run.add_argument("--device", help="default: the GPU of this process, else the CPU")


def main(argv: list[str] | None = None) -> int:
    """Run a verb; returns the exit status."""
    args = parser().parse_args(argv)
    try:
        return {"check": check, "draw": draw, "run": run, "report": report, "speed": speed}[args.verb](args)
    except (ValueError, FileNotFoundError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def check(args: argparse.Namespace) -> int:
    """Say what is missing; status 1 when anything of the 20 is."""
    from xmodal.evaluation import elevater_catalog as catalog
    from xmodal.evaluation import elevater_data as datasets

    incomplete = 0
    for name in catalog.CARDS:
        found = datasets.check(args.data, name, archives=not args.fast)
        incomplete += bool(found["problems"])
        print(
            f"{'MISSING' if found['problems'] else 'ok     '} {name}: {'; '.join(found['problems']) or found['folder']}"
        )
    for name in catalog.DETECTION:
        found = datasets.check_detection(args.data, name)
        print(f"not evaluated (detection) {name}: {found['splits'] or 'absent'}")
    print(f"{len(catalog.CARDS) - incomplete} of {len(catalog.CARDS)} classification data sets are complete")
    return int(incomplete > 0)


def draw(args: argparse.Namespace) -> int:
    """Write every generated data set, and scikit-learn's digits where it is installed."""
    from xmodal.toys.elevater_worlds import WORLDS, write_digits, write_world

    for name in WORLDS:
        print(write_world(args.data, name, args.train, args.test, seed=args.seed))
    try:
        print(write_digits(args.data, args.train, args.test))
    except ImportError:
        print("scikit-learn is not installed: no handwritten digits (pip install scikit-learn)")
    return 0


def run(args: argparse.Namespace) -> int:
    """Run this process's share of the jobs."""
    from xmodal.evaluation.elevater import Job, run_job
    from xmodal.evaluation.elevater_report import write_report
    from xmodal.evaluation.subject import Subject
    from xmodal.registry import ENCODERS, build

    plan = read_plan(args)
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    subject = Subject(build(plan["encoder"], ENCODERS), device=args.device or default_device())
    jobs = [Job(**job) for job in plan["jobs"]]
    failed = 0
    for job in jobs[rank::world]:
        try:
            found = run_job(subject, job, args.data, args.out, plan["settings"])
        except (ValueError, FileNotFoundError, RuntimeError) as error:
            failed += 1
            print(f"{job.name}: FAILED, {error}", file=sys.stderr, flush=True)
            continue
        print(f"{job.name}: {found['score']:.2f} ({found['metric']})", flush=True)
    if world == 1 and failed < len(jobs):
        print(write_report(args.out))
    elif rank == 0:
        print(f"when all {world} processes are done: python tools/elevater.py report {args.out}")
    return int(failed > 0)


def read_plan(args: argparse.Namespace) -> dict:
    """Encoder, jobs and settings of the command line, or of a config."""
    from xmodal.evaluation.elevater import Settings
    from xmodal.evaluation.prompts import read_prompts
    from xmodal.registry import check_arguments, did_you_mean

    settings = dict(epochs=args.epochs, extra_epochs=args.extra_epochs, text_init=not args.no_text_init)
    settings |= dict(rate=tuple(args.rate) if args.rate else None, knowledge=tuple(args.knowledge or ()) or None)
    names = args.datasets or present(args.data)
    shots = [None if s == "full" else int(s) for s in args.shots]
    plan = dict(encoder=dict(type=args.encoder, **json.loads(args.encoder_options)))
    methods, seeds = args.methods, args.seeds
    if args.config:
        from mmengine.config import Config

        cfg = Config.fromfile(args.config)
        own = {k: cfg.get(k) for k in ("encoder", "datasets", "methods", "shots", "seeds", "settings") if k in cfg}
        known = {"encoder", "datasets", "methods", "shots", "seeds", "settings"}
        for key in cfg.to_dict():
            if key not in known:
                raise ValueError(f"{args.config}: {key!r} is not known; {did_you_mean(key, known)}")
        plan["encoder"] = own.get("encoder", plan["encoder"])
        names, methods = own.get("datasets") or names, own.get("methods", methods)
        shots, seeds = own.get("shots", shots), own.get("seeds", seeds)
        settings |= dict(own.get("settings") or {})
    check_arguments(Settings, settings)
    plan["settings"] = Settings(**settings, prompts=read_prompts(args.prompts) if args.prompts else None)
    plan["jobs"] = []
    for name in names:
        for method in methods:
            trained = method != "zero-shot"
            for shot in shots if trained else [None]:
                for seed in seeds if trained and shot is not None else [0]:
                    plan["jobs"].append(dict(dataset=name, method=method, shots=shot, seed=seed))
    if not plan["jobs"]:
        raise ValueError(f"no data set below {args.data}/classification: see `check`, or `draw` for generated ones")
    return plan


def present(root: Path) -> list[str]:
    """Names of the data sets that are there: the benchmark's, then others."""
    from xmodal.evaluation.elevater_catalog import CARDS, plain
    from xmodal.evaluation.elevater_data import find_folder

    names = [name for name, card in CARDS.items() if find_folder(root, card)]
    known = {plain(alias) for name in names for alias in (name, *CARDS[name].aliases)}
    folders = sorted(p.name for p in (root / "classification").glob("*") if (p / "labels.txt").exists())
    import re

    return names + [re.sub(r"_\d{8}$", "", f) for f in folders if plain(f) not in known]


def default_device() -> str:
    """The GPU of this process, or the CPU."""
    import torch

    return f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"


def speed(args: argparse.Namespace) -> int:
    """Time the linear probe's search both ways with the tiny CLIP."""
    from xmodal.encoders.tiny import tiny_clip
    from xmodal.evaluation.speed import search_speed
    from xmodal.evaluation.subject import Subject

    found = search_speed(Subject(tiny_clip()), args.data, args.dataset, args.shots)
    print(json.dumps({key: round(value, 3) for key, value in found.items()}))
    return 0


def report(args: argparse.Namespace) -> int:
    """Write the report of a folder."""
    from xmodal.evaluation.elevater_report import write_report

    print(write_report(args.out))
    return 0


if __name__ == "__main__":
    sys.exit(main())
