"""A grid of few-shot runs: methods times shots times seeds, resumed where it stopped, with a table and a plot."""

import dataclasses
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch

from xmodal.engine.report import peak_megabytes
from xmodal.evaluation.bench import Bench
from xmodal.evaluation.plans import Labeled, Outcome, Plan, Protocol
from xmodal.evaluation.results import markdown, once, plain, plot, read_result, spread, stamp
from xmodal.official.clip_tuning import TUNED, save_tuned
from xmodal.official.prompts import NAMES, save_dassl, save_tip_keys
from xmodal.registry import METHODS

log = logging.getLogger("xmodal.fewshot")
Cell = tuple[str, int, int]

MARKERS = "os^D"


class RunGrid:
    """Runs of several methods under one protocol.

    Args:
        bench: encoders and data.
        protocol: which samples train, validate and test.
        methods: recipes by name, see `runs`.
        out: folder of results.
        allow_test_selection: without it, a recipe that selects on the test set is refused.

    Raises:
        ValueError: a recipe that selects on the test set and was not allowed to.
    """

    def __init__(
        self,
        bench: Bench,
        protocol: Protocol,
        methods: Mapping[str, Any],
        out: str | Path,
        allow_test_selection: bool = False,
    ):
        self.bench, self.protocol, self.methods, self.out = bench, protocol, dict(methods), Path(out)
        asked = [n for n, m in self.methods.items() if "test" in (getattr(m, "select_on", ""),)]
        if getattr(protocol, "search_on", "") == "test":
            asked = list(self.methods)
        if asked and not allow_test_selection:
            raise ValueError(f"{', '.join(asked)} would select on the TEST set: ask for it with --allow-test-selection")
        self.data: list[Labeled] = [s.labeled() for s in bench.sources]
        self.about = bench.about()

    def cells(self, shots: Sequence[int], seeds: Sequence[int]) -> list[Cell]:
        """Every (method, shots, seed); a method that needs no shots has one cell, as have shots without a draw."""
        grid = list(dict.fromkeys((k, s if self.protocol.draws(k) else seeds[0]) for k in shots for s in seeds))
        return [
            (name, *cell)
            for name, recipe in self.methods.items()
            for cell in (grid if recipe.needs_shots else [(0, seeds[0])])
        ]

    def run(self, shots: Sequence[int], seeds: Sequence[int]) -> list[dict[str, Any]]:
        """Run what is not there yet; all results."""
        return [self.cell(*cell) for cell in self.cells(shots, seeds)]

    def plan(self, recipe: Any, shots: int, seed: int) -> Plan:
        """Choose the parts that train, validate and test; without shots, the test sets of the first seed's plan."""
        first = self.protocol.shots[0]
        plan = self.protocol.plan(self.data[0], shots if recipe.needs_shots else first, seed, self.data[1:])
        return plan if recipe.needs_shots else dataclasses.replace(plan, shots=0)

    def version(self, name: str) -> str:
        """A hash over everything that a method's results depend on besides shots and seed."""
        return stamp(self.methods[name], self.protocol, self.about)

    def folder(self, name: str, shots: int, seed: int) -> Path:
        """Return the folder of a cell's files."""
        return self.out / name / f"shots{shots}_seed{seed}"

    def found(self, *cell: Any) -> dict[str, Any] | None:
        """A result that is there already, of the same recipe."""
        return read_result(self.folder(*cell) / "result.json", stamp=self.version(cell[0]))

    def cell(self, name: str, shots: int, seed: int) -> dict[str, Any]:
        """One run, or its result where it is there already."""
        path = self.folder(name, shots, seed) / "result.json"
        return once(path, lambda: self.run_cell(name, shots, seed), stamp=self.version(name))

    def run_cell(self, name: str, shots: int, seed: int) -> dict[str, Any]:
        """Run a method, keep what it learned, and return the result file's content."""
        folder, recipe = self.folder(name, shots, seed), self.methods[name]
        plan, start = self.plan(recipe, shots, seed), time.perf_counter()
        outcome = recipe(self.bench, plan)
        seconds = round(time.perf_counter() - start, 2)
        folder.mkdir(parents=True, exist_ok=True)
        self.save_head(outcome, plan, folder)
        if outcome.arrays:
            np.savez_compressed(folder / "arrays.npz", **outcome.arrays)
        scores = {k: round(v, 4) for k, v in outcome.scores.items()}
        scores |= self.protocol.summary(scores)
        figures = ", ".join(f"{k} {v:.2f}" for k, v in scores.items())
        warning = "  (selected on TEST: optimistic)" if outcome.selected_on == "test" else ""
        log.info("%s, %d shots, seed %d: %s  [%.1f s]%s", name, shots, seed, figures, seconds, warning)
        return {
            "method": name,
            "protocol": plan.protocol,
            "shots": plan.shots,
            "seed": plan.seed,
            "scores": scores,
            "selected_on": outcome.selected_on,
            "trained_weights": outcome.trained,
            "sample_sha256": stamp([(p.source, p.indices) for p in plan.train]),
            **self.about,
            "recipe": plain(recipe),
            "details": outcome.details,
            "seconds": seconds,
            "peak_mb": peak_megabytes(),
        }

    def save_head(self, outcome: Outcome, plan: Plan, folder: Path) -> None:
        """Write what was learned in the layout of the method's release, where it has one."""
        kind = next((m.name for m in METHODS.values() if m.obj is type(outcome.head)), "")
        if outcome.head is not None and kind in NAMES:
            save_dassl(outcome.head, folder, len(outcome.details.get("losses", ())))
        elif kind == "tip_adapter" and outcome.trained:
            save_tip_keys(outcome.head, folder / f"best_F_{plan.shots}shots.pt")
        elif kind in TUNED:
            save_tuned(outcome.head, folder)


