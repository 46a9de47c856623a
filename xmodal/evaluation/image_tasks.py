"""Run the tasks of an image benchmark (VTAB-1k, FGVC, few-shot lists) with one config of `configs/image`.

Every task ends in one file, OUT/TASK[_16-shot]/seed-0/result.json: what is there is not run again, what was interrupted
goes on from its last checkpoint.
"""

import itertools
import json
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xmodal.engine.config import experiment_name, load_config
from xmodal.engine.launch import prepare, train
from xmodal.evaluation.image_benchmarks import BENCHMARKS, SHOTS, Task, files_of, group_means, task_of
from xmodal.evaluation.results import aligned, once, read_result, write_result


@dataclass
class ImageTasks:
    """Runs of a config on the tasks of its benchmark.

    Args:
        config: path of the config.
        benchmark: `vtab`, `fgvc` or `fewshot`; default: the config's.
        tasks: names; default: all of the benchmark.
        shots: of the few-shot lists.
        seeds: of the runs, and of the few-shot lists.
        root: folder of the benchmark.
        out: folder of the runs.
        options: `key=value` for all runs; they come last.
        settings: folder of the published settings; None leaves them aside.
        search: first choose the settings on the validation split.
    """

    config: str
    benchmark: str | None = None
    tasks: Sequence[str] | None = None
    shots: Sequence[int] = (16,)
    seeds: Sequence[int] = (0,)
    root: Path | None = None
    out: Path | None = None
    options: Sequence[str] = ()
    settings: Path | None = None
    search: bool = False
    published: dict[str, Any] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        if self.benchmark:
            self.options = [f"benchmark={self.benchmark}", *self.options]
        cfg = load_config(self.config, self.options)
        self.benchmark = (cfg.get("about") or {}).get("benchmark")
        if self.benchmark not in BENCHMARKS:
            known = ", ".join(BENCHMARKS)
            raise ValueError(f"{self.config} names no benchmark: about = dict(benchmark=...) of {known}")
        if self.settings is not None:
            self.published = published_settings(cfg, self.settings)
        fewshot = self.benchmark == "fewshot"
        if fewshot and set(self.shots) - set(SHOTS):
            raise ValueError(f"--shots {list(self.shots)}: the lists have {SHOTS}")
        self.out = self.out or Path("work_dirs") / f"{experiment_name(cfg, self.config)}_{self.benchmark}"
        names = [task_of(self.benchmark, name) for name in (self.tasks or BENCHMARKS[self.benchmark])]
        self.cells = list(itertools.product(names, self.shots if fewshot else [0], self.seeds))

    def run(self) -> None:
        """Run what is missing; that all data are there is checked first."""
        for cell in self.cells:
            self.data(*cell, ("trainval", "test"))
        for cell in self.cells:
            self.run_task(*cell)

    def results(self) -> list[dict[str, Any]]:
        """Results that are there already."""
        found = (read_result(self.folder(*cell) / "result.json") for cell in self.cells)
        return [result for result in found if result is not None]

    def folder(self, task: Task, shots: int, seed: int) -> Path:
        """Return the folder of a run."""
        return folder_of(self.out or Path(), self.benchmark or "", task.name, shots, seed)

    def data(self, task: Task, shots: int, seed: int, splits: tuple[str, str]) -> list[str]:
        """Options that point the config at a task."""
        return data_options(self.benchmark or "", task, splits, self.root, shots, seed)

    def run_task(self, task: Task, shots: int, seed: int) -> dict[str, Any]:
        """Run a task with a seed, or read its result where it is there already."""
        path = self.folder(task, shots, seed) / "result.json"
        return once(path, lambda: self.new_result(path.parent, task, shots, seed))

    def new_result(self, work: Path, task: Task, shots: int, seed: int) -> dict[str, Any]:
        """Train a task in a folder, after a search where one is asked for, and return the result."""
        fewshot = self.benchmark == "fewshot"
        print(f"{task.name}, seed {seed}{f', {shots} shots' if fewshot else ''}: {work}", flush=True)
        options = task_options(self.published, task.name)
        chosen, found = "published" if options else "the config's", None
        if self.search:
            found = self.choose([*options, *self.data(task, shots, seed, ("train", "val"))], work, seed)
            options, chosen = [*options, *found["options"]], "chosen on the validation split"
        data = self.data(task, shots, seed, ("trainval", "test"))
        report = train_once(self.config, work / "final", [*options, *data, *self.options], seed)
        last, best, epoch = last_and_best(report)
        validated = [entry["val"] for entry in report["epochs"] if "val" in entry][-1]
        result = {
            "task": task.name, "seed": seed, "shots": shots if fewshot else None,
            "last": last, "best": best, "best_epoch": epoch, "evaluated": validated["evaluated"], "of": validated["of"],
            "settings": {"from": chosen, "options": options}, "search": found,
            "trained_parameters": report["trained_parameters"], "normalization": report["normalization"],
        }  # fmt: skip
        if validated["of"] != task.num_test:
            result["note"] = f"the test list has {validated['of']:,} images, that of the benchmark {task.num_test:,}"
        shutil.rmtree(work / "final" / "vis_data", ignore_errors=True)
        return result

    def choose(self, fixed: list[str], work: Path, seed: int) -> dict[str, Any]:
        """Try the grid on the validation split; the best last epoch wins, ties go to the first (smaller) setting."""
        tried, choices = [], grid(self.published)
        if not choices:
            raise ValueError("--search: this method has no published search; see configs/image/settings")
        for number, choice in enumerate(choices):
            folder = work / f"search-{number:03d}"
            report = train_once(self.config, folder, [*fixed, *choice, *self.options], seed)
            tried.append({"options": choice, "top1": last_and_best(report)[0]})
            for file in folder.glob("*.pth"):
                file.unlink()
            print(f"  {' '.join(choice)}: {tried[-1]['top1']:.2f} on the validation split", flush=True)
        return {**max(tried, key=lambda t: t["top1"]), "tried": tried}


