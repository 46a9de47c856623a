"""Keep the standing table of results: docs/results.md, made from docs/results.json.

  python tools/results.py                                   write the page and its plots
  python tools/results.py add work_dirs/NAME_0 work_dirs/NAME_1 work_dirs/NAME_2 --task actions8
  python tools/results.py add work_dirs/NAME_3 --task actions8 --more-seeds
  python tools/results.py add work_dirs/fewshot/NAME --config configs/fewshot/NAME.py
  python tools/results.py add work_dirs/fewshot/NAME --config configs/fewshot/NAME.py --task styles --metric target_mean
  python tools/results.py --rebuild                         run the cheap rows again first

A row is one (task, encoder, method): accuracy over seeds (mean, spread), trained weights, stored bytes, seconds, peak
memory, the config and command, a hash of the logs, and on what the result was selected.
"""

import argparse
import hashlib
import json
import re
import sys
import time
from collections.abc import Iterable, Sequence
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
ROWS, PAGE = ROOT / "docs" / "results.json", ROOT / "docs" / "results.md"
PLOTS = {"trained": "trained weights", "seconds": "seconds to train"}
HEAD = """# Results

Made by `make results` from `docs/results.json`; `python tools/results.py add` adds a row from folders of finished runs.
Accuracy is top-1 in percent, or the measure in a title: mean and sample standard deviation over seeds. Nothing is
selected on test data unless the column says so. All tasks are made by this project: they show that methods work and how
they compare here, and nothing about natural images and videos.
"""
COLUMNS = ("method", "accuracy", "trained", "bytes", "seconds", "peak MB", "selected on", "config", "log", "date")


def read_rows() -> list[dict[str, Any]]:
    """The rows that are kept."""
    return json.loads(ROWS.read_text()) if ROWS.exists() else []


def key_of(row: dict[str, Any]) -> tuple[str, str, str]:
    """What a row is of."""
    return row["task"], row["encoder"], row["method"]


def digest(paths: Iterable[Path]) -> str:
    """sha256 over files, first 12 digits."""
    found = hashlib.sha256()
    for path in sorted(paths):
        found.update(path.read_bytes())
    return found.hexdigest()[:12]


def largest(values: Iterable[float | None]) -> float | None:
    """The largest of the values that are known."""
    known = [v for v in values if v is not None]
    return round(max(known), 1) if known else None


def rows_of_runs(
    folders: Sequence[Path], task: str, method: str | None = None, metric: str = "top1"
) -> list[dict[str, Any]]:
    """One row of the folders of `tools/train.py` and `tools/test.py`, one a seed.

    Args:
        folders: work directories, one a seed.
        task: name of the task.
        method: name of the method, None for the first word of the config's name.
        metric: the test result that counts.

    Raises:
        ValueError: a run that was not finished or not tested, runs of several configs, or a metric that is not there.
    """
    reports, tests = [], []
    for folder in folders:
        for name, kept in (("report.json", reports), ("test.json", tests)):
            if not (folder / name).is_file():
                raise ValueError(
                    f"{folder} has no {name}: train and test the run first (tools/train.py, tools/test.py)"
                )
            kept.append(json.loads((folder / name).read_text()))
    configs = {r["config"] for r in reports}
    if len(configs) > 1:
        raise ValueError(f"{', '.join(map(str, folders))} are runs of several configs: {sorted(configs)}")
    lacks = [str(f) for f, t in zip(folders, tests, strict=True) if metric not in t["test"]]
    if lacks:
        raise ValueError(f"{lacks[0]}/test.json has no {metric}; it has {', '.join(tests[0]['test'])}")
    config = next(p for p in (ROOT / "configs").rglob(f"{configs.pop()}.py"))
    files = [f / name for f in folders for name in ("report.json", "test.json")]
    stored = [size for f in folders if (size := stored_bytes(f))]
    selected = "none (last step)" if "last.pth" in tests[0]["command"] else "validation data"
    return [
        dict(
            task=task, encoder=encoder_of(reports), method=method or config.stem.partition("_")[0],
            metric=metric, accuracy={str(r["seed"]): t["test"][metric] for r, t in zip(reports, tests, strict=True)},
            trained=reports[0]["trained_parameters"], bytes=max(stored, default=None),
            seconds=round(mean(r["seconds"] for r in reports), 1), peak_mb=largest(r.get("peak_mb") for r in reports),
            config=str(config.relative_to(ROOT)), command=without_folders(reports[0]["command"]), cheap=False,
            log=digest(files), selection=tests[0]["test"].get("selected_on", selected),
            date=time.strftime("%Y-%m-%d"),
        )
    ]  # fmt: skip


