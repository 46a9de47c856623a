"""A grid of few-shot runs: methods times shots times seeds, resumed where it stopped, with a table and a plot."""

import dataclasses
import hashlib
import json
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from xmodal.official.prompts import NAMES, save_dassl, save_tip_keys
from xmodal.protocols.bench import Bench
from xmodal.protocols.outcome import Outcome
from xmodal.protocols.plans import Labeled, Plan, Protocol
from xmodal.protocols.runs import outcome_folder
from xmodal.registry import METHODS

log = logging.getLogger("xmodal.fewshot")
Cell = tuple[str, int, int]


def plain(value: Any) -> Any:
    """A value as plain JSON: recipes by their fields, types by their names."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"type": type(value).__name__, **fields}
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return value if isinstance(value, str | int | float | bool | None) else getattr(value, "__name__", str(value))


def stamp(*parts: Any) -> str:
    """A short hash of a recipe: a changed recipe is run again."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


class Grid:
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
        """Every (method, shots, seed); a method that needs no shots has one cell."""
        grid = [(k, s) for k in shots for s in seeds]
        return [
            (name, *cell)
            for name, recipe in self.methods.items()
            for cell in (grid if recipe.needs_shots else [(0, seeds[0])])
        ]

    def run(self, shots: Sequence[int], seeds: Sequence[int]) -> list[dict[str, Any]]:
        """Run what is not there yet; all results."""
        return [self.cell(*cell) for cell in self.cells(shots, seeds)]

    def plan(self, recipe: Any, shots: int, seed: int) -> Plan:
        """What trains, validates and tests; methods that need no shots see the test sets of the first seed's plan."""
        first = self.protocol.shots[0]
        plan = self.protocol.plan(self.data[0], shots if recipe.needs_shots else first, seed, self.data[1:])
        return plan if recipe.needs_shots else dataclasses.replace(plan, shots=0)

    def version(self, name: str) -> str:
        """A hash over everything that a method's results depend on besides shots and seed."""
        return stamp(plain(self.methods[name]), plain(self.protocol), self.about)

    def found(self, name: str, shots: int, seed: int) -> dict[str, Any] | None:
        """A result that is there already, of the same recipe."""
        path = self.out / name / f"shots{shots}_seed{seed}" / "result.json"
        result = json.loads(path.read_text()) if path.exists() else {}
        return result if result.get("stamp") == self.version(name) else None

    def cell(self, name: str, shots: int, seed: int) -> dict[str, Any]:
        """One run, or its result where it is there already."""
        there = self.found(name, shots, seed)
        if there is not None:
            return there
        folder = self.out / name / f"shots{shots}_seed{seed}"
        path, recipe, version = folder / "result.json", self.methods[name], self.version(name)
        plan = self.plan(recipe, shots, seed)
        start = time.perf_counter()
        outcome = recipe(self.bench, plan)
        result = self.report(name, recipe, plan, outcome, version)
        result["seconds"] = round(time.perf_counter() - start, 2)
        result = json.loads(json.dumps(result))  # as it will be read again
        folder.mkdir(parents=True, exist_ok=True)
        self.save_head(outcome, plan, name)
        path.with_suffix(".part").write_text(json.dumps(result, indent=1))
        path.with_suffix(".part").replace(path)
        figures = ", ".join(f"{k} {v:.2f}" for k, v in result["scores"].items())
        warning = "  (selected on TEST: optimistic)" if outcome.selected_on == "test" else ""
        log.info("%s, %d shots, seed %d: %s  [%.1f s]%s", name, shots, seed, figures, result["seconds"], warning)
        return result

    def report(self, name: str, recipe: Any, plan: Plan, outcome: Outcome, version: str) -> dict[str, Any]:
        """The result file's content."""
        scores = {k: round(v, 4) for k, v in outcome.scores.items()}
        sample = [(p.source, p.indices) for p in plan.train]
        return {
            "method": name,
            "protocol": plan.protocol,
            "shots": plan.shots,
            "seed": plan.seed,
            "scores": {**scores, **self.protocol.summary(scores)},
            "selected_on": outcome.selected_on,
            "trained_weights": outcome.trained,
            "sample_sha256": stamp(sample),
            **self.about,
            "recipe": plain(recipe),
            "details": outcome.details,
            "stamp": version,
        }

    def save_head(self, outcome: Outcome, plan: Plan, name: str) -> None:
        """Write a learned prompt the way Dassl does, and the keys of Tip-Adapter-F as its release does."""
        kind = next((m.name for m in METHODS.values() if m.obj is type(outcome.head)), "")
        folder = outcome_folder(self.out, name, plan)
        if outcome.head is not None and kind in NAMES:
            save_dassl(outcome.head, folder, len(outcome.details.get("losses", ())))
        elif kind == "tip_adapter" and outcome.trained:
            save_tip_keys(outcome.head, folder / f"best_F_{plan.shots}shots.pt")


def collect(results: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, dict[int, list[float]]]]:
    """{test set: {method: {shots: accuracies}}}."""
    table: dict[str, dict[str, dict[int, list[float]]]] = {}
    for result in results:
        for test, score in result["scores"].items():
            table.setdefault(test, {}).setdefault(result["method"], {}).setdefault(result["shots"], []).append(score)
    return table


def shots_name(shots: int) -> str:
    """How a number of shots is called; -1 are all images."""
    return "all images" if shots == -1 else f"{shots} shots"


def spread(values: Sequence[float]) -> str:
    """Mean and, of several, the sample standard deviation."""
    return f"{mean(values):.2f}" if len(values) < 2 else f"{mean(values):.2f} +- {stdev(values):.2f}"


def format_table(results: Sequence[Mapping[str, Any]]) -> str:
    """Markdown tables of mean and standard deviation over seeds, one a test set, and how results were selected."""
    lines = []
    for test, methods in collect(results).items():
        shots = sorted({k for cells in methods.values() for k in cells if k}) or [0]
        lines += [f"{test} (top-1, %)", "", "| method | " + " | ".join(shots_name(k) for k in shots) + " |"]
        lines.append("|---" * (1 + len(shots)) + "|")
        for name, cells in methods.items():
            row = (
                [spread(cells[0])] * len(shots)
                if set(cells) == {0}
                else [spread(cells[k]) if k in cells else "" for k in shots]
            )
            lines.append(f"| {name} | " + " | ".join(row) + " |")
        lines.append("")
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
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    table = collect(results)
    figure, axes = plt.subplots(1, len(table), figsize=(5.2 * len(table), 4), squeeze=False)
    for axis, (test, methods) in zip(axes[0], table.items(), strict=True):
        shots = sorted({k for cells in methods.values() for k in cells if k})
        for name, cells in methods.items():
            if set(cells) == {0}:
                axis.axhline(mean(cells[0]), linestyle="--", color="gray", label=name)
                continue
            xs = sorted(cells)
            bars = [stdev(cells[x]) if len(cells[x]) > 1 else 0.0 for x in xs]
            axis.errorbar(xs, [mean(cells[x]) for x in xs], yerr=bars, marker="o", capsize=3, label=name)
        if all(k > 0 for k in shots):
            axis.set_xscale("log", base=2)
        axis.set_xticks(shots or [1], [shots_name(k).split()[0] for k in shots] or ["1"])
        axis.set(xlabel="training images per class", ylabel="top-1 accuracy, %", title=title or test)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    figure.tight_layout()
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)
