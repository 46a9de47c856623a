"""The training loop of every small head: key caches, prompts, probes and domains are settings of `fit`.

Papers: CoOp (arXiv 2109.01134) for the rates, Tip-Adapter (2207.09519) and CaFo (2303.02151) for the keys.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

WARMUPS = ("constant", "linear")
COOP_EPOCHS = {1: 50, 2: 100, 4: 100, 8: 200, 16: 200}


def fit(
    epochs: int,
    batches: Callable[[int], Iterable[Any]],
    loss: Callable[[Any], Tensor],
    optimizers: Sequence[torch.optim.Optimizer],
    rates: Sequence[Sequence[float]] = (),
    each_step: Callable[[], Any] = lambda: None,
    each_epoch: Callable[[int], Any] = lambda epoch: None,
) -> list[float]:
    """Train; the caller sets train and evaluation mode.

    Args:
        epochs: passes.
        batches: from an epoch's number to its batches.
        loss: of a batch.
        optimizers: step together.
        rates: learning rate of every epoch, one list an optimizer; none leaves the rates alone.
        each_step: called after every step, such as a scheduler's `step`.
        each_epoch: called with the epoch after it, without gradients; evaluates and keeps.

    Returns:
        The mean loss of every epoch.
    """
    means = []
    for epoch in range(epochs):
        for optimizer, own in zip(optimizers, rates, strict=False):
            for group in optimizer.param_groups:
                group["lr"] = own[epoch]
        seen: list[Tensor] = []
        for batch in batches(epoch):
            value = loss(batch)
            for optimizer in optimizers:
                optimizer.zero_grad()
            value.backward()
            for optimizer in optimizers:
                optimizer.step()
            each_step()
            seen.append(value.detach())
        losses = torch.stack(seen).tolist()  # a GPU is waited for once an epoch
        means.append(round(sum(losses) / len(losses), 5))
        with torch.no_grad():
            each_epoch(epoch)
    return means


@dataclass
class BestSoFar:
    """Keep the first strictly greatest score of a run, and what belonged to it.

    Args:
        score: the greatest.
        kept: what was offered with it.
        at: its number among the offers, -1 before any.
        seen: all scores.
    """

    score: float = float("-inf")
    kept: Any = None
    at: int = -1
    seen: list[float] = field(default_factory=list)

    def offer(self, score: float, kept: Any) -> bool:
        """Note a score; True when it is the best so far."""
        self.seen.append(score)
        if score <= self.score:
            return False
        self.score, self.kept, self.at = score, kept, len(self.seen) - 1
        return True


@dataclass
class KeyTraining(BestSoFar):
    """Record how keys were trained: the epoch that was kept (`at`), what `watch` returned, the keys at the end."""

    watched: list[Any] = field(default_factory=list)
    last: list[Tensor] = field(default_factory=list)


def fit_keys(
    head: nn.Module,
    keys: Sequence[nn.Parameter],
    batches: Callable[[int], Iterable[tuple[Any, Tensor]]],
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
    done, copies = KeyTraining(), lambda: [k.detach().clone() for k in keys]
    for parameter in keys:
        parameter.requires_grad_(True)
    optimizer = torch.optim.AdamW(keys, lr=lr, eps=eps, weight_decay=weight_decay)
    steps = period or epochs * sum(1 for _ in batches(0))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)

    def after(epoch: int) -> None:
        if watch is not None:
            done.watched.append(watch())
        if score is not None:
            done.offer(score(), copies())

    loss = lambda batch: F.cross_entropy(head(batch[0]), batch[1])  # noqa: E731
    fit(epochs, batches, loss, [optimizer], each_step=schedule.step, each_epoch=after)
    done.last = copies()
    with torch.no_grad():
        for parameter, kept in zip(keys, done.kept or done.last, strict=True):
            parameter.copy_(kept)
            parameter.requires_grad_(False)
    return done


def learning_rates(
    lr: float,
    epochs: int,
    warmup_epochs: int = 1,
    warmup_type: str = "constant",
    warmup_lr: float = 1e-5,
    cosine_epochs: int | None = None,
    recount: bool = True,
) -> list[float]:
    """Learning rates of all epochs in the CoOp family: a warm-up, then a cosine that starts from its own epoch 0.

    Because the cosine starts when the warm-up ends and is as long as the whole run, the last epochs never reach 0.

    Args:
        lr: the base rate.
        epochs: epochs in all.
        warmup_epochs: epochs of warm-up.
        warmup_type: `constant` holds `warmup_lr`; `linear` uses lr * epoch / warmup_epochs, and `warmup_lr` in epoch 0.
        warmup_lr: rate of the warm-up.
        cosine_epochs: half a period of the cosine, default `epochs`.
        recount: False lets the cosine count the warm-up's epochs too.

    Raises:
        ValueError: an unknown `warmup_type`.
    """
    if warmup_type not in WARMUPS:
        raise ValueError(f"warmup_type {warmup_type!r}: choose one of {', '.join(WARMUPS)}")
    period = cosine_epochs or epochs
    start = warmup_epochs if recount else 0

    def rate(epoch: int) -> float:
        if epoch >= warmup_epochs:
            return lr * (1 + math.cos(math.pi * (epoch - start) / period)) / 2
        return warmup_lr if warmup_type == "constant" or epoch == 0 else lr * epoch / warmup_epochs

    return [rate(epoch) for epoch in range(epochs)]


def cosine_rates(lr: float, steps: int, final: float = 0.0) -> list[float]:
    """Rates of half a cosine: final + (lr - final) * (1 + cos(pi k / steps)) / 2 for k = 0, ..., steps - 1."""
    return [final + (lr - final) * (1 + math.cos(math.pi * k / steps)) / 2 for k in range(steps)]


def dassl_optimizer(
    parameters: Sequence[nn.Parameter], lr: float, epochs: int, **warmup: Any
) -> tuple[torch.optim.Optimizer, list[float]]:
    """SGD as Dassl sets it up, and the rate of every epoch."""
    optimizer = torch.optim.SGD(parameters, lr=lr, momentum=0.9, weight_decay=5e-4)
    return optimizer, learning_rates(lr, epochs, **warmup)


def epochs_for(shots: int, epochs: int | dict[int, int]) -> int:
    """Epochs of a run: a number, or a table by shots of which the nearest smaller entry counts."""
    if isinstance(epochs, int):
        return epochs
    table = {int(k): v for k, v in epochs.items()}
    fitting = [k for k in table if k <= shots]
    return table[max(fitting)] if fitting else table[min(table)]


def minibatches(
    count: int, size: int, seed: Sequence[int], drop_last: bool = True, device: torch.device | str = "cpu"
) -> Iterator[Tensor]:
    """Shuffled indices of one epoch; the incomplete batch is dropped where there is a complete one.

    Args:
        count: of the samples.
        size: of a batch.
        seed: of the order.
        drop_last: leave an incomplete last batch out.
        device: of what they index, so that they are copied once.
    """
    order = torch.from_numpy(np.random.default_rng([s % 2**32 for s in seed]).permutation(count)).to(device)
    size = min(size, count)
    stop = count - count % size if drop_last else count
    return iter(order[:stop].split(size))
