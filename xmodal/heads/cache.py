"""Key-value cache of few-shot features, and the search for its alpha and beta.

Paper: Tip-Adapter (arXiv 2207.09519). Shared by Tip-Adapter and CaFo, which differ in what they add to the logits.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from xmodal.heads.base import unit


def build_cache(features: Tensor, label: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Build the keys and values of a cache.

    Args:
        features: raw features (A, N, D) of N training images in A augmented passes, or (N, D) of one.
        label: (N,).
        num_classes: K.

    Returns:
        Keys (N, D): the mean over the passes, then L2-normalized; values (N, K): one-hot.
    """
    if features.ndim == 2:
        features = features[None]
    return unit(features.mean(0)), F.one_hot(label.long(), num_classes).to(features.dtype)


def cache_logits(affinity: Tensor, values: Tensor, beta: float | Tensor, out: Tensor | None = None) -> Tensor:
    """exp(-(beta - beta * affinity)) @ values.

    Args:
        affinity: (B, N), cosines of queries and keys.
        values: (N, K).
        beta: sharpness.
        out: room of the shape of `affinity` to work in, where there is no gradient; a search asks 200 times.

    Returns:
        (B, K).
    """
    return torch.mul(affinity, beta, out=out).sub_(beta).exp_() @ values


def search_grid(scale: Sequence[float], steps: Sequence[int]) -> tuple[list[float], list[float]]:
    """Values of beta and alpha: from 0.1 towards `scale` in `steps`; the upper end itself is never reached.

    Raises:
        ValueError: not two scales and two steps, or a step count below 1.
    """
    if len(scale) != 2 or len(steps) != 2 or min(steps) < 1:
        raise ValueError(f"scale={list(scale)}, steps={list(steps)}: give two of each, (beta, alpha), steps at least 1")
    first, second = ([i * (s - 0.1) / n + 0.1 for i in range(n)] for s, n in zip(scale, steps, strict=True))
    return first, second


@dataclass
class CacheSearch:
    """Result of a search for alpha and beta.

    Args:
        beta: of the winner.
        alpha: of the winner.
        accuracy: of the winner, percent.
        grid: accuracy (betas, alphas) of every pair, percent.
        betas: rows of the grid.
        alphas: columns of the grid.
        trace: (beta, alpha, accuracy) of every new best in the order in which a nested loop would meet it.
        seconds: how long the search took.
    """

    beta: float
    alpha: float
    accuracy: float
    grid: Tensor
    betas: list[float]
    alphas: list[float]
    trace: list[tuple[float, float, float]] = field(default_factory=list)
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Plain numbers for a result file, the grid left out."""
        return {"beta": self.beta, "alpha": self.alpha, "accuracy": self.accuracy, "trace": self.trace}


@torch.no_grad()
def search(
    base: Tensor,
    extra: Callable[[float], Tensor],
    label: Tensor,
    scale: Sequence[float],
    steps: Sequence[int] = (200, 20),
) -> CacheSearch:
    """Try all pairs of beta and alpha on `base + alpha * extra(beta)`.

    Ties go as in the released loops (beta outside, alpha inside, strictly greater wins): the first winner stays.

    Args:
        base: zero-shot logits (N, K).
        extra: from beta to the logits (N, K) that alpha scales.
        label: (N,).
        scale: (largest beta, largest alpha), exclusive.
        steps: numbers of betas and alphas.
    """
    start = time.perf_counter()
    betas, alphas = search_grid(scale, steps)
    weights = torch.tensor(alphas, dtype=base.dtype, device=base.device)[:, None, None]
    grid = torch.empty(len(betas), len(alphas))
    per = max(1, min(len(alphas), 2**24 // max(base.numel(), 1)))
    for row, beta in zip(grid, betas, strict=True):
        added = extra(beta)
        for part in range(0, len(alphas), per):
            best = torch.addcmul(base, added, weights[part : part + per]).argmax(-1)  # (alphas, N)
            row[part : part + per] = 100 * (best == label).sum(-1).cpu() / len(label)
    found = winner(grid, betas, alphas)
    found.seconds = time.perf_counter() - start
    return found


def winner(grid: Tensor, betas: list[float], alphas: list[float]) -> CacheSearch:
    """The first strictly greatest accuracy of a grid, read row by row, and the bests on the way to it."""
    flat, trace, best = grid.flatten().tolist(), [], 0.0
    beta, alpha = betas[0], alphas[0]
    for i, accuracy in enumerate(flat):
        if accuracy > best:
            best = accuracy
            beta, alpha = betas[i // len(alphas)], alphas[i % len(alphas)]
            trace.append((beta, alpha, accuracy))
    return CacheSearch(beta, alpha, best, grid, betas, alphas, trace)
