"""Measure on one card what the documents claim for a CPU, and print what to paste into docs/performance.md.

Every finished case is kept in the JSON file, so that a run which was stopped goes on where it was; a case that fails is
noted with its reason and tried again. Nothing is downloaded: weights are random, films and clouds are made here.

Examples:
  python -m tools.benches.gpu --json work_dirs/gpu.json
  python -m tools.benches.gpu --only step points --minutes 3
  python -m tools.benches.gpu --device cpu --quick        # does it run at all? tiny sizes
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tools.benches import gpu_data, gpu_steps, measure
from xmodal.atomic import write_text

Case = Callable[[], dict[str, Any]]


def cases(args: argparse.Namespace) -> dict[str, Case]:
    """Return every case by its name, cheap ones first."""
    found = {**gpu_data.point_cases(args), **gpu_data.decode_cases(args)}
    return {**found, **gpu_steps.step_cases(args), **gpu_data.cloud_cases(args), **gpu_data.waiting_cases(args)}


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--quick", action="store_true", help="tiny sizes and one repeat: does it run?")
    parser.add_argument("--json", type=Path, default=Path("work_dirs/bench-gpu.json"), help="results, and what to skip")
    parser.add_argument("--only", nargs="+", default=[""], help="words that a case's name begins with")
    parser.add_argument("--minutes", type=float, default=8.0, help="no case is begun after this long")
    args = parser.parse_args(argv)
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("no CUDA device on this machine; --device cpu --quick shows that the cases run")
    return args


def read(path: Path) -> dict[str, Any]:
    """Read what an earlier run kept."""
    return json.loads(path.read_text()) if path.is_file() else {"where": {}, "cases": {}}


def run(case: Case, device: str) -> dict[str, Any]:
    """Run a case; a failure becomes its reason."""
    try:
        return case()
    except (RuntimeError, ValueError, ImportError, OSError, NotImplementedError) as error:
        return {"error": f"{type(error).__name__}: {error}".splitlines()[0][:200]}
    finally:
        if device == "cuda":
            torch.cuda.empty_cache()


def figure(value: Any) -> str:
    """Format a cell."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def tables(kept: dict[str, Any]) -> str:
    """Return Markdown tables, one for the cases of each kind (first word of their names) that have equal columns."""
    groups: dict[tuple[str, ...], list[tuple[str, dict[str, Any]]]] = {}
    failed = [f"- {name}: {row['error']}" for name, row in kept["cases"].items() if "error" in row]
    for name, row in kept["cases"].items():
        if "error" not in row:
            groups.setdefault((name.split()[0], *row), []).append((name, row))
    parts = []
    for (_, *columns), rows in groups.items():
        lines = [f"| case | {' | '.join(columns)} |", "|---" * (1 + len(columns)) + "|"]
        lines += [f"| {name} | {' | '.join(figure(row[c]) for c in columns)} |" for name, row in rows]
        parts.append("\n".join(lines))
    return "\n\n".join([*parts, *(["Not measured:\n\n" + "\n".join(failed)] if failed else [])])


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Measure what is missing and print everything."""
    args = parse(argv)
    kept, start = read(args.json), time.monotonic()
    kept["where"] = measure.where()
    for name, case in cases(args).items():
        done = "error" not in kept["cases"].get(name, {"error": ""})
        if done or not name.startswith(tuple(args.only)):
            continue
        if time.monotonic() - start > 60 * args.minutes:
            print(f"{args.minutes:g} minutes are over: run it again for the rest, from {name!r} on", flush=True)
            break
        kept["cases"][name] = run(case, args.device)
        write_text(args.json, json.dumps(kept, indent=1))
        print(f"{name}: {', '.join(f'{k} {figure(v)}' for k, v in kept['cases'][name].items())}", flush=True)
    print(f"\nPaste into docs/performance.md:\n\n`python -m tools.benches.gpu`, {kept['where']}\n\n{tables(kept)}")
    return kept


if __name__ == "__main__":
    main()
