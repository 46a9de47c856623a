"""Print what a training step of every config makes the host wait for: `python -m tests.device [WORD ...]`."""

import argparse
import time
import warnings
from pathlib import Path

import torch

from tests.device.limits import family_of
from tests.device.survey import survey
from tests.test_configs import CONFIGS


def main(given: list[str] | None = None) -> None:
    """Print a table of the configs whose path has one of the words."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("words", nargs="*", help="parts of the paths of configs; none for all")
    parser.add_argument("--places", action="store_true", help="list the lines of code that wait")
    args = parser.parse_args(given)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    print("| config | family | waits | uploads | CPU s |\n|---|---|---|---|---|")
    for path in CONFIGS:
        if not args.words or any(word in str(path) for word in args.words):
            row(path, args.places)


def row(path: Path, places: bool) -> None:
    """Print the rows of a config, one for each method of a few-shot config."""
    start = time.process_time()
    found = survey(path)
    for name, step in found.items():
        seconds = (time.process_time() - start) / len(found)
        where = f"{path.parent.name}/{path.stem}" + (f": {name}" if name else "")
        print(
            f"| {where} | {family_of(path)} | {step.waits.total()} | {step.uploads.total()} | {seconds:.1f} |",
            flush=True,
        )
        for place, count in (step.waits + step.uploads).most_common() if places else ():
            print(f"    {count} x {place}")


if __name__ == "__main__":
    main()
