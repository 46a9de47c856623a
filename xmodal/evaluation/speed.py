"""Time the search on features that are kept against a search that runs the encoder in every trial."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from xmodal.evaluation.elevater import Elevater, Job, JobRun
from xmodal.evaluation.subject import ImageClassifier, Subject

RATES = (1e-3, 1e-4)  # learning rate and weight decay of the trials that are timed


def search_speed(
    subject: Subject, root: str | Path, dataset: str, shots: int | None = 20, trials: int = 3
) -> dict[str, float]:
    """CPU seconds of the linear probe's search with kept features (extraction included) and without.

    Args:
        subject: the encoder.
        root: folder of the data sets.
        dataset: name.
        shots: images a class.
        trials: trials through the encoder that are timed; the search without kept features is so many times their mean
            as it has trials.

    Returns:
        `trials`, `kept_trial`, `encoder_trial` (seconds), `kept_search`, `encoder_search`, `ratio` of the searches.
    """
    settings, job = Elevater(), Job(dataset, "linear-probe", shots)
    with TemporaryDirectory() as out:
        run = JobRun(subject, job, root, out, settings)
        start = time.process_time()
        pools, head = run.pools(), run.classifier()
        fit = run.fitter(head)
        found = run.search(fit, pools)
        kept = time.process_time() - start
        one = seconds(lambda: fit(pools.search_train, pools.search_val, *RATES, settings.epochs), trials)
        slow = JobRun(subject, replace(job, method="fine-tune"), root, out, settings)
        images, through = slow.pools(), slow.fitter(ImageClassifier(subject.visual, [], head))
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
