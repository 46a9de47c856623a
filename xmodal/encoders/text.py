"""Text tower of CLIP and SigLIP, built from the same block as the image tower.

Papers: CLIP (arXiv 2103.00020), SigLIP (2303.15343). The forward pass is split where prompt methods cut it: `embed`
looks tokens up, a method splices its context vectors in, `forward_blocks` adds positions and runs the tower, `pool`
reads it.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from xmodal.encoders.block import Block, run_block
from xmodal.encoders.branches import Branches, CausalPadded
from xmodal.encoders.sites import LayerNorm, Stream
from xmodal.registry import ENCODERS

POOLS: dict[str, Callable[[Any, Tensor], Tensor]] = {  # index of the token that is read, of tower and ids (K, L)
    "end": lambda tower, ids: ids.argmax(dim=-1),
    "eos": lambda tower, ids: (ids == tower.end_id).int().argmax(dim=-1),
    "last": lambda tower, ids: ids.new_full((ids.shape[0],), ids.shape[1] - 1),
    "first": lambda tower, ids: ids.new_zeros(ids.shape[0]),
    "class": lambda tower, ids: (ids != tower.pad_id).int().cumsum(1).argmax(dim=-1),
}


@ENCODERS.register_module(name="text_transformer")
class TextTransformer(nn.Module):
    """A transformer over token ids, causal unless asked otherwise.

    Example:
        x = tower.embed(ids)                              # (K, L, W), no positions yet
        x = torch.cat([x[:, :1], context, x[:, 1 + M :]], 1)
        features = tower.encode_embedded(x, tower.end(ids))

    Args:
        vocab_size: entries of the token table.
        context_length: L, longest sequence.
        dim: width W.
        depth: blocks.
        num_heads: attention heads.
        out_dim: width D of the projected feature, None for no projection.
        mlp_ratio: hidden width of the MLP over W.
        act: activation, see `parts.ACTIVATIONS`.
        norm_eps: of every LayerNorm.
        causal: a token sees only those before it.
        pool: what is read: `end`, the token with the largest id (CLIP's end token), `eos`, that of `end_id`, `last` or
            `first`, the token at that position, `class`, a class token behind the text (CoCa).
        end_id: with `eos`, the id of the end token.
        pad_id: with `class`, the id of padding, which no token sees (as in CoCa's released weights, one position late).
        proj_bias: bias of the projection (SigLIP).
        name: what the checkpoint calls itself.

    Raises:
        ValueError: an unknown `pool`.
    """

    proj: Any

    def __init__(
        self,
        vocab_size: int = 49408,
        context_length: int = 77,
        dim: int = 512,
        depth: int = 12,
        num_heads: int = 8,
        out_dim: int | None = 512,
        mlp_ratio: float = 4.0,
        act: str = "quick_gelu",
        norm_eps: float = 1e-5,
        causal: bool = True,
        pool: str = "end",
        proj_bias: bool = False,
        name: str = "text",
        end_id: int = 2,
        pad_id: int = 0,
    ):
        super().__init__()
        if pool not in POOLS:
            raise ValueError(f"pool {pool!r}: choose end (CLIP), eos, last (SigLIP), first or class (CoCa)")
        if pool == "class" and not causal:
            raise ValueError("pool 'class' needs a causal tower")
        self.name, self.dim, self.depth, self.num_heads, self.out_dim = name, dim, depth, num_heads, out_dim or dim
        self.vocab_size, self.context_length = vocab_size, context_length
        self.end_id, self.pad_id, self.pool_type = end_id, pad_id, pool
        self.causal = causal and pool != "class"  # the class token sees all, and its position is that behind the text
        self.recompute = False
        self.token_embedding = nn.Embedding(vocab_size, dim)
        self.cls_token = nn.Parameter(torch.empty(dim)) if pool == "class" else None
        self.pos_embed = nn.Parameter(torch.empty(context_length + (pool == "class"), dim))
        self.pre_blocks = Stream()
        self.blocks = nn.ModuleList(
            Block(dim, num_heads, mlp_ratio, act=act, causal=self.causal, norm_eps=norm_eps) for _ in range(depth)
        )
        self.norm = LayerNorm(dim, norm_eps)
        self.proj = nn.Linear(dim, out_dim, bias=proj_bias) if out_dim else nn.Identity()
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """CLIP's initial weights: embeddings normal (0.02, positions 0.01), linear layers scaled by width and depth."""
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        nn.init.normal_(self.pos_embed, std=0.01)
        if self.cls_token is not None:
            nn.init.normal_(self.cls_token, std=0.01)
        residual = self.dim**-0.5 * (2 * self.depth) ** -0.5
        block: Any
        for block in self.blocks:
            for linear, std in (
                (block.attn.qkv, self.dim**-0.5),
                (block.attn.proj, residual),
                (block.mlp.fc1, (2 * self.dim) ** -0.5),
                (block.mlp.fc2, residual),
            ):
                nn.init.normal_(linear.weight, std=std)
                nn.init.zeros_(linear.bias)
        if isinstance(self.proj, nn.Linear):
            nn.init.normal_(self.proj.weight, std=self.dim**-0.5)
            if self.proj.bias is not None:
                nn.init.zeros_(self.proj.bias)

    def end(self, ids: Tensor) -> Tensor:
        """Index (K,) of the token whose row is read; with a class token, of the last one in front of padding."""
        return POOLS[self.pool_type](self, ids)

    def embed(self, ids: Tensor) -> Tensor:
        """Look token ids (K, L) up: (K, L, W), positions not added."""
        return self.token_embedding(ids)

    def forward_blocks(self, x: Tensor, kept: Tensor | None = None) -> Tensor:
        """Add positions to token embeddings (K, L, W) and run the blocks; the raw residual stream (K, L, W).

        Args:
            x: token embeddings.
            kept: (K, L), False for padding, for a tower with a class token, whose row stands last in the result.

        Raises:
            ValueError: more tokens than the tower has positions for.
        """
        if x.shape[1] > self.context_length:
            raise ValueError(f"{x.shape[1]} tokens, and {self.name} reads {self.context_length} at most: cut the text")
        layout = []
        if self.cls_token is not None:
            assert kept is not None
            x = torch.cat([x, self.cls_token.to(x.dtype).expand(x.shape[0], 1, -1)], 1)
            layout.append(CausalPadded(torch.cat([torch.ones_like(kept[:, :1]), kept], 1)))
        x = self.pre_blocks(x + self.pos_embed[: x.shape[1]].to(x.dtype))
        for block in self.blocks:
            x = run_block(block, x, None, None, None, self.recompute, *layout)
        return x

    def pool(self, x: Tensor, end: Tensor) -> Tensor:
        """Norm and project row `end` (K,) of each sequence in x (K, L, W), or the class token: features (K, D)."""
        if self.cls_token is not None:
            return self.proj(self.norm(x[:, -1]))
        rows = x[torch.arange(x.shape[0], device=x.device), end]  # (K, W)
        return self.proj(self.norm(rows))

    def encode_embedded(self, x: Tensor, end: Tensor, truncate: bool = True, kept: Tensor | None = None) -> Tensor:
        """Features (K, D) of token embeddings x (K, L, W), spliced or not.

        Args:
            x: token embeddings without positions.
            end: (K,) index of the token to read.
            truncate: drop what stands behind the last of `end`. Exact in a causal tower, ignored in any other.
            kept: (K, L), False for padding; None: what stands behind `end`. Read by towers with a class token.
        """
        if self.cls_token is not None and kept is None:
            kept = torch.arange(x.shape[1], device=x.device) <= end[:, None]
        if truncate and self.causal:
            x = x[:, : int(end.max()) + 1]
        return self.pool(self.forward_blocks(x, kept), end)

    def encode_branches(self, beginning: Tensor, ends: Tensor, end: Tensor) -> Tensor:
        """Features of sequences that begin alike; the beginning is computed once. Causal towers only.

        Args:
            beginning: token embeddings (G, P, W) without positions, of G groups of sequences.
            ends: (G, K, S, W), how the K sequences of each group go on.
            end: (K,) index of the token to read in the whole sequence, at least P.

        Returns:
            (G, K, D).

        Raises:
            ValueError: a tower that is not causal, or more tokens than it has positions for.
        """
        shared, size = beginning.shape[1], ends.shape[2]
        if not self.causal or shared + size > self.context_length:
            raise ValueError(
                f"{self.name} reads {self.context_length} tokens at most, got {shared + size}"
                if self.causal
                else f"{self.name} is not causal: every token depends on all others, so no beginning can be shared"
            )
        at = self.pos_embed.to(beginning.dtype)
        x = torch.cat([beginning + at[:shared], (ends + at[shared : shared + size]).flatten(1, 2)], dim=1)
        layout = Branches(shared=shared, count=ends.shape[1])
        x = self.pre_blocks(x)
        for block in self.blocks:
            x = run_block(block, x, None, None, None, self.recompute, layout)
        rows = x[:, shared:].unflatten(1, (-1, size))  # (G, K, S, W)
        rows = rows[:, torch.arange(len(end), device=x.device), end - shared]  # (G, K, W)
        return self.proj(self.norm(rows))

    def cut(self, ids: Tensor) -> Tensor:
        """Drop the columns of ids (K, L) behind the last token that is read; exact in a causal tower, others keep all.

        A GPU is waited for, unless the ids are still on the host.
        """
        return ids[:, : int(self.end(ids).max()) + 1] if self.causal else ids

    def forward(self, ids: Tensor, truncate: bool = True) -> Tensor:
        """Token ids (K, L) to features (K, D), not normalized; `truncate` cuts the ids first."""
        ids = self.cut(ids) if truncate else ids
        return self.encode_embedded(self.embed(ids), self.end(ids), truncate=False, kept=ids != self.pad_id)
