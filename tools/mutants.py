"""Put known faults into a copy of the sources, one at a time, and say which of them the tests do not notice.

The faults stand in tests/mutants.toml. Each entry gives a file, the text `old` that must occur exactly once in it, the
text `new` that replaces it, and the tests that must fail with it:

    [[mutant]]
    name = "lora: scaled by alpha instead of alpha / rank"
    file = "xmodal/adapters/lora.py"
    old = "alpha / rank"
    new = "alpha"
    tests = ["tests/xmodal/adapters/test_formulas.py"]
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PRELOADED = ["pytest", "torch", "torchvision", "timm", "open_clip", "mmengine.runner", "scipy.spatial", "cv2"]


@dataclass(frozen=True)
class Mutant:
    """One fault: a unique text of a file, what replaces it, and the tests that must notice."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    def apply(self, tree: Path) -> None:
        """Write the fault into a tree; ValueError if the text does not occur exactly once."""
        path = tree / self.file
        text = path.read_text()
        if text.count(self.old) != 1:
            raise ValueError(f"{self.name}: {self.old!r} occurs {text.count(self.old)} times in {self.file}, not once")
        path.write_text(text.replace(self.old, self.new))


def read_mutants(path: Path) -> list[Mutant]:
    """The entries of a list; ValueError on a missing or unknown key, or a name used twice."""
    try:
        import tomllib
    except ModuleNotFoundError:
        raise SystemExit("tools/mutants.py needs Python 3.11 or later, for tomllib") from None
    entries = tomllib.loads(path.read_text()).get("mutant", [])
    mutants = []
    for entry in entries:
        keys = {"name", "file", "old", "new", "tests"}
        if set(entry) != keys:
            raise ValueError(f"{path}: entry {entry.get('name', entry)!r} must have exactly the keys {sorted(keys)}")
        mutants.append(Mutant(**{**entry, "tests": tuple(entry["tests"])}))
    names = [m.name for m in mutants]
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise ValueError(f"{path}: names used twice: {twice}")
    return mutants


def copy_tree(target: Path) -> None:
    """Copy what git knows and what it does not ignore."""
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(listing, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0"):
        if name and (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)


def _pytest(tree: str, tests: tuple[str, ...], log: str) -> None:
    """Run tests in a tree; the exit status is pytest's. Called in a fresh process."""
    os.chdir(tree)
    os.environ["PYTHONPATH"] = tree
    sys.path.insert(0, tree)
    sys.dont_write_bytecode = True
    with open(log, "w") as out:
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)
        import pytest

        status = pytest.main(["-x", "-q", "-p", "no:cacheprovider", "--no-header", *tests])
        sys.stdout.flush()
        os._exit(int(status))


def run_tests(tree: Path, tests: tuple[str, ...], limit: float) -> tuple[int | None, str]:
    """(exit status, output) of pytest on a tree; None where it ran past the limit in seconds."""
    with tempfile.NamedTemporaryFile("r", suffix=".log") as log:
        process = get_context("forkserver").Process(target=_pytest, args=(str(tree), tests, log.name))
        process.start()
        process.join(limit)
        if process.is_alive():
            process.kill()
            process.join()
            return None, log.read()
        return process.exitcode, log.read()


def judge(mutant: Mutant, limit: float) -> str:
    """`noticed`, `SURVIVED`, or why it could not be tried."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        tree = Path(folder)
        copy_tree(tree)
        try:
            mutant.apply(tree)
        except (ValueError, OSError) as error:
            return f"CANNOT BE APPLIED: {error}"
        status, output = run_tests(tree, mutant.tests, limit)
    if status == 0:
        return "SURVIVED"
    if status in (None, 1):
        return "noticed" if status else f"noticed (ran past {limit:.0f} s)"
    return f"BROKEN TEST RUN (pytest's exit status {status}):\n{output[-2000:]}"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("list", nargs="?", type=Path, default=ROOT / "tests" / "mutants.toml", help="the list of faults")
    p.add_argument("--only", metavar="TEXT", help="only faults whose name or file contains this text")
    p.add_argument("--jobs", type=int, default=2, help="faults tried at the same time (default 2)")
    p.add_argument("--limit", type=float, default=300, help="seconds for the tests of one fault (default 300)")
    p.add_argument("--no-baseline", action="store_true", help="do not first check that the tests pass without a fault")
    return p


def main() -> None:
    """Try every fault; exit with 1 when one is not noticed or cannot be tried."""
    args = parser().parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    get_context("forkserver").set_forkserver_preload(PRELOADED)
    mutants = read_mutants(args.list)
    mutants = [m for m in mutants if not args.only or args.only in m.name or args.only in m.file]
    if not mutants:
        raise SystemExit(f"no fault in {args.list} has {args.only!r} in its name or file")
    start = time.monotonic()
    if not args.no_baseline:
        tests = tuple(sorted({t for m in mutants for t in m.tests}))
        status, output = run_tests(ROOT, tests, args.limit * len(mutants))
        if status != 0:
            raise SystemExit(f"{output[-3000:]}\nthese tests fail without any fault: mend them first")
    with ThreadPoolExecutor(args.jobs) as pool:
        verdicts = []
        for mutant, verdict in zip(mutants, pool.map(lambda m: judge(m, args.limit), mutants), strict=True):
            verdicts.append(verdict)
            print(f"{verdict:<10} {mutant.file}: {mutant.name}", flush=True)
    bad = sum(not v.startswith("noticed") for v in verdicts)
    print(f"{len(mutants)} faults, {len(mutants) - bad} noticed, {bad} not, in {time.monotonic() - start:.0f} s")
    raise SystemExit(bool(bad))


if __name__ == "__main__":
    main()