def encoder_of(reports: Sequence[dict[str, Any]]) -> str:
    """Name the encoder of runs; random weights of several seeds count as one, and a run may have nothing frozen."""
    names = [r["encoder"].get("encoder", "all trained") for r in reports]
    return names[0] if len(set(names)) == 1 else re.sub(r"-\d+$", "", names[0])


def stored_bytes(folder: Path) -> int | None:
    """Bytes of the weights that a run leaves: of `best.pth`, else of the weights in `last.pth`; None for neither."""
    from xmodal.engine.checkpoint import read

    if (best := folder / "best.pth").is_file():
        return best.stat().st_size
    if not (last := folder / "last.pth").is_file():
        return None
    return sum(tensor.nbytes for tensor in read(last)["state_dict"].values())


def without_folders(command: str) -> str:
    """The command of a run, without the folders in which it happened to be run."""
    words = re.sub(r" --work-dir \S+| cache\.root=\S+| --(resume|no-report)\b", "", command)
    return f"python tools/{words}"


def rows_of_grid(folder: Path, config: str, task: str | None = None, metric: str | None = None) -> list[dict[str, Any]]:
    """One row for each method, test set and number of shots of a folder of `tools/fewshot.py`.

    Args:
        folder: of a finished run.
        config: its config.
        task: another name for the test set; needs `metric`.
        metric: the only test set that counts, such as `target_mean`.

    Raises:
        ValueError: a folder without results.
    """
    cells: dict[tuple[str, str, int], list[Path]] = {}
    for path in sorted(folder.glob("*/shots*_seed*/result.json")):
        found = json.loads(path.read_text())
        for test in found["scores"] if metric is None else [metric]:
            cells.setdefault((test, found["method"], found["shots"]), []).append(path)
    if not cells:
        raise ValueError(f"{folder} holds no result.json of tools/fewshot.py")
    rows = []
    for (test, method, shots), paths in cells.items():
        name = test if task is None else task
        results = [json.loads(p.read_text()) for p in paths]
        seconds = round(mean(r["seconds"] for r in results), 2)
        seeds = " ".join(str(r["seed"]) for r in results)
        rows.append(
            dict(
                task=f"{name}, {shots} shot{'s' * (shots > 1)}" if shots else name,
                encoder=results[0]["encoders"]["clip"]["name"],
                method=method, accuracy={str(r["seed"]): r["scores"][test] for r in results},
                trained=results[0]["trained_weights"], bytes=4 * results[0]["trained_weights"], seconds=seconds,
                peak_mb=largest(r.get("peak_mb") for r in results), config=config, cheap=seconds < 10 and task is None,
                command=f'python tools/fewshot.py {config} --methods "{method}" --shots {shots or 1} --seeds {seeds}',
                log=digest(paths), selection=results[0]["selected_on"], date=time.strftime("%Y-%m-%d"),
            )
        )  # fmt: skip
    return rows


