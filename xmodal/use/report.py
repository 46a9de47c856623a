"""Write one self-contained page about a run, or about several beside each other."""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.logging import print_log

from pointcloud.datasets.base import CloudDataset
from video.datasets import VideoDataset
from xmodal import page
from xmodal.atomic import write_text
from xmodal.data.sampler import order_of
from xmodal.engine.classes import name_of
from xmodal.use.exhibits import seen, shown
from xmodal.use.runs import Run, read_runs
from xmodal.use.scenes import scenes

log = logging.getLogger("xmodal.use")
NAME = "report.html"
ROOM = 9 * 2**20  # bytes of a page
SAMPLES = 12  # training samples on the sheet
WRONG, RIGHT = 16, 8  # answers that are shown of one run


def write_report(
    runs: Sequence[Run], path: str | Path, title: str = "", note: str = "", with_scenes: bool = True
) -> Path:
    """Write the page.

    Args:
        runs: from `read_runs`.
        path: of the page.
        title: of the page; the names of the runs when not given.
        note: a paragraph below the title.
        with_scenes: let the model predict a few scenes of segmentation and detection, which loads it.
    """
    budget = Budget(ROOM)
    parts = [f"<p>{escape(note)}</p>" if note else ""]
    if len(runs) > 1:
        parts += [page.section("Beside each other", comparison(runs)), page.section("Curves", curves(runs))]
    for run in runs:
        inside = about(run, budget, with_scenes, alone=len(runs) == 1)
        parts += inside if len(runs) == 1 else [f"<section><h2>{escape(run.name)}</h2>", *inside, "</section>"]
    text = page.document(title or ", ".join(run.name for run in runs), parts)
    write_text(path, text)
    return Path(path)


def page_of(work_dir: str) -> None:
    """Write the page of a run that has just ended; a page that cannot be made is a warning, and the run is well."""
    try:
        page_path = write_report(read_runs([work_dir]), Path(work_dir) / NAME)
        print_log(f"page: {page_path}", logger="current")
    except Exception as error:  # nothing of a page may spoil a run
        print_log(f"no page: {type(error).__name__}: {error}", logger="current", level=logging.WARNING)


class Budget:
    """Count the bytes of exhibits, so that a page stays small.

    Args:
        room: bytes in all.
    """

    def __init__(self, room: int):
        self.room = room

    def part(self, make: Callable[[], str]) -> str:
        """Return an exhibit; nothing when there is no room or when it cannot be made, which is logged."""
        if self.room <= 0:
            return ""
        try:
            text = make()
        except Exception as error:  # a page is made of what can be read
            log.warning("not shown: %s: %s", type(error).__name__, error)
            return ""
        if len(text) > self.room:
            return ""
        self.room -= len(text)
        return text


def about(run: Run, budget: Budget, with_scenes: bool, alone: bool) -> list[str]:
    """Return the parts about one run."""
    evaluated = run.dataset(run.stage)
    return [
        facts(run),
        page.section("While training", curves([run])) if alone else "",
        page.section("Figures", figures(run)),
        page.section("Classes", classes(run)),
        page.section("What is taken for what", matrix(run)),
        answers(run, evaluated, budget),
        scenes(run, evaluated, budget.part) if with_scenes and isinstance(evaluated, CloudDataset) else "",
        sheet(run, budget),
        page.section("Files that could not be read", skipped(run)),
        page.section("How", how(run)),
    ]


def facts(run: Run) -> str:
    """Return the run in a few boxes."""
    report, key = run.report, run.key
    trained, total = report.get("trained_parameters"), report.get("total_parameters")
    boxes: list[tuple[str, Any]] = []
    if key:
        where = "test" if run.test else "last validation"
        boxes.append((f"{key}, {where}", f"{run.figures[key]:.1f}"))
        if key in (report.get("best") or {}):
            boxes.append((f"{key}, best validation", f"{report['best'][key]:.1f}"))
    if trained is not None and total:
        boxes.append((f"of {total:,} weights trained ({100 * trained / total:.1f} %)", f"{trained:,}"))
    boxes += [("minutes", round((report.get("seconds") or 0) / 60, 1)), ("steps", report.get("step"))]
    if report.get("peak_mb"):
        boxes.append(("peak memory", f"{report['peak_mb']:,.0f} MB"))
    boxes += [("encoder", (report.get("encoder") or {}).get("encoder")), ("device", report.get("device"))]
    boxes.append(("status", report.get("error") or report.get("status")))
    cells = [f"<div><b>{page.shown(v)}</b><span>{escape(k)}</span></div>" for k, v in boxes if v is not None]
    return f'<div class="facts">{"".join(cells)}</div>'


