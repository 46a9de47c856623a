"""The benchmark's automatic search of learning rate and weight decay, trial by trial as its toolkit runs it.

Paper: ELEVATER (arXiv 2204.08790).
"""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

LEARNING_RATES = tuple(float(v) for v in np.logspace(-6, -1, 6))
WEIGHT_DECAYS = tuple(float(v) for v in np.logspace(-6, 6, 97))


@dataclass(frozen=True)
class RateSpace:
    """Describe the rates and decays that are searched.

    Args:
        learning_rates: tried in this order.
        weight_decays: the grid.
        initial: indices of the grid tried first, for every learning rate.
        spans: distances of the two neighbors of the peak that are tried next.
        left_only: run both neighbors with the weight decay of the left one, as the first release of the toolkit did.
    """

    learning_rates: tuple[float, ...] = LEARNING_RATES
    weight_decays: tuple[float, ...] = WEIGHT_DECAYS
    initial: tuple[int, ...] = tuple(range(0, 97, 16))
    spans: tuple[int, ...] = (8, 4, 2, 1)
    left_only: bool = False


@dataclass
class Trial:
    """One training run of the search.

    Args:
        learning_rate: it ran with.
        weight_decay: it ran with.
        index: of the grid, under which the score counts.
        score: in percent, None when the run failed.
        seconds: it took.
        error: why it failed.
    """

    learning_rate: float
    weight_decay: float
    index: int
    score: float | None = None
    seconds: float = 0.0
    error: str = ""


@dataclass
class SearchResult:
    """The outcome: the pair chosen ((0, 0) when no run scored above 0), its score, and every trial in order."""

    learning_rate: float = 0.0
    weight_decay: float = 0.0
    score: float = 0.0
    trials: list[Trial] = field(default_factory=list)


class Trace:
    """Trials on disk, one JSON line each: a search that was interrupted runs only what is missing.

    Args:
        path: the file, None to keep nothing.
    """

    def __init__(self, path: str | Path | None = None):
        self.path = Path(path) if path else None
        self.known: list[Trial] = []
        if self.path and self.path.exists():
            self.known = list(read_trials(self.path))
        self.position = 0

    def replay(self, trial: Trial) -> Trial | None:
        """The finished trial at this position of the search, None when it has to run.

        Raises:
            ValueError: another trial was run at this position: the file belongs to another search.
        """
        if self.position >= len(self.known):
            return None
        known = self.known[self.position]
        if (known.learning_rate, known.weight_decay, known.index) != (
            trial.learning_rate,
            trial.weight_decay,
            trial.index,
        ):
            raise ValueError(
                f"{self.path}: trial {self.position} ran with lr {known.learning_rate:g}, wd {known.weight_decay:g}, "
                f"and this search wants lr {trial.learning_rate:g}, wd {trial.weight_decay:g}: "
                "delete the file to search anew"
            )
        self.position += 1
        return known

    def add(self, trial: Trial) -> None:
        """Write a trial down."""
        self.known.append(trial)
        self.position += 1
        if self.path:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a") as file:
                file.write(json.dumps(asdict(trial)) + "\n")


def read_trials(path: Path) -> Iterator[Trial]:
    """Trials of a file; a line cut off by a crash is dropped, from the file too."""
    lines = path.read_text().splitlines(keepends=True)
    for n, line in enumerate(lines):
        try:
            trial = Trial(**json.loads(line)) if line.endswith("\n") else None
        except (json.JSONDecodeError, TypeError):
            trial = None
        if trial is None:
            path.write_text("".join(lines[:n]))
            return
        yield trial


def hyperparameter_search(
    run: Callable[[float, float], float], space: RateSpace | None = None, trace: str | Path | None = None
) -> SearchResult:
    """Search learning rate and weight decay, at most 15 runs a learning rate.

    Ties keep what was tried first; a side is skipped when it is the peak at the start of its span; nothing is
    remembered between trials, so that an index may run twice. A run that raises counts as no result.

    Args:
        run: (learning rate, weight decay) to a score in percent; higher is better, 0 is no better than nothing.
        space: what is searched.
        trace: file of finished trials, for resuming.

    Raises:
        RuntimeError: every single run failed; the message is that of the last.
    """
    space, log, result = space or RateSpace(), Trace(trace), SearchResult()
    for rate in space.learning_rates:
        index, score = search_weight_decay(run, rate, space, log, result.trials)
        if score > result.score:
            result.learning_rate, result.weight_decay, result.score = rate, space.weight_decays[index], score
    if all(t.score is None for t in result.trials):
        raise RuntimeError(f"all {len(result.trials)} runs of the search failed; the last: {result.trials[-1].error}")
    return result


def search_weight_decay(
    run: Callable[[float, float], float], rate: float, space: RateSpace, log: Trace, trials: list[Trial]
) -> tuple[int, float]:
    """Search the grid at one learning rate: index of the peak (-1 for none) and its score."""
    peak, best = -1, 0.0

    def attempt(index: int, decay: float) -> None:
        nonlocal peak, best
        trial = run_trial(run, Trial(rate, decay, index), log)
        trials.append(trial)
        if trial.score is not None and trial.score > best:
            peak, best = index, trial.score

    for index in space.initial:
        attempt(index, space.weight_decays[index])
    for span in space.spans:
        start = peak
        left, right = max(start - span, 0), min(start + span, len(space.weight_decays) - 1)
        for index in (left, right):
            if index != start:
                attempt(index, space.weight_decays[left if space.left_only else index])
    return peak, best


def run_trial(run: Callable[[float, float], float], trial: Trial, log: Trace) -> Trial:
    """Run one trial, or take it from the log."""
    if (known := log.replay(trial)) is not None:
        return known
    start = time.perf_counter()
    try:
        trial.score = float(run(trial.learning_rate, trial.weight_decay))
        if np.isnan(trial.score):
            trial.score, trial.error = None, "the score is not a number"
    except Exception as error:
        trial.error = f"{type(error).__name__}: {error}"
    trial.seconds = time.perf_counter() - start
    log.add(trial)
    return trial
