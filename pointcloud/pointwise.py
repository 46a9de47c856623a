"""Layers of one point at a time on (..., C), with the weights that released checkpoints keep as 1x1 convolutions."""

import torch.nn.functional as F
from torch import Tensor, nn


class PointConv(nn.Conv1d):
    """A convolution of width 1 as what it is: a matrix product over the last axis. Several times faster on the CPU.

    Args:
        in_dim: channels before.
        out_dim: channels after.
        bias: add one.
    """

    def __init__(self, in_dim: int, out_dim: int, bias: bool = True):
        super().__init__(in_dim, out_dim, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., C) to (..., C')."""
        return F.linear(x, self.weight[..., 0], self.bias)


class PointNorm(nn.BatchNorm1d):
    """Batch normalization of the last axis of (..., C)."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalize over all rows."""
        return super().forward(x.flatten(0, -2)).view_as(x)
