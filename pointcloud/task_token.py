"""Task tokens and positions of EPCL (arXiv 2212.04098): trained tokens that adapt the frozen blocks to a task."""

from typing import Any

import torch
from torch import Tensor, nn

Tower = Any  # a tower of `xmodal.encoders`, whose attributes a checker cannot see through nn.Module


class TaskTokens(nn.Module):
    """Learned tokens, the same for every sample: an embedding and a small MLP on top.

    Paper: arXiv 2212.04098, section 3.3; the released code uses as many tokens as there are classes.
    Trains: T*D + 2(D^2 + D) weights.

    Args:
        num_tokens: T; 0 gives no tokens.
        dim: width D.
    """

    def __init__(self, num_tokens: int, dim: int):
        super().__init__()
        if num_tokens < 0:
            raise ValueError(f"num_tokens must be 0 or more, got {num_tokens}")
        self.num_tokens = num_tokens
        if num_tokens:
            self.embedding = nn.Embedding(num_tokens, dim)
            self.trans = nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, dim))

    def forward(self, batch: int) -> Tensor | None:
        """Tokens (B, T, D), None when T is 0."""
        if not self.num_tokens:
            return None
        return self.trans(self.embedding.weight).expand(batch, -1, -1)


class PositionMLP(nn.Sequential):
    """Positions (B, M, 3) to embeddings (B, M, D): Linear(3, 128), GELU, Linear(128, D)."""

    def __init__(self, dim: int, hidden: int = 128):
        super().__init__(nn.Linear(3, hidden), nn.GELU(), nn.Linear(hidden, dim))


def unit_ball(centers: Tensor) -> Tensor:
    """Center each cloud (B, M, 3) on its mean and scale it to unit radius; a single point goes to the origin."""
    centered = centers - centers.mean(dim=1, keepdim=True)
    radius = centered.norm(dim=-1).amax(dim=1)[:, None, None]
    return centered / radius.clamp(min=torch.finfo(centers.dtype).tiny)