def points(run: Run, key: str) -> list[tuple[float, float]]:
    """Return a validation metric over the epochs."""
    epochs = run.report.get("epochs", [])
    return [(e["epoch"], e["val"][key]) for e in epochs if isinstance(e.get("val", {}).get(key), int | float)]


def history(run: Run, key: str) -> list[tuple[float, float]]:
    """Return what was logged of a training over its steps."""
    entries = run.report.get("history", [])
    return [(e["step"], e[key]) for e in entries if isinstance(e.get(key), int | float)]


def curves(runs: Sequence[Run]) -> str:
    """Return charts of the validation metric and of the loss, one line a run; of one run also the rate."""
    key = next((run.key for run in runs if run.key and points(run, run.key)), None)
    charts = []
    if key:
        lines = {run.name: points(run, key) for run in runs}
        charts.append(page.chart(lines, f"validation {key}", "epochs", percent(lines)))
    losses = {run.name: history(run, "loss") for run in runs}
    if any(losses.values()):
        charts.append(page.chart(losses, "training loss", "steps"))
    if len(runs) == 1 and (rates := history(runs[0], "lr")):
        charts.append(page.chart({"learning rate": rates}, "learning rate", "steps"))
    return page.side_by_side(*charts)


def percent(lines: page.Curves) -> float | None:
    """Return the end of the axis of figures in percent; None for others."""
    return 100.0 if all(0 <= y <= 100 for line in lines.values() for _, y in line) else None


def comparison(runs: Sequence[Run]) -> str:
    """Return the table of several runs, and their figures against their trained weights."""
    key = next((run.key for run in runs if run.key), None)
    rows = []
    for run in runs:
        trained, total = run.report.get("trained_parameters"), run.report.get("total_parameters")
        share = f"{trained:,} ({100 * trained / total:.1f} %)" if trained is not None and total else None
        encoder = (run.report.get("encoder") or {}).get("encoder")
        best = (run.report.get("best") or {}).get(str(key))
        peak = f"{run.report['peak_mb']:,.0f} MB" if run.report.get("peak_mb") else None
        minutes = f"{(run.report.get('seconds') or 0) / 60:.1f}"
        rows.append([run.name, best, run.test.get(str(key)), share, minutes, peak, encoder])
    head = ("run", f"{key}, best validation", f"{key}, test", "trained weights", "minutes", "peak memory", "encoder")
    dots = {
        run.name: [(run.report["trained_parameters"], run.figures[key])]
        for run in runs
        if key in run.figures and run.report.get("trained_parameters")
    }
    drawn = page.chart(dots, str(key), "trained weights", percent(dots), dots=True) if dots else ""
    return page.table(head, rows) + drawn


def figures(run: Run) -> str:
    """Return all figures of the test and of the last validation."""
    sources = {"validation": run.validation, "test": run.test}
    values = {**run.validation, **run.test}
    names = [k for k, value in values.items() if isinstance(value, float) and k != "seconds"]
    rows = [[who, *(source.get(k) for k in names), over(source)] for who, source in sources.items() if source]
    return page.table(("", *names, "over"), rows) if names else ""


def over(metrics: dict[str, Any]) -> str | None:
    """Return over how many samples figures were computed."""
    return f"{metrics['evaluated']} of {metrics['of']}" if "evaluated" in metrics else None


def classes(run: Run) -> str:
    """Return a table of the classes: how many, how well, and what they are taken for most."""
    last, names = run.last, run.classes
    columns: dict[str, Sequence[Any]] = {}
    if last.get("confusion"):
        counts = np.asarray(last["confusion"])
        columns["samples"] = counts.sum(1).tolist()
    if last.get("per_class"):
        columns["%"] = last["per_class"]
    if last.get("confusion"):
        wrong = counts * (1 - np.eye(len(counts), dtype=int))
        columns["mostly taken for"] = [f"{names[row.argmax()]} ({row.max()})" if row.max() else None for row in wrong]
    tables = {k: v for k, v in last.items() if isinstance(v, dict) and v}
    if not columns and tables:  # segmentation and detection name their classes
        names = [str(name) for name in next(iter(tables.values()))]
        columns = {k: [v.get(name) for name in names] for k, v in tables.items()}
    rows = [[name, *(column[i] for column in columns.values())] for i, name in enumerate(names)] if columns else []
    return page.table(("class", *columns), rows, fold=40) if rows else ""