def published_settings(cfg: Any, folder: Path) -> dict[str, Any]:
    """Read the published settings of a config's method on its benchmark: `options` and `tasks`, `search`.

    Raises:
        ValueError: the config names a table that is not there.
    """
    about = cfg.get("about") or {}
    name, benchmark = about.get("settings"), about.get("benchmark")
    if not name:
        return {}
    path = folder / f"{name}.json"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in folder.glob("*.json")))
        raise ValueError(f"the config's settings {name!r} are not in {folder}; there are {known}")
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


def data_options(benchmark: str, task: Task, splits: Sequence[str], root: Path | None, shots: int, seed: int) -> list:
    """Options that point a config at a task: the data of training and validation, and the number of classes."""
    options = [f"model.head.num_classes={task.num_classes}"]
    for loader, split in zip(("train", "val"), splits, strict=True):
        files = files_of(benchmark, task, split, root, shots, seed)
        options += [f"{loader}_dataloader.dataset.{key}={value}" for key, value in files.items()]
    return options


def train_once(config: str, work: Path, options: list[str], seed: int) -> dict[str, Any]:
    """Train one run to its end, from its last checkpoint if it has one; returns its report."""
    done = work / "report.json"
    report = read_result(done) or {}
    if report.get("options", options) != options:
        raise ValueError(f"{work} holds a run with other options; remove it, or choose another --out")
    if report.get("status") == "finished" and "options" in report:
        return report
    work.mkdir(parents=True, exist_ok=True)
    runner = train(prepare(config, str(work), options, seed), resume="auto")
    pixels = runner.model.data_preprocessor
    norm = {key: [round(v, 4) for v in getattr(pixels, key).tolist()] for key in ("mean", "std")}
    report = {**json.loads(done.read_text()), "options": options, "normalization": norm}
    write_result(done, report)
    return report


def last_and_best(report: dict[str, Any]) -> tuple[float, float, float]:
    """Top-1 at the last epoch, the best top-1 of any validated epoch, and that epoch."""
    points = [(entry["val"]["top1"], entry["epoch"]) for entry in report["epochs"] if "val" in entry]
    if not points:
        raise ValueError("the run validated nothing: is train_cfg.val_interval longer than the run?")
    best, epoch = max(points, key=lambda p: (p[0], -p[1]))
    return points[-1][0], best, epoch


def folder_of(out: Path, benchmark: str, task: str, shots: int, seed: int) -> Path:
    """Return the folder of a run."""
    return out / (f"{task}_{shots}-shot" if benchmark == "fewshot" else task) / f"seed-{seed}"


def table(results: Iterable[dict[str, Any]], benchmark: str) -> str:
    """The results as text: a line a task, means over seeds, then group means; last epoch and best epoch."""
    results = list(results)
    if not results:
        return "no results yet"
    lines = []
    for shots in sorted({r["shots"] for r in results}, key=lambda s: s or 0):
        rows = [("task", "last epoch", "best epoch*", "seeds", "settings")]
        means: dict[str, dict[str, float]] = {"last": {}, "best": {}}
        for task in BENCHMARKS[benchmark]:
            mine = [r for r in results if r["task"] == task and r["shots"] == shots]
            if mine:
                for key, kept in means.items():
                    kept[task] = sum(r[key] for r in mine) / len(mine)
                shown = (f"{means['last'][task]:.2f}", f"{means['best'][task]:.2f}", str(len(mine)))
                rows.append((task, *shown, mine[0]["settings"]["from"] + (" (!)" if "note" in mine[0] else "")))
        both = [group_means(means[key], benchmark) for key in ("last", "best")]
        rows += [(name, f"{both[0][name]:.2f}", f"{both[1][name]:.2f}", "", "") for name in both[0]]
        lines += [f"{shots} shots"] * bool(shots) + [aligned(rows)]
    return "\n".join([*lines, *footnotes(results)])


def footnotes(results: list[dict[str, Any]]) -> list[str]:
    """Write the notes below the table."""
    norms = {json.dumps(r["normalization"]) for r in results}
    notes = ["* best epoch on the test split itself: optimistic; compare the last epoch."]
    notes += [f"normalization: {json.loads(n)}" for n in sorted(norms)]
    notes += [f"(!) {r['task']}: {r['note']}" for r in results if "note" in r]
    lost = [f"{r['task']}: only {r['evaluated']:,} of {r['of']:,} test images could be read" for r in results
            if r["evaluated"] != r["of"]]  # fmt: skip
    return notes + lost