def merged(old: Sequence[dict[str, Any]], new: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows in order, those of the same task, encoder and method replaced."""
    return [rows for _, rows in sorted({key_of(r): r for r in (*old, *new)}.items())]


def joined(old: Sequence[dict[str, Any]], new: dict[str, Any]) -> dict[str, Any]:
    """A row with the seeds that it had before beside its new ones.

    Raises:
        ValueError: no such row, or one of another command.
    """
    plain = lambda row: re.sub(r" --seed \d+", "", row["command"])  # noqa: E731
    row = next((r for r in old if key_of(r) == key_of(new)), None)
    if row is None or (plain(row), row["trained"], row["selection"]) != (plain(new), new["trained"], new["selection"]):
        raise ValueError(f"--more-seeds: {' / '.join(key_of(new))} has no row of the same command and selection yet")
    a, b = len(row["accuracy"]), len(new["accuracy"])
    most = {key: largest((row[key], new[key])) for key in ("bytes", "peak_mb")}
    return dict(
        new, **most, accuracy=row["accuracy"] | new["accuracy"], command=row["command"],
        seconds=round((a * row["seconds"] + b * new["seconds"]) / (a + b), 1), log=f"{row['log']} {new['log']}",
    )  # fmt: skip


def cells_of(row: dict[str, Any]) -> list[str]:
    """One line of the table."""
    from xmodal.evaluation.results import spread

    number = lambda value: "-" if value is None else f"{value:,}"  # noqa: E731
    count = f" ({len(row['accuracy'])} seeds)" if len(row["accuracy"]) > 1 else " (1 seed)"
    link = f"[{Path(row['config']).stem}](../{row['config']})"
    size = [number(row[key]) for key in ("trained", "bytes", "seconds", "peak_mb")]
    accuracy = spread(list(row["accuracy"].values())) + count
    return [row["method"], accuracy, *size, row["selection"], link, f"`{row['log']}`", row["date"]]


def tasks_of(rows: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    """Tasks and encoders in the order of their names and of the numbers in them."""
    numbered = lambda text: [int(t) if t.isdigit() else t for t in re.split(r"(\d+)", text)]  # noqa: E731
    return sorted({(r["task"], r["encoder"]) for r in rows}, key=lambda t: (numbered(t[0]), t[1]))


def make_page(rows: Sequence[dict[str, Any]]) -> str:
    """The whole page."""
    from xmodal.evaluation.results import markdown

    parts = [HEAD]
    for task, encoder in tasks_of(rows):
        own = [r for r in rows if (r["task"], r["encoder"]) == (task, encoder)]
        own.sort(key=lambda r: -mean(r["accuracy"].values()))
        metric = own[0].get("metric", "top1")
        title = f"{task}, {encoder}" + f" ({metric})" * (metric != "top1")
        parts.append(f"## {title}\n\n{markdown(COLUMNS, [cells_of(r) for r in own])}\n")
    if rows:
        parts.append("![accuracy against trained weights and seconds](results.png)\n")
    commands = "\n".join(f"- {' / '.join(key_of(r))}: `{r['command']}`" for r in rows)
    return "\n".join([*parts, f"## Commands\n\n{commands}\n" if rows else ""]).rstrip() + "\n"


def draw(rows: Sequence[dict[str, Any]]) -> None:
    """Draw accuracy against trained weights and against seconds."""
    from xmodal.evaluation.results import plot

    tasks = [key for key in tasks_of(rows) if sum((r["task"], r["encoder"]) == key for r in rows) > 1]
    if not tasks:
        return
    with plot(PAGE.with_suffix(".png"), len(PLOTS), (6, 3.6), len(tasks)) as axes:
        for axis, (task, (key, label)) in zip(axes, product(tasks, PLOTS.items()), strict=True):
            own = [r for r in rows if (r["task"], r["encoder"]) == task and r[key]]
            for r in own:
                place = (r[key], mean(r["accuracy"].values()))
                axis.plot(*place, "o", color="tab:blue")
                axis.annotate(r["method"], place, fontsize=6, xytext=(3, 2), textcoords="offset points")
            axis.set_xscale("log")
            axis.set(xlabel=label, ylabel=f"{own[0].get('metric', 'top1') if own else ''}, %", title=task[0])


def rebuild(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Run the cheap rows again in a fresh folder; the others stay as they are, with their date."""
    import shlex
    import tempfile

    from tools import fewshot

    for row in [r for r in rows if r["cheap"]]:
        with tempfile.TemporaryDirectory() as out:
            fewshot.main([*shlex.split(row["command"])[2:], "--out", out])
            rows = merged(rows, [r for r in rows_of_grid(Path(out), row["config"]) if key_of(r) == key_of(row)])
    return rows


def main(argv: list[str] | None = None) -> int:
    """Write the page, add rows, or say whether the page is up to date; returns the exit status."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("verb", nargs="?", choices=("add",), help="add a row from the folders of finished runs")
    p.add_argument(
        "folders", nargs="*", type=Path, help="work directories, one a seed, or a folder of tools/fewshot.py"
    )
    p.add_argument("--task", help="name of the task; of a few-shot folder: of the test set that --metric names")
    p.add_argument("--method", help="name of the method, where it is not the first word of the config's name")
    p.add_argument("--metric", default="top1", help="the test result that counts (default top1)")
    p.add_argument("--more-seeds", action="store_true", help="keep the seeds that the row has already")
    p.add_argument("--config", help="the config, for a folder of tools/fewshot.py")
    p.add_argument("--rebuild", action="store_true", help="run the cheap rows again first")
    p.add_argument("--check", action="store_true", help="exit with 1 when docs/results.md is out of date")
    args = p.parse_args(argv)
    from xmodal.engine.launch import run

    def work() -> int:
        rows = read_rows()
        if args.check:
            return int(not PAGE.exists() or PAGE.read_text() != make_page(rows))
        if args.verb == "add":
            if not args.folders or not (args.task or args.config):
                raise ValueError("add takes folders, and --task for work directories or --config for a few-shot folder")
            if args.config:
                new = rows_of_grid(args.folders[0], args.config, args.task, args.metric if args.task else None)
            else:
                new = rows_of_runs(args.folders, args.task, args.method, args.metric)
                new = [joined(rows, row) for row in new] if args.more_seeds else new
            rows = merged(rows, new)
        rows = rebuild(rows) if args.rebuild else rows
        ROWS.write_text(json.dumps(rows, indent=1) + "\n")
        PAGE.write_text(make_page(rows))
        if rows:
            draw(rows)
        print(f"wrote {PAGE.relative_to(ROOT)}: {len(rows)} rows")
        return 0

    return run(work)


if __name__ == "__main__":
    import checkout  # noqa: F401 - puts the root of the checkout on the path

    sys.exit(main())
