"""Rebuild parity cases out of the product's modules and compare: `python -m tests.parity [CASE.json ...]`.

Without arguments, all cases under `tests/parity/cases/`. Exit status 1 when any case fails.
"""

import argparse
import importlib
import pkgutil
import sys
import traceback
from pathlib import Path

import tests.parity as here
from tests.parity.core import Case, Result, compare, find_builder

CASES = Path(__file__).parent / "cases"


def load_builders() -> list[str]:
    """Import every module of this package, so that its builders register; return what went wrong."""
    problems = []
    for info in pkgutil.iter_modules(here.__path__):
        if not info.name.startswith(("_", "test_")):
            try:
                importlib.import_module(f"tests.parity.{info.name}")
            except ImportError as error:
                problems.append(f"tests/parity/{info.name}.py does not import: {error}")
    return problems


def run_case(path: str | Path) -> Result:
    """Rebuild and compare one case; whatever goes wrong is a failure of that case."""
    problems = load_builders()
    try:
        case = Case.load(path)
        build = find_builder(case.json.get("system", ""))
        if build is None:
            return Result(case.name, problems=[f"no builder for system {case.json.get('system')!r}", *problems])
        return compare(case, build(case))
    except Exception as error:
        lines = traceback.format_exc(limit=-3).strip().splitlines()
        return Result(Path(path).stem, problems=[f"{type(error).__name__}: {error}", *lines[-7:]])


def main(argv: list[str] | None = None) -> int:
    """Run cases, print a line each."""
    parser = argparse.ArgumentParser(prog="python -m tests.parity", description=__doc__)
    parser.add_argument("cases", nargs="*", help="case files; default: all that ship with the project")
    paths = parser.parse_args(argv).cases or sorted(CASES.glob("*.json"))
    results = []
    for path in paths:
        results.append(run_case(path))
        print(results[-1].line(), flush=True)
    failed = sum(not r.passed for r in results)
    print(f"{len(results) - failed} of {len(results)} cases pass")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
