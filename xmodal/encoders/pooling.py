"""Attention pooling: learned queries read all tokens (SigLIP, arXiv 2303.15343; CoCa, 2205.01917)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xmodal.encoders.block import Mlp
from xmodal.encoders.parts import make_norm
from xmodal.encoders.sites import LayerNorm, Linear


class AttentionPool(nn.Module):
    """Multi-head attention of one latent query over the tokens, then an MLP; keys as timm's `AttentionPoolLatent`."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        act: str = "gelu",
        norm_eps: float = 1e-6,
        norm: str = "layer",
    ):
        super().__init__()
        self.num_heads = num_heads
        self.latent = nn.Parameter(torch.randn(1, 1, dim) * dim**-0.5)
        self.q = Linear(dim, dim)
        self.kv = Linear(dim, 2 * dim)
        self.proj = Linear(dim, dim)
        self.norm = make_norm(norm, dim, norm_eps)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), act)

    def forward(self, tokens: Tensor, kept: Tensor | None = None) -> Tensor:
        """Map tokens (B, N, D) to a feature (B, D); `kept` (B, N) is False for padding."""
        split = (self.num_heads, -1)
        q = self.q(self.latent).expand(tokens.shape[0], -1, -1).unflatten(-1, split).transpose(1, 2)  # (B, H, 1, D/H)
        k, v = (x.unflatten(-1, split).transpose(1, 2) for x in self.kv(tokens).chunk(2, dim=-1))  # (B, H, N, D/H)
        mask = None if kept is None else kept[:, None, None]
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)
        y = self.proj(y)  # (B, 1, D)
        return (y + self.mlp(self.norm(y)))[:, 0]


class QueryPool(nn.Module):
    """Multi-head attention of learned queries over all tokens; the feature is what the first query reads (CoCa).

    Args:
        dim: width D of the tokens.
        out_dim: width of queries and feature.
        num_heads: heads.
        queries: number of queries; those behind the first are for a text decoder, and only kept.
        norm_eps: of both norms.
    """

    def __init__(self, dim: int, out_dim: int, num_heads: int, queries: int = 256, norm_eps: float = 1e-5):
        super().__init__()
        self.num_heads = num_heads
        self.latent = nn.Parameter(torch.randn(queries, out_dim))
        self.norm_q, self.norm_k = LayerNorm(out_dim, norm_eps), LayerNorm(dim, norm_eps)
        self.q, self.k, self.v = Linear(out_dim, out_dim), Linear(dim, out_dim), Linear(dim, out_dim)
        self.proj = Linear(out_dim, out_dim)

    def forward(self, tokens: Tensor, kept: Tensor | None = None) -> Tensor:
        """Map tokens (B, N, D) to a feature (B, D_out); `kept` (B, N) is False for padding."""
        tokens = self.norm_k(tokens)
        first = self.q(self.norm_q(self.latent[:1])).expand(tokens.shape[0], 1, -1)
        q, k, v = (
            x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for x in (first, self.k(tokens), self.v(tokens))
        )
        mask = None if kept is None else kept[:, None, None]
        return self.proj(F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2))[:, 0]
