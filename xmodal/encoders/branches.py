"""Attention in sequences that are laid out in another way than a plain row: branches, padding.

`Branches` runs causal sequences with a common beginning as one, so that the beginning is computed once.

A causal tower computes a token from those before it alone. Prompts that begin alike (the start token and a learned
context, in front of every class name) need their beginning only once, and each class only its own end.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor


class BranchLayout(Protocol):
    """How the tokens of a row see each other."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend; all tensors (B, H, N, d)."""


@dataclass(frozen=True)
class Branches:
    """Layout of a row of tokens, and the attention in it: a beginning, then K ends of S tokens, one behind the other.

    Args:
        shared: tokens of the beginning.
        count: K.
    """

    shared: int
    count: int

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Causal attention in which each end sees the beginning and itself; all tensors (B, H, shared + K*S, d)."""
        own_q, own_k, own_v = (x[:, :, self.shared :].unflatten(2, (self.count, -1)) for x in (q, k, v))
        first_k, first_v = k[:, :, : self.shared], v[:, :, : self.shared]  # (B, H, shared, d)
        first = F.scaled_dot_product_attention(q[:, :, : self.shared], first_k, first_v, is_causal=True)
        scale, size = q.shape[-1] ** -0.5, own_q.shape[3]
        before = (q[:, :, self.shared :] @ first_k.mT).unflatten(2, (self.count, -1))  # (B, H, K, S, shared)
        later = torch.ones(size, size, dtype=torch.bool, device=q.device).triu(1)
        own = (own_q @ own_k.mT).masked_fill(later, float("-inf"))  # (B, H, K, S, S)
        weight = (torch.cat([before, own], -1) * scale).softmax(-1)
        ends = weight[..., : self.shared].flatten(2, 3) @ first_v + (weight[..., self.shared :] @ own_v).flatten(2, 3)
        return torch.cat([first, ends], 2)


@dataclass(frozen=True)
class CausalPadded:
    """Layout of causal sequences in which no token sees padding.

    Args:
        kept: (B, N), False for padding.
    """

    kept: Tensor

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Causal attention without padding; all tensors (B, H, N, d)."""
        size = k.shape[2]
        seen = torch.ones(size, size, dtype=torch.bool, device=q.device).tril() & self.kept[:, None, None]
        return F.scaled_dot_product_attention(q, k, v, attn_mask=seen)