GRIDS: list[RunGrid] = []  # of this worker: one


def start(make: Callable[[], RunGrid], threads: int) -> None:
    """Prepare a worker."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(threads)
    GRIDS[:] = [make()]


def run_cell(cell: Cell) -> None:
    """Run one cell; its result lies in the output folder afterwards."""
    GRIDS[0].cell(*cell)


def run_in_processes(make: Callable[[], RunGrid], cells: Sequence[Cell], workers: int) -> None:
    """Run cells, those with most shots first.

    Args:
        make: builds the grid; goes to the workers, so it must be importable there (a `functools.partial` will do).
        cells: of `RunGrid.cells`.
        workers: processes; the CPU's threads are shared among them.
    """
    ordered = sorted(cells, key=lambda cell: -cell[1])
    threads = max(1, (os.cpu_count() or 1) // workers)
    given: dict[str, Any] = dict(mp_context=get_context("spawn"), initializer=start, initargs=(make, threads))
    with ProcessPoolExecutor(min(workers, len(ordered)), **given) as pool:
        for future in [pool.submit(run_cell, cell) for cell in ordered]:
            future.result()


def collect(results: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, dict[int, list[float]]]]:
    """{test set: {method: {shots: accuracies}}}."""
    table: dict[str, dict[str, dict[int, list[float]]]] = {}
    for result in results:
        for test, score in result["scores"].items():
            table.setdefault(test, {}).setdefault(result["method"], {}).setdefault(result["shots"], []).append(score)
    return table


def shots_name(shots: int) -> str:
    """Name a number of shots; -1 are all images."""
    return "all images" if shots == -1 else f"{shots} shots"


def format_table(results: Sequence[Mapping[str, Any]]) -> str:
    """Markdown tables of mean and standard deviation over seeds, one a test set, and how results were selected."""
    lines = []
    for test, methods in collect(results).items():
        shots = sorted({k for cells in methods.values() for k in cells if k}) or [0]
        rows = []
        for name, cells in methods.items():
            same = set(cells) == {0}  # a method that needs no shots
            rows.append([name, *(spread(cells[0 if same else k]) if same or k in cells else "" for k in shots)])
        lines += [f"{test} (top-1, %)", "", markdown(["method", *map(shots_name, shots)], rows), ""]
    chosen = {r["method"]: r["selected_on"] for r in results}
    lines.append(
        "selected on: " + ", ".join(f"{k}: {'TEST (optimistic)' if v == 'test' else v}" for k, v in chosen.items())
    )
    return "\n".join(lines)


def format_searches(results: Sequence[Mapping[str, Any]]) -> str:
    """The longest search for alpha and beta of each method; empty where none was made."""
    longest: dict[str, dict[str, Any]] = {}
    for result in results:
        found = result["details"].get("search")
        if found and found["seconds"] > longest.get(result["method"], {"seconds": -1.0})["seconds"]:
            longest[result["method"]] = found
    return "\n".join(
        f"{name}: {s['points']} pairs of alpha and beta on {s['samples']} images with {s['keys']} keys "
        f"took {s['seconds']:.3f} s at most"
        for name, s in longest.items()
    )


def draw_plot(results: Sequence[Mapping[str, Any]], path: str | Path, title: str = "") -> None:
    """Draw accuracy over shots, one panel a test set, error bars over seeds."""
    table = collect(results)
    with plot(path, len(table)) as axes:
        for axis, (test, methods) in zip(axes, table.items(), strict=True):
            shots = sorted({k for cells in methods.values() for k in cells if k})
            for name, cells in methods.items():
                if set(cells) == {0}:
                    axis.axhline(mean(cells[0]), linestyle="--", color="gray", label=name)
                    continue
                xs = sorted(cells)
                bars = [stdev(cells[x]) if len(cells[x]) > 1 else 0.0 for x in xs]
                marker = MARKERS[len(axis.containers) // 10 % len(MARKERS)]  # colors repeat after 10 lines
                axis.errorbar(xs, [mean(cells[x]) for x in xs], yerr=bars, marker=marker, capsize=3, label=name)
            if all(k > 0 for k in shots):
                axis.set_xscale("log", base=2)
            axis.set_xticks(shots or [1], [shots_name(k).split()[0] for k in shots] or ["1"])
            axis.set(xlabel="training images per class", ylabel="top-1 accuracy, %", title=title or test)
            beside = dict(loc="upper left", bbox_to_anchor=(1, 1)) if len(methods) > 8 else {}
            axis.legend(fontsize=8, **beside)
