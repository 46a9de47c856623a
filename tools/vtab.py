#!/usr/bin/env python
"""Run the tasks of an image benchmark (VTAB-1k, FGVC, few-shot FGVC) with one config, and print the table.

Every task ends in one file, OUT/TASK[_16-shot]/seed-0/result.json: what is there is not run again, what was interrupted
goes on from its last checkpoint.
"""

import argparse
import itertools
import json
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

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


def published_settings(cfg: Any) -> dict[str, Any]:
    """What `configs/image/settings` says about a config's method on its benchmark: `options` and `tasks`, `search`.

    Raises:
        ValueError: the config names a table that is not there.
    """
    about = cfg.get("about") or {}
    name, benchmark = about.get("settings"), about.get("benchmark")
    if not name:
        return {}
    path = SETTINGS / f"{name}.json"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in SETTINGS.glob("*.json")))
        raise ValueError(f"the config's settings {name!r} are not in {SETTINGS}; there are {known}")
    return json.loads(path.read_text()).get(benchmark, {})


def task_options(published: dict[str, Any], task: str) -> list[str]:
    """The published settings of a task as options of a config."""
    values = published.get("tasks", {}).get(task, [])
    return [f"{key}={value}" for key, value in zip(published.get("options", []), values, strict=False)]


def grid(published: dict[str, Any]) -> list[list[str]]:
    """All combinations of the published search, smaller values of the first option first."""
    search = published.get("search", {})
    combinations = itertools.product(*(sorted(values) for values in search.values()))
    return [[f"{key}={value}" for key, value in zip(search, row, strict=True)] for row in combinations if row]


def data_options(benchmark: str, task: Any, splits: tuple[str, str], root: Path | None, shots: int, seed: int) -> list:
    """Options that point a config at a task: the data of training and validation, and the number of classes."""
    from xmodal.evaluation.image_benchmarks import files_of

    options = [f"model.head.num_classes={task.num_classes}"]
    for loader, split in zip(("train", "val"), splits, strict=True):
        files = files_of(benchmark, task, split, root, shots, seed)
        options += [f"{loader}_dataloader.dataset.{key}={value}" for key, value in files.items()]
    return options


def train_once(config: str, work: Path, options: list[str], seed: int) -> dict[str, Any]:
    """Train one run to its end, from its last checkpoint if it has one; returns its report."""
    from xmodal.engine.launch import prepare, train

    done = work / "report.json"
    if done.is_file():
        report = json.loads(done.read_text())
        if report.get("status") == "finished" and report.get("options") == options:
            return report
        if report.get("options", options) != options:
            raise ValueError(f"{work} holds a run with other options; remove it, or choose another --out")
    work.mkdir(parents=True, exist_ok=True)
    cfg = prepare(config, str(work), options, seed)
    runner = train(cfg, resume="auto")
    report = json.loads(done.read_text())
    report["options"] = options
    mean, std = runner.model.data_preprocessor.mean.tolist(), runner.model.data_preprocessor.std.tolist()
    report["normalization"] = {"mean": [round(v, 4) for v in mean], "std": [round(v, 4) for v in std]}
    done.write_text(json.dumps(report, indent=1))
    return report


def last_and_best(report: dict[str, Any]) -> tuple[float, float, float]:
    """Top-1 at the last epoch, the best top-1 of any validated epoch, and that epoch."""
    points = [(entry["val"]["top1"], entry["epoch"]) for entry in report["epochs"] if "val" in entry]
    if not points:
        raise ValueError("the run validated nothing: is train_cfg.val_interval longer than the run?")
    best, epoch = max(points, key=lambda p: (p[0], -p[1]))
    return points[-1][0], best, epoch


def search_settings(args: argparse.Namespace, published: dict, fixed: list[str], work: Path, seed: int) -> dict:
    """Try the grid on the validation split; the best last epoch wins, ties go to the first (smaller) setting."""
    tried = []
    choices = grid(published)
    if not choices:
        raise ValueError("--search: this method has no published search; see configs/image/settings")
    for number, choice in enumerate(choices):
        folder = work / f"search-{number:03d}"
        report = train_once(args.config, folder, [*fixed, *choice, *args.cfg_options], seed)
        tried.append({"options": choice, "top1": last_and_best(report)[0]})
        for file in folder.glob("*.pth"):
            file.unlink()
        print(f"  {' '.join(choice)}: {tried[-1]['top1']:.2f} on the validation split", flush=True)
    return {**max(tried, key=lambda t: t["top1"]), "tried": tried}


def run_task(args: argparse.Namespace, cfg: Any, benchmark: str, task: Any, shots: int, seed: int) -> dict[str, Any]:
    """One task with one seed: its settings, perhaps a search, the final run; returns and keeps the result."""
    work = folder_of(args.out, benchmark, task.name, shots, seed)
    kept = work / "result.json"
    if kept.is_file():
        return json.loads(kept.read_text())
    print(f"{task.name}, seed {seed}{f', {shots} shots' if benchmark == 'fewshot' else ''}: {work}", flush=True)
    published = {} if args.own_settings else published_settings(cfg)
    options, chosen, found = task_options(published, task.name), "the config's", None
    if options:
        chosen = "published"
    if args.search:
        data = data_options(benchmark, task, ("train", "val"), args.root, shots, seed)
        found = search_settings(args, published, [*options, *data], work, seed)
        options, chosen = [*options, *found["options"]], "chosen on the validation split"
    data = data_options(benchmark, task, ("trainval", "test"), args.root, shots, seed)
    report = train_once(args.config, work / "final", [*options, *data, *args.cfg_options], seed)
    last, best, epoch = last_and_best(report)
    validated = [entry["val"] for entry in report["epochs"] if "val" in entry][-1]
    result = {
        "task": task.name, "seed": seed, "shots": shots if benchmark == "fewshot" else None,
        "last": last, "best": best, "best_epoch": epoch, "evaluated": validated["evaluated"], "of": validated["of"],
        "settings": {"from": chosen, "options": options}, "search": found,
        "trained_parameters": report["trained_parameters"], "normalization": report["normalization"],
    }  # fmt: skip
    if validated["of"] != task.num_test:
        result["note"] = f"the test list has {validated['of']:,} images, that of the benchmark {task.num_test:,}"
    kept.write_text(json.dumps(result, indent=1))
    shutil.rmtree(work / "final" / "vis_data", ignore_errors=True)
    return result


