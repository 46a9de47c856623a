"""LARS: SGD with momentum whose step on each matrix is scaled by the norm of its weights over that of its gradient.

Paper: Large Batch Training of Convolutional Networks (arXiv 1708.03888). For tensors of more than one dimension
    g = (grad + wd * p) * (trust * |p| / |grad + wd * p|), the factor being 1 where a norm is 0;
vectors take plain gradients without decay. mu = momentum * mu + g; p = p - lr * mu.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class LARS(Optimizer):
    """Layer-wise adaptive rates, as MAE's linear probing and Efficient Probing use them.

    Args:
        params: weights or groups of them.
        lr: rate.
        weight_decay: of tensors of more than one dimension.
        momentum: factor on the running sum.
        trust: trust coefficient.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.1,
        weight_decay: float = 0.0,
        momentum: float = 0.9,
        trust: float = 0.001,
    ):
        super().__init__(params, dict(lr=lr, weight_decay=weight_decay, momentum=momentum, trust=trust))

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Make one step."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                update = scaled(p, p.grad, group["weight_decay"], group["trust"]) if p.ndim > 1 else p.grad
                state = self.state[p]
                state["mu"] = update.clone() if "mu" not in state else state["mu"].mul_(group["momentum"]).add_(update)
                p.sub_(state["mu"], alpha=group["lr"])


def scaled(p: Tensor, grad: Tensor, weight_decay: float, trust: float) -> Tensor:
    """Return the gradient with weight decay, times the trust ratio."""
    update = grad + weight_decay * p
    own, other = p.norm(), update.norm()
    ratio = torch.where((own > 0) & (other > 0), trust * own / other, torch.ones_like(own))
    return update * ratio
