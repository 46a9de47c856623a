"""Report finished ELEVATER runs: a table, the parameter-efficiency ranking, a plot, submission files.

Papers: ELEVATER (arXiv 2204.08790) for score and submission, PEViT (arXiv 2203.16329) for the efficiency.
"""

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from xmodal.evaluation.elevater import ALL
from xmodal.evaluation.elevater_catalog import CARDS
from xmodal.evaluation.results import markdown, plot, write_result

REFERENCE_PARAMETERS = 1e8  # M0 of the efficiency formula


def read_results(out: str | Path) -> list[dict[str, Any]]:
    """Every finished run of `elevater_grid` in a folder as a flat row; `shots` is None for all images."""
    rows = []
    for path in sorted(Path(out).glob("*/*/*/result.json")):
        result = json.loads(path.read_text())
        (dataset,) = result["scores"]
        row = {"model": result["encoders"]["clip"]["name"], "dataset": dataset, "folder": str(path.parent)}
        row |= {"method": result["method"], "shots": None if result["shots"] == ALL else result["shots"]}
        row |= {"seed": result["seed"], "trained_parameters": result["trained_weights"]}
        rows.append({**row, **result["details"]})
    return rows


def efficiency(score: float, trained: int) -> float:
    """Score discounted by trained weights: score * exp(-log10(trained / 1e8 + 1))."""
    return score * math.exp(-math.log10(trained / REFERENCE_PARAMETERS + 1))


def summarize(results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row a model, method and number of shots: means over seeds, then over data sets; best efficiency first.

    Returns:
        Rows with `scores` {data set: mean over seeds}, `mean`, `mean_best_epoch_on_test`, `seeds`, `trained_parameters`
        (mean over data sets; heads differ), `efficiency`, and `of_benchmark`, how many of the 20 were judged.
    """
    groups: dict[tuple, list[dict[str, Any]]] = {}
    for result in results:
        shots = 0 if result["method"] == "zero-shot" else result["shots"]
        groups.setdefault((result["model"], result["method"], shots), []).append(result)
    rows = []
    for (model, method, shots), group in groups.items():
        names = sorted({r["dataset"] for r in group})
        mean = lambda key, name, g=group: float(np.mean([r.get(key, r["score"]) for r in g if r["dataset"] == name]))  # noqa: E731
        scores = {name: mean("score", name) for name in names}
        trained = float(np.mean([mean("trained_parameters", name) for name in names]))
        total = float(np.mean(list(scores.values())))
        rows.append(
            {
                "model": model,
                "method": method,
                "shots": shots,
                "seeds": sorted({r["seed"] for r in group}),
                "scores": scores,
                "mean": total,
                "mean_best_epoch_on_test": float(np.mean([mean("best_epoch_on_test", n) for n in names])),
                "trained_parameters": trained,
                "efficiency": efficiency(total, int(trained)),
                "of_benchmark": sum(name in CARDS for name in names),
            }
        )
    return sorted(rows, key=lambda r: -r["efficiency"])


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Rows as a markdown table; a data set that a row lacks is a dash, and the mean says over how many it is."""
    names = sorted({name for row in rows for name in row["scores"]})
    cells = []
    for row in rows:
        shots = {0: "0", None: "all"}.get(row["shots"], f"{row['shots']} x {len(row['seeds'])} seeds")
        scores = [f"{row['scores'][n]:.1f}" if n in row["scores"] else "-" for n in names]
        means = f"{row['mean']:.1f} ({len(row['scores'])})", f"{row['mean_best_epoch_on_test']:.1f}"
        rest = [*means, f"{row['trained_parameters']:,.0f}", f"{row['efficiency']:.2f}"]
        cells.append([row["method"], shots, *scores, *rest])
    return markdown(["method", "shots", *names, "mean", "best epoch on test", "trained", "efficiency"], cells)


def draw_ranking(rows: Sequence[dict[str, Any]], path: str | Path) -> None:
    """Draw mean score against trained weights, one point a row; the legend is the efficiency ranking.

    Filled: after the last epoch. Hollow: the best epoch on the test set. Rows that train nothing stand at 1.
    """
    sets = max(len(row["scores"]) for row in rows)
    with plot(path, size=(8, 4.5)) as (axes,):
        for rank, row in enumerate(rows, 1):
            x, last, best = max(row["trained_parameters"], 1), row["mean"], row["mean_best_epoch_on_test"]
            shots = {0: "", None: ", all"}.get(row["shots"], f", {row['shots']} shots")
            label = f"{rank}. {row['method']}{shots}: {row['efficiency']:.1f}"
            color = axes.plot([x, x], [last, best], lw=1)[0].get_color()
            axes.scatter([x], [last], s=36, color=color, label=label, zorder=3)
            axes.scatter([x], [best], s=36, facecolors="none", edgecolors=color, zorder=2)
        axes.set(xscale="log", xlabel="trained parameters (1 = none)", ylabel="mean score of the data sets, percent")
        title = f"{rows[0]['model']}, up to {sets} data sets; filled: last epoch, hollow: best epoch on test"
        axes.set_title(title, fontsize=9)
        beside: dict[str, Any] = dict(loc="center left", bbox_to_anchor=(1.01, 0.5))
        axes.legend(title="ranked by efficiency", fontsize=8, title_fontsize=8, **beside)


def submission(results: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """The benchmark's submission for one data set and method: probabilities of every seed, six decimals.

    Args:
        results: rows of `read_results` of one model, data set, method and number of shots; one a seed.

    Raises:
        ValueError: results of different data sets or methods.
    """
    results = sorted(results, key=lambda r: r["seed"])
    if len({(r["model"], r["dataset"], r["method"], r["shots"]) for r in results}) != 1:
        raise ValueError("a submission holds the seeds of one model, data set, method and number of shots")
    first = results[0]
    predictions = []
    for result in results:
        with np.load(Path(result["folder"]) / "arrays.npz", allow_pickle=False) as arrays:
            predictions.append(np.round(arrays["probabilities"].astype(np.float64), 6).tolist())
    trained = first["trained_parameters"]
    return {
        "model_name": first["model"],
        "dataset_name": first["dataset"],
        "num_trainable_params": trained / 1e6,
        "num_params": (first["total_parameters"] + trained) / 1e6,
        "num_visual_params": first["visual_parameters"] / 1e6,
        "num_backbone_params": first["total_parameters"] / 1e6,
        "n_shot": 0 if first["method"] == "zero-shot" else (-1 if first["shots"] is None else first["shots"]),
        "rnd_seeds": [r["seed"] for r in results],
        "predictions": predictions,
    }


def write_report(out: str | Path) -> str:
    """Write `summary.md`, `summary.json`, `plot.png` and `submissions/*.json` of a folder of results; gives the table.

    Raises:
        FileNotFoundError: no finished run there.
    """
    out, results = Path(out), read_results(out)
    if not results:
        raise FileNotFoundError(f"no finished run in {out}: run `tools/elevater.py run` first")
    rows = summarize(results)
    text, report = table(rows), out / "report"
    write_result(report / "summary.json", rows)
    (report / "summary.md").write_text(text + "\n")
    draw_ranking(rows, report / "plot.png")
    groups: dict[str, list] = {}
    for result in results:
        shots = result["shots"] if result["shots"] is not None else "full"
        groups.setdefault(f"{result['model']}.{result['dataset']}.{result['method']}.{shots}", []).append(result)
    for name, group in groups.items():
        write_result(report / "submissions" / f"{name.replace('/', '_')}.json", submission(group), indent=None)
    return text
