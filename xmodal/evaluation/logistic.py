"""CLIP's linear probe: logistic regression on features, its strength chosen on a validation set.

Paper: CLIP (arXiv 2103.00020), as CoOp (2109.01134) runs it: a coarse grid of C, then eight steps of halving.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

COARSE = (1e6, 1e4, 1e2, 1.0, 1e-2, 1e-4, 1e-6)


@dataclass(frozen=True)
class LogisticProbe:
    """A fitted classifier.

    Args:
        weight: (K, D).
        bias: (K,).
        strength: C, the inverse of the penalty.
        trace: (C, validation accuracy in percent) of everything tried.
    """

    weight: Tensor
    bias: Tensor
    strength: float = 1.0
    trace: tuple[tuple[float, float], ...] = ()

    def __call__(self, feature: Tensor) -> Tensor:
        """Logits (B, K) of features (B, D)."""
        return feature.to(self.weight) @ self.weight.t() + self.bias

    def accuracy(self, feature: Tensor, label: Tensor) -> float:
        """Top-1 in percent."""
        return float((self(feature).argmax(1) == label).float().mean() * 100)


def fit_logistic(
    feature: Tensor,
    label: Tensor,
    num_classes: int,
    strength: float,
    max_iter: int = 1000,
    start: LogisticProbe | None = None,
) -> LogisticProbe:
    """Minimize 0.5 |W|^2 + C * sum of cross-entropies with L-BFGS, the bias free.

    Args:
        feature: (N, D).
        label: (N,).
        num_classes: K.
        strength: C.
        max_iter: iterations at most.
        start: where to start; zeros where none is given.
    """
    y, rows = label.long(), torch.arange(len(label))
    x = torch.cat([feature.double(), torch.ones(len(label), 1, dtype=torch.float64)], 1)  # (N, D+1)
    w = torch.zeros(num_classes, x.shape[1], dtype=torch.float64)
    if start is not None:
        w = torch.cat([start.weight, start.bias[:, None]], 1).double()
    w.requires_grad_(True)
    stop: dict[str, Any] = dict(max_iter=max_iter, max_eval=2 * max_iter, tolerance_grad=1e-5, tolerance_change=1e-9)
    optimizer = torch.optim.LBFGS([w], history_size=10, line_search_fn="strong_wolfe", **stop)

    @torch.no_grad()
    def cost() -> float:
        log = (x @ w.t()).log_softmax(1)
        error = log.exp()
        error[rows, y] -= 1
        w.grad = strength * error.t() @ x
        w.grad[:, :-1] += w[:, :-1]
        return float(0.5 * (w[:, :-1] ** 2).sum() - strength * log[rows, y].sum())

    optimizer.step(cost)
    found = w.detach().float()
    return LogisticProbe(found[:, :-1], found[:, -1], strength)


def search_probe(
    train: tuple[Tensor, Tensor], val: tuple[Tensor, Tensor], num_classes: int, steps: int = 8
) -> LogisticProbe:
    """Fit with the C that is best on validation features: a coarse grid, then halvings of log10 C around its peak.

    Args:
        train: features (N, D) and labels (N,).
        val: the same of the validation set.
        num_classes: K.
        steps: halvings.
    """
    trace: list[tuple[float, float]] = []
    fitted: list[LogisticProbe] = []

    def attempt(strength: float) -> tuple[float, LogisticProbe]:
        near = min(fitted, key=lambda p: abs(math.log10(p.strength / strength)), default=None)
        fitted.append(fit_logistic(*train, num_classes, strength, start=near))
        trace.append((strength, fitted[-1].accuracy(*val)))
        return trace[-1][1], fitted[-1]

    scores = [attempt(c)[0] for c in COARSE[::-1]][::-1]  # each starts from the weaker one before it
    peak = COARSE[int(np.argmax(scores))]
    low, high = math.log10(peak) - 1, math.log10(peak) + 1
    best = attempt(10**low), attempt(10**high)
    for _ in range(steps):
        middle = (low + high) / 2
        if best[0][0] < best[1][0]:
            low, best = middle, (attempt(10**middle), best[1])
        else:
            high, best = middle, (best[0], attempt(10**middle))
    chosen = best[1][1] if best[0][0] < best[1][0] else best[0][1]
    return LogisticProbe(chosen.weight, chosen.bias, chosen.strength, tuple(trace))
