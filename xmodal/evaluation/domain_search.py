"""Draw DPLCLIP's hyperparameters as DomainBed does, and choose among the draws on the training domains.

Papers: DomainBed (arXiv 2007.01434), DPLCLIP (2111.12853). Draw 0 has the defaults; the others draw each value from a
stream of its own, seeded by the draw, the trial and the value's name. The names in DPLCLIP's code were not read, so the
draws follow its ranges and not its numbers.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from xmodal.evaluation.bench import Bench
from xmodal.evaluation.image_runs import DomainRun
from xmodal.evaluation.plans import Outcome, Plan
from xmodal.evaluation.sampling import seed_hash

Draw = Callable[[np.random.RandomState], Any]
HEAD_SPACE: dict[str, Draw] = {
    "n_ctx": lambda r: int(r.choice([2, 4, 8, 16])),
    "width": lambda r: int(r.choice([256, 512])),
    "dropout": lambda r: float(r.choice([0.0, 0.1])),
}
RUN_SPACE: dict[str, Draw] = {
    "lr": lambda r: float(10 ** r.uniform(-4.5, -2.5)),
    "momentum": lambda r: float(r.choice([0.0, 0.1, 0.2])),
    "batch_size": lambda r: int(2 ** r.uniform(3, 5.5)),
}


def drawn(space: Mapping[str, Draw], draw: int, trial: int) -> dict[str, Any]:
    """The values of a draw; none for draw 0, which keeps the defaults."""
    if draw == 0:
        return {}
    seed = seed_hash(draw, trial)
    return {name: sample(np.random.RandomState(seed_hash(seed, name))) for name, sample in space.items()}


@dataclass
class DomainSearchRun(DomainRun):
    """`DomainRun` with several draws of hyperparameters; further arguments are the defaults, which are draw 0.

    Args:
        draws: number of draws, 20 in DomainBed.
        rate_factor: factor on drawn rates, for towers whose scale is not CLIP's.

    Raises:
        ValueError: no draw.
    """

    draws: int = 20
    rate_factor: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.draws < 1:
            raise ValueError(f"draws={self.draws}: at least 1, the defaults")

    def __call__(self, bench: Bench, plan: Plan) -> Outcome:
        """Run every draw; the one with the best validation accuracy on the training domains is reported."""
        own = {f.name: getattr(self, f.name) for f in fields(DomainRun)}
        tried: list[tuple[float, Outcome, dict[str, Any]]] = []
        for draw in range(self.draws):
            head, run = (drawn(space, draw, plan.seed) for space in (HEAD_SPACE, RUN_SPACE))
            if "lr" in run:
                run["lr"] *= self.rate_factor
            outcome = DomainRun(**{**own, **run, "head": {**self.head, **head}})(bench, plan)
            tried.append((max(outcome.details["val"]), outcome, {**head, **run}))
        val, best, values = max(tried, key=lambda t: t[0])
        (name,) = best.scores
        each = [{"val": round(v, 4), "test": round(o.scores[name], 4), **h} for v, o, h in tried]
        best.details |= {
            "draws": each,
            "chosen": values,
            "best_on_test": max(e["test"] for e in each),
            "val_chosen": val,
        }
        return best
