"""Training the keys of a cache, as Tip-Adapter-F and CaFo do.

Papers: Tip-Adapter (arXiv 2207.09519), CaFo (2303.02151).
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Batches = Callable[[int], Iterable[tuple[Any, Tensor]]]


@dataclass
class KeyTraining:
    """What happened while keys were trained.

    Args:
        epochs: what `watch` returned after each epoch.
        best_epoch: epoch of the first strictly greatest score, -1 when nothing was watched.
        best_score: its score.
        last: the keys after the last epoch.
    """

    epochs: list[Any] = field(default_factory=list)
    best_epoch: int = -1
    best_score: float = 0.0
    last: list[Tensor] = field(default_factory=list)


def fit_keys(
    head: nn.Module,
    keys: Sequence[nn.Parameter],
    batches: Batches,
    epochs: int = 20,
    lr: float = 1e-3,
    eps: float = 1e-4,
    weight_decay: float = 0.01,
    period: int | None = None,
    score: Callable[[], float] | None = None,
    watch: Callable[[], Any] | None = None,
) -> KeyTraining:
    """Train the keys of a cache: AdamW, a cosine per step, cross-entropy.

    Args:
        head: maps what `batches` yields to logits.
        keys: what trains.
        batches: from an epoch's number to its (features, labels).
        epochs: passes.
        lr: base rate.
        eps: of AdamW.
        weight_decay: of AdamW.
        period: steps of the cosine; default all steps, so that the rate ends at 0.
        score: called after every epoch; the keys of the first strictly greatest one are kept. None keeps the last.
        watch: called after every epoch; what it returns is recorded.
    """
    for parameter in keys:
        parameter.requires_grad_(True)
    optimizer = torch.optim.AdamW(keys, lr=lr, eps=eps, weight_decay=weight_decay)
    steps = period or epochs * sum(1 for _ in batches(0))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    done, best = KeyTraining(), None
    for epoch in range(epochs):
        for feature, label in batches(epoch):
            optimizer.zero_grad()
            F.cross_entropy(head(feature), label).backward()
            optimizer.step()
            schedule.step()
        with torch.no_grad():
            if watch is not None:
                done.epochs.append(watch())
            value = score() if score is not None else None
        if value is not None and (value > done.best_score or best is None):
            done.best_score, done.best_epoch, best = value, epoch, [k.detach().clone() for k in keys]
    done.last = [k.detach().clone() for k in keys]
    with torch.no_grad():
        for parameter, kept in zip(keys, best or done.last, strict=True):
            parameter.copy_(kept)
            parameter.requires_grad_(False)
    return done