def matrix(run: Run) -> str:
    """Return the confusion matrix."""
    counts = run.last.get("confusion")
    return page.confusion("rows: true class, columns: predicted", counts, run.classes) if counts else ""


def answers(run: Run, dataset: Any, budget: Budget) -> str:
    """Return the most confident mistakes, and right answers, as videos, pictures or clouds."""
    if dataset is None or not run.shown:
        return ""
    ask = getattr(dataset, "sample_id", None)
    numbers = {str(ask(i)): i for i in range(len(dataset))} if callable(ask) else {}
    called = partial(named, run.classes)
    found: dict[bool, list[str]] = {False: [], True: []}
    for row in run.shown:
        right = row["label"] == row["predicted"]
        if row["sample_id"] not in numbers or len(found[right]) >= (RIGHT if right else WRONG):
            continue
        said = page.verdict(right, "", called(row["predicted"]), row["score"])
        lines = [f"<b>{escape(called(row['label']))}</b>", said, f"<code>{escape(row['sample_id'])}</code>"]
        number = numbers[row["sample_id"]]
        found[right].append(budget.part(partial(answer, dataset, number, lines)))
    wrong, good = ([part for part in found[k] if part] for k in (False, True))
    return page.section("The most confident mistakes", page.exhibits(wrong)) + page.section(
        "Right answers", page.exhibits(good)
    )


def named(names: Sequence[str], label: int | Sequence[int]) -> str:
    """Return the name of a class, or of all classes of a sample."""
    if isinstance(label, int):
        return name_of(label, names)
    return ", ".join(named(names, one) for one in label) or "none"


def answer(dataset: Any, index: int, lines: Sequence[str]) -> str:
    """Return one sample of the evaluation with lines below."""
    return page.exhibit(shown(dataset, index), *lines)


def sheet(run: Run, budget: Budget) -> str:
    """Return the first training samples of the run, after augmentation."""
    dataset = run.dataset("train")
    if dataset is None:
        return ""
    names, parts = list(getattr(dataset, "classes", None) or ()), []
    for index in order_of(len(dataset), run.report.get("seed") or 0, 0)[:SAMPLES].tolist():
        parts.append(budget.part(partial(training_sample, dataset, index, names)))
    parts = [part for part in parts if part]
    note = "After augmentation, before normalization; mixup and CutMix, where a config has them, come behind this."
    grid = page.exhibits(parts, wide=isinstance(dataset, VideoDataset))
    return page.section("Training samples as the network sees them", grid, note=note)


def training_sample(dataset: Any, index: int, names: Sequence[Any]) -> str:
    """Return one sample of the first epoch."""
    item = dataset[0, index]
    inside, label = seen(item), item.get("label")
    if label is None or not names:
        return page.exhibit(inside) if inside else ""
    if np.ndim(label):  # 0/1 of every class
        name = named(names, np.flatnonzero(np.asarray(label) > 0.5).tolist())
    else:
        name = named(names, int(label)) if 0 <= int(label) < len(names) else ""
    return page.exhibit(inside, escape(name)) if inside else ""


def skipped(run: Run) -> str:
    """Return the files that could not be read, with reasons."""
    rows = [[row.get("sample_id"), row.get("reason")] for row in run.report.get("skipped", [])]
    return page.table(("file", "why"), rows, fold=20) if rows else ""


def how(run: Run) -> str:
    """Return command, versions and config."""
    report, config = run.report, run.folder / "config.py"
    versions = [[k, str(v)] for k, v in (report.get("versions") or {}).items()]
    rows = [[k, report[k]] for k in ("started", "seed", "processes") if report.get(k) is not None]
    return "".join(
        (
            page.code(str(report.get("command", ""))),
            page.folded("environment", page.table(("", ""), [[k, str(v)] for k, v in rows] + versions)),
            page.folded("config", page.code(config.read_text(encoding="utf-8"))) if config.is_file() else "",
        )
    )
