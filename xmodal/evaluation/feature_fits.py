"""Train LP++ and ProLIP on cached features, as their papers do."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from xmodal.evaluation.fit import cosine_rates, fit
from xmodal.heads.base import unit
from xmodal.heads.lp_plus_plus import LPPlusPlusHead
from xmodal.heads.prolip import ProLIPHead

LR_GRID = tuple(10.0**-i for i in range(2, 9))
LAMBDA_GRID = (10.0, 1.0, 0.1, 0.01, 0.001, 0.0001, 0.0)


def lipschitz_steps(feature: Tensor, text_features: Tensor) -> tuple[float, float]:
    """Steps of W and of alpha on features (N, D) and unit text weights (K, D)."""
    f = unit(feature).double()
    largest = torch.linalg.eigvalsh(f.T @ f)[-1]
    similar = (f @ text_features.double().T).square().sum(0).max()
    return float(4 * len(f) / largest), float(len(f) / (4 * similar))


@dataclass
class LPTraining:
    """What happened in training: losses, alphas in the forward pass, scores, and the epoch that was kept."""

    losses: list[float] = field(default_factory=list)
    alphas: list[Tensor] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    best: int = -1
    kept: dict[str, Tensor] = field(default_factory=dict)
    last: dict[str, Tensor] = field(default_factory=dict)


def fit_lp(
    head: LPPlusPlusHead,
    feature: Tensor,
    label: Tensor,
    score: Callable[[], float] | None = None,
    epochs: int = 300,
    momentum: float = 0.9,
    every: int = 10,
    clear_alpha: bool = False,
) -> LPTraining:
    """Train on all shots at once; the weights of the last epoch with the best score are kept in the head.

    Args:
        head: at its start.
        feature: (N, D).
        label: (N,).
        score: called after every epoch; of equal ones the later wins. None keeps the last epoch.
        epochs: steps of W and b.
        momentum: of these.
        every: epochs from one step of alpha to the next.
        clear_alpha: use the gradient of the epoch alone for alpha; the release sums all since the start.
    """
    done, (rate, alpha_rate) = LPTraining(), lipschitz_steps(feature, head.text_features)
    optimizer = torch.optim.SGD([head.weight, head.bias], rate, momentum=momentum)

    def loss(batch: Any) -> Tensor:
        head.alpha.grad = None if clear_alpha else head.alpha.grad
        done.alphas.append(head.alpha.detach().clone())
        value = F.cross_entropy(head(feature), label)
        done.losses.append(float(value.detach()))
        return value

    def move_alpha() -> None:
        if len(done.losses) % every == 0:
            with torch.no_grad():
                assert head.alpha.grad is not None
                head.alpha.sub_(head.alpha.grad, alpha=alpha_rate)

    def after(epoch: int) -> None:
        done.scores += [] if score is None else [score()]
        if score is None or done.scores[-1] >= max(done.scores):
            done.best, done.kept = epoch, {k: v.clone() for k, v in head.state_dict().items()}

    fit(epochs, lambda epoch: [None], loss, [optimizer], each_step=move_alpha, each_epoch=after)
    head.alpha.grad = None
    done.last = {k: v.clone() for k, v in head.state_dict().items()}
    head.load_state_dict(done.kept)
    return done


def fit_prolip(
    head: ProLIPHead,
    views: Tensor,
    label: Tensor,
    lr: float = 1e-5,
    weight: float = 1.0,
    epochs: int = 300,
    eps: float = 1e-4,
) -> list[tuple[float, float]]:
    """Train from the start on stored views; returns (cross-entropy, distance) before every step.

    Args:
        head: its projection is put back to the start first.
        views: features (A, N, V) of A augmented views.
        label: (N,).
        lr: base rate.
        weight: lambda.
        epochs: steps.
        eps: of Adam.
    """
    head.weight.data.copy_(head.start)
    optimizer = torch.optim.Adam([head.weight], lr=lr, eps=eps)
    seen: list[tuple[float, float]] = []

    def loss(view: Tensor) -> Tensor:
        value, distance = F.cross_entropy(head(view), label), head.distance()
        seen.append((float(value.detach()), float(distance.detach())))
        return value + weight * distance

    batches = lambda epoch: [views[(epoch + 1) % len(views)]]  # noqa: E731
    fit(epochs, batches, loss, [optimizer], [cosine_rates(lr, epochs)])
    return seen


def search_prolip(
    head: ProLIPHead,
    views: Tensor,
    label: Tensor,
    val: tuple[Tensor, Tensor],
    rates: Sequence[float] = LR_GRID,
    weights: Sequence[float] = LAMBDA_GRID,
    epochs: int = 300,
    eps: float = 1e-4,
) -> tuple[list[list[float]], float, float, Any]:
    """Train at every pair of rate and lambda; the first strictly best on `val` trains again.

    Returns:
        Accuracies in percent (rates, weights), the chosen rate and lambda, and what `fit_prolip` gave for them.
    """
    grid: list[list[float]] = []
    best, chosen = -1.0, (rates[0], weights[0])
    for lr in rates:
        grid.append([])
        for weight in weights:
            fit_prolip(head, views, label, lr, weight, epochs, eps)
            with torch.no_grad():
                grid[-1].append(100 * float((head(val[0]).argmax(1) == val[1]).float().mean()))
            if grid[-1][-1] > best:
                best, chosen = grid[-1][-1], (lr, weight)
    return grid, *chosen, fit_prolip(head, views, label, *chosen, epochs, eps)
