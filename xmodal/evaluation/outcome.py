"""What a run of a few-shot method answers, and small things that all runs use."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from xmodal.evaluation.bench import Bench
from xmodal.evaluation.plans import Part, Plan
from xmodal.evaluation.schedule import learning_rates

COOP_EPOCHS = {1: 50, 2: 100, 4: 100, 8: 200, 16: 200}


@dataclass
class Outcome:
    """One run.

    Args:
        scores: top-1 in percent by test set.
        selected_on: the set that chose among results: `none (last step)`, `val`, or `test`, which is optimistic.
        trained: weights that trained.
        details: what the method found (alpha, beta, C, traces).
        head: the trained head, where there is one.
    """

    scores: dict[str, float]
    selected_on: str = "none (last step)"
    trained: int = 0
    details: dict[str, Any] = field(default_factory=dict)
    head: nn.Module | None = None


def epochs_for(shots: int, epochs: int | dict[int, int]) -> int:
    """Epochs of a run: a number, or a table by shots of which the nearest smaller entry counts."""
    if isinstance(epochs, int):
        return epochs
    table = {int(k): v for k, v in epochs.items()}
    fitting = [k for k in table if k <= shots]
    return table[max(fitting)] if fitting else table[min(table)]


def minibatches(count: int, size: int, seed: Sequence[int], drop_last: bool = True) -> Iterator[Tensor]:
    """Shuffled indices of one epoch; the incomplete batch is dropped where there is a complete one."""
    order = torch.from_numpy(np.random.default_rng([s % 2**32 for s in seed]).permutation(count))
    size = min(size, count)
    stop = count - count % size if drop_last else count
    return iter(order[:stop].split(size))


@torch.no_grad()
def accuracy(scores: Callable[[Tensor], Tensor], feature: Tensor, label: Sequence[int], batch: int = 256) -> float:
    """Top-1 in percent of `scores` on features (N, D)."""
    target = torch.tensor(label, device=feature.device)
    hits = sum(
        int((scores(f).argmax(1) == y).sum()) for f, y in zip(feature.split(batch), target.split(batch), strict=True)
    )
    return 100 * hits / max(len(target), 1)


def only_part(plan: Plan, parts: Sequence[Part], what: str) -> Part:
    """The only part of a plan.

    Raises:
        ValueError: none, or several (domains, tasks).
    """
    if len(parts) != 1 or not parts[0].indices:
        raise ValueError(
            f"{plan.protocol} with {plan.shots} shots gives {len(parts)} {what} sets; this method needs one"
        )
    return parts[0]


def labels_of(part: Part, bench: Bench) -> Tensor:
    """Labels (N,) on the bench's device."""
    return torch.tensor(part.labels, device=bench.device)


def dassl_optimizer(
    parameters: Sequence[nn.Parameter],
    lr: float,
    epochs: int,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    **warmup: Any,
) -> tuple[torch.optim.Optimizer, list[float]]:
    """SGD as Dassl sets it up, and the rate of every epoch."""
    optimizer = torch.optim.SGD(parameters, lr=lr, momentum=momentum, weight_decay=weight_decay)
    return optimizer, learning_rates(lr, epochs, **warmup)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the rate of all groups."""
    for group in optimizer.param_groups:
        group["lr"] = rate