def folder_of(out: Path, benchmark: str, task: str, shots: int, seed: int) -> Path:
    """Where a run lives."""
    return out / (f"{task}_{shots}-shot" if benchmark == "fewshot" else task) / f"seed-{seed}"


def table(results: Iterable[dict[str, Any]], benchmark: str) -> str:
    """The results as text: a line a task, means over seeds, then group means; last epoch and best epoch."""
    from xmodal.evaluation.image_benchmarks import BENCHMARKS, group_means

    results = list(results)
    if not results:
        return "no results yet"
    lines = []
    for shots in sorted({r["shots"] for r in results}, key=lambda s: s or 0):
        rows = [("task", "last epoch", "best epoch*", "seeds", "settings")]
        means: dict[str, dict[str, float]] = {"last": {}, "best": {}}
        for task in BENCHMARKS[benchmark]:
            mine = [r for r in results if r["task"] == task and r["shots"] == shots]
            for key in means:
                if mine:
                    means[key][task] = sum(r[key] for r in mine) / len(mine)
            if mine:
                shown = (f"{means['last'][task]:.2f}", f"{means['best'][task]:.2f}", str(len(mine)))
                rows.append((task, *shown, mine[0]["settings"]["from"] + (" (!)" if "note" in mine[0] else "")))
        both = [group_means(means[key], benchmark) for key in ("last", "best")]
        rows += [(name, f"{both[0][name]:.2f}", f"{both[1][name]:.2f}", "", "") for name in both[0]]
        widths = [max(len(row[i]) for row in rows) for i in range(5)]
        lines += [f"{shots} shots"] if shots else []
        lines += ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([*lines, *footnotes(results)])


def footnotes(results: list[dict[str, Any]]) -> list[str]:
    """What a reader of the table has to know."""
    norms = {json.dumps(r["normalization"]) for r in results}
    notes = ["* best epoch on the test split itself: optimistic; compare the last epoch."]
    notes += [f"normalization: {json.loads(n)}" for n in sorted(norms)]
    notes += [f"(!) {r['task']}: {r['note']}" for r in results if "note" in r]
    lost = [f"{r['task']}: only {r['evaluated']:,} of {r['of']:,} test images could be read" for r in results
            if r["evaluated"] != r["of"]]  # fmt: skip
    return notes + lost


def collect(args: argparse.Namespace, benchmark: str, names: list[str], shots: list[int]) -> list[dict[str, Any]]:
    """Results that are there already."""
    files = [folder_of(args.out, benchmark, n, s, seed) / "result.json" for n in names for s in shots
             for seed in args.seeds]  # fmt: skip
    return [json.loads(file.read_text()) for file in files if file.is_file()]


def main(argv: list[str] | None = None) -> int:
    """Run the tasks; returns the exit status."""
    args = parser().parse_args(argv)
    sys.path.insert(0, str(ROOT))
    from xmodal.engine.launch import run

    return run(lambda: work_through(args), resumable=False)


def work_through(args: argparse.Namespace) -> None:
    """Run what is missing, print the table and keep it as OUT/table.txt."""
    from xmodal.engine.config import load_config
    from xmodal.evaluation.image_benchmarks import BENCHMARKS, SHOTS, task_of

    if args.benchmark:
        args.cfg_options = [f"benchmark={args.benchmark}", *args.cfg_options]
    cfg = load_config(args.config, args.cfg_options)
    benchmark = (cfg.get("about") or {}).get("benchmark")
    if benchmark not in BENCHMARKS:
        raise ValueError(f"{args.config} names no benchmark: about = dict(benchmark=...) of {', '.join(BENCHMARKS)}")
    tasks = [task_of(benchmark, name) for name in (args.tasks or BENCHMARKS[benchmark])]
    shots = args.shots if benchmark == "fewshot" else [0]
    if benchmark == "fewshot" and set(shots) - set(SHOTS):
        raise ValueError(f"--shots {shots}: the lists have {SHOTS}")
    args.out = args.out or Path("work_dirs") / f"{Path(args.config).stem}_{benchmark}"
    if not args.table_only:
        for task, shot, seed in itertools.product(tasks, shots, args.seeds):
            data_options(benchmark, task, ("trainval", "test"), args.root, shot, seed)  # all is there: say so first
        for task, shot, seed in itertools.product(tasks, shots, args.seeds):
            run_task(args, cfg, benchmark, task, shot, seed)
    text = table(collect(args, benchmark, [task.name for task in tasks], shots), benchmark)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "table.txt").write_text(text + "\n")
    print("\n" + text)


if __name__ == "__main__":
    sys.exit(main())
