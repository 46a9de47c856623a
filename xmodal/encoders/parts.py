"""Activations, norms and stochastic depth of transformer blocks, by name."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from xmodal.encoders.sites import LayerNorm, RMSNorm
from xmodal.registry import did_you_mean


class QuickGELU(nn.Module):
    """x * sigmoid(1.702 x), the activation of OpenAI's CLIP, keeping one tensor for the backward pass."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply elementwise."""
        return F.silu(x * 1.702) * (1 / 1.702)


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "gelu": nn.GELU,
    "gelu_tanh": lambda: nn.GELU(approximate="tanh"),
    "quick_gelu": QuickGELU,
    "relu": nn.ReLU,
    "silu": nn.SiLU,
}


def make_activation(name: str) -> nn.Module:
    """Build an activation by name.

    Raises:
        ValueError: an unknown name.
    """
    if name not in ACTIVATIONS:
        raise ValueError(f"no activation is called {name!r}; {did_you_mean(name, ACTIVATIONS)}")
    return ACTIVATIONS[name]()


NORMS: dict[str, Callable[[int, float], nn.Module]] = {"layer": LayerNorm, "rms": RMSNorm}


def make_norm(name: str, dim: int, eps: float) -> nn.Module:
    """Build a norm by name.

    Raises:
        ValueError: an unknown name.
    """
    if name not in NORMS:
        raise ValueError(f"no norm is called {name!r}; {did_you_mean(name, NORMS)}")
    return NORMS[name](dim, eps)


class DropPath(nn.Module):
    """Stochastic depth: in training, drop the branch of a whole sample with probability `drop_prob`."""

    def __init__(self, drop_prob: float = 0.0):
        super().__init__()
        self.drop_prob = drop_prob

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, ...) to (B, ...)."""
        if self.drop_prob == 0.0 or not self.training:
            return x
        keep = 1 - self.drop_prob
        mask = x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(keep)
        return x * (mask / keep)
