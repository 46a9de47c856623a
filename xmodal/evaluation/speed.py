"""Time the search on features that are kept against a search that runs the encoder in every trial."""

import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from xmodal.evaluation.elevater import Elevater, ImageClassifier, JobRun, elevater_grid

RATES = (1e-3, 1e-4)  # learning rate and weight decay of the trials that are timed


def search_speed(clip: Any, root: str | Path, dataset: str, shots: int = 20, trials: int = 3) -> dict[str, float]:
    """CPU seconds of the linear probe's search with kept features (extraction included) and without.

    Args:
        clip: the encoder.
        root: folder of the data sets.
        dataset: name.
        shots: images a class, -1 for all.
        trials: trials through the encoder that are timed; the search without kept features is so many times their mean
            as it has trials.

    Returns:
        `trials`, `kept_trial`, `encoder_trial` (seconds), `kept_search`, `encoder_search`, `ratio` of the searches.
    """
    settings = Elevater()
    with TemporaryDirectory() as out:
        grid = elevater_grid(clip, root, dataset, ["linear-probe"], out, settings)
        plan = grid.plan(grid.methods["linear-probe"], shots, 0)
        run = JobRun(grid.bench, plan, "linear-probe", settings)
        start = time.process_time()
        pools, head = run.pools(), run.classifier()
        fit = run.fitter(head)
        found = run.search(fit, pools)
        kept = time.process_time() - start
        one = seconds(lambda: fit(pools.search_train, pools.search_val, *RATES, settings.epochs), trials)
        slow = JobRun(grid.bench, plan, "fine-tune", settings)
        images, through = slow.pools(), slow.fitter(ImageClassifier(run.visual, [], head))
        again = seconds(lambda: through(images.search_train, images.search_val, *RATES, settings.epochs), trials)
    whole = again * len(found.trials)
    return {
        "trials": len(found.trials),
        "kept_trial": one,
        "encoder_trial": again,
        "kept_search": kept,
        "encoder_search": whole,
        "ratio": whole / kept,
    }


def seconds(work: Callable[[], object], times: int) -> float:
    """Mean CPU seconds of a piece of work, after a first run that is not counted."""
    work()
    start = time.process_time()
    for _ in range(times):
        work()
    return (time.process_time() - start) / times
