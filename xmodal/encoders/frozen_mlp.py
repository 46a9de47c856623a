"""The frozen MLP of CLIP's towers as one function that keeps its hidden layer once for the gradient."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

SLOPE = 1.702  # of QuickGELU, x * sigmoid(1.702 x)


class FrozenMlp(torch.autograd.Function):
    """fc2(quick_gelu(fc1 x)) and the gradient of x.

    With h = 1.702 fc1(x) the activation is silu(h) / 1.702. Both factors ride along in the matrix products, in the
    backward pass they cancel, and h is all that is kept.
    """

    @staticmethod
    def forward(ctx, x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
        """Map (N, D) to (N, D)."""
        hidden = torch.addmm(b1, x, w1.t(), beta=SLOPE, alpha=SLOPE)  # (N, hidden)
        ctx.save_for_backward(hidden, w1, w2)
        return torch.addmm(b2, F.silu(hidden, inplace=not ctx.needs_input_grad[0]), w2.t(), alpha=1 / SLOPE)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradient of x (N, D); the weights are frozen."""
        hidden, w1, w2 = ctx.saved_tensors
        grad = torch.ops.aten.silu_backward(grad @ w2, hidden)  # (N, hidden)
        return grad @ w1, None, None, None, None


def frozen_mlp(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
    """Map x (..., D) to (..., D), in the precision of the weights."""
    return FrozenMlp.apply(x.flatten(0, -2).to(w1.dtype), w1, b1, w2, b2).view(x.shape)
