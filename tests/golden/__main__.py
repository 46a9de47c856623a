"""Run the golden runs and compare their numbers with the kept ones: python -m tests.golden [NAMES] [--regenerate].

A number may differ by 1e-4 of its size (more where the run says so); a number too few or too many is a failure. Whoever
changes arithmetic on purpose regenerates the files in the same commit and says why.
"""

import argparse
import fnmatch
import json
import math
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tomllib

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
# Keys of reports that say when and how fast, or only repeat the command
ASIDE = {
    "seconds", "speed", "data_time", "step_time", "per_second", "started", "finished", "time", "processes", "versions",
    "duration",
}  # fmt: skip


def leaves(content: Any, path: str = "") -> Iterator[tuple[str, float]]:
    """(path, number) of every number in JSON content; dictionaries by key, lists by position."""
    if isinstance(content, bool | int | float):
        yield path, float(content)
    elif isinstance(content, dict):
        for key in sorted(content):
            if key not in ASIDE:
                yield from leaves(content[key], f"{path}.{key}" if path else str(key))
    elif isinstance(content, list):
        for i, value in enumerate(content):
            yield from leaves(value, f"{path}.{i}")


def run_commands(commands: list[str], work: Path, out: Path) -> None:
    """Run commands of this Python in a folder; SystemExit with the output's end when one fails."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    for command in commands:
        words = [w.replace("{root}", str(ROOT)).replace("{out}", str(out)) for w in shlex.split(command)]
        done = subprocess.run([sys.executable, *words], cwd=work, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"failed with status {done.returncode}: {command}\n{(done.stdout + done.stderr)[-3000:]}")


def collect(run: dict[str, Any], out: Path) -> dict[str, float]:
    """The numbers of a finished run by file and path."""
    found: dict[str, float] = {}
    for pattern in run["files"]:
        files = sorted(out.glob(pattern))
        if not files:
            raise SystemExit(f"{run['name']}: no {pattern} was written")
        for file in files:
            for path, value in leaves(json.loads(file.read_text())):
                if any(fnmatch.fnmatch(path, wanted) for wanted in run["values"]):
                    found[f"{file.relative_to(out).as_posix()}:{path}"] = value
    if not found:
        raise SystemExit(f"{run['name']}: no number matches {run['values']}")
    return found


def kept_file(run: dict[str, Any]) -> Path:
    """Where the numbers of a run are kept."""
    return HERE / f"{run['name']}.txt"


def read_kept(path: Path) -> dict[str, float]:
    """Numbers of a kept file: a line each, the name and the number."""
    lines = [line.rpartition(" ") for line in path.read_text().splitlines() if line and not line.startswith("#")]
    return {name: float(number) for name, _, number in lines}


def write_kept(path: Path, run: dict[str, Any], found: dict[str, float]) -> None:
    """Keep the numbers of a run below its commands."""
    head = "".join(f"# python {c.replace('{root}/', '').replace('{out}', 'OUT')}\n" for c in run["commands"])
    path.write_text(head + "".join(f"{name} {value:.9g}\n" for name, value in found.items()))


def differences(found: dict[str, float], kept: dict[str, float], tolerance: float) -> list[str]:
    """What differs, in words."""
    lines = [f"missing: {name}" for name in sorted(kept.keys() - found.keys())]
    lines += [f"new: {name}" for name in sorted(found.keys() - kept.keys())]
    for name in kept:
        if name in found and not math.isclose(found[name], kept[name], rel_tol=tolerance, abs_tol=tolerance / 10):
            lines.append(f"{name}: {found[name]:.9g}, kept {kept[name]:.9g}")
    return lines


def main() -> None:
    """Run, compare or regenerate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="golden runs; default: all")
    parser.add_argument("--regenerate", action="store_true", help="write the numbers instead of comparing them")
    args = parser.parse_args()
    plan = tomllib.loads((HERE / "runs.toml").read_text())
    unknown = set(args.names) - {run["name"] for run in plan["run"]}
    if unknown:
        raise SystemExit(f"no golden run is called {sorted(unknown)}; there are {[run['name'] for run in plan['run']]}")
    runs = [run for run in plan["run"] if not args.names or run["name"] in args.names]
    start, bad = time.monotonic(), 0
    with tempfile.TemporaryDirectory(prefix="golden-") as folder:
        work = Path(folder)
        run_commands(plan["data"], work, work)
        for run in runs:
            out, begun = work / run["name"], time.monotonic()
            run_commands(run["commands"], work, out)
            found = collect(run, out)
            if args.regenerate:
                write_kept(kept_file(run), run, found)
                verdict = "kept"
            else:
                wrong = differences(found, read_kept(kept_file(run)), run.get("tolerance", 1e-4))
                bad += bool(wrong)
                verdict = "agrees" if not wrong else f"DIFFERS in {len(wrong)}: " + "; ".join(wrong[:6])
            print(f"{run['name']}: {len(found)} numbers, {time.monotonic() - begun:.0f} s, {verdict}", flush=True)
    print(f"{len(runs) - bad} passed, {bad} failed in {time.monotonic() - start:.0f} s")
    raise SystemExit(bool(bad))


if __name__ == "__main__":
    main()
