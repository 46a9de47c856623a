"""Co-attention of image and text tokens, as METER stacks it on two towers, with its two losses.

Paper: METER (arXiv 2111.02387); Florence (2111.11432) answers questions with such an adapter. No weights of Florence's
were released: these are the layers, with tests of their shapes and of their start.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xmodal.encoders.block import Mlp
from xmodal.encoders.sites import LayerNorm
from xmodal.registry import HEADS, method


class CrossAttention(nn.Module):
    """Tokens of one stream attend to those of another, or to their own.

    At start: 0 (the last projection is).

    Args:
        dim: width.
        num_heads: heads.
    """

    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"dim {dim} does not divide into {num_heads} heads")
        self.num_heads = num_heads
        self.q, self.kv, self.proj = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim), nn.Linear(dim, dim)
        nn.init.zeros_(self.proj.weight)
        nn.init.zeros_(self.proj.bias)

    def forward(self, x: Tensor, seen: Tensor, keep: Tensor | None = None) -> Tensor:
        """Map x (B, N, D) looking at seen (B, M, D), of which `keep` (B, M) are no padding, to (B, N, D)."""
        split = (self.num_heads, -1)
        q = self.q(x).unflatten(-1, split).transpose(1, 2)  # (B, H, N, D/H)
        k, v = (p.unflatten(-1, split).transpose(1, 2) for p in self.kv(seen).chunk(2, dim=-1))
        mask = None if keep is None else keep[:, None, None]  # (B, 1, 1, M)
        return self.proj(F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2))


class CoAttentionLayer(nn.Module):
    """One stream's layer: attention within, attention to the other stream, MLP; pre-norm residuals.

    At start: identity.

    Args:
        dim: width.
        num_heads: heads.
        mlp_ratio: hidden width of the MLP over D.
    """

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float = 4.0):
        super().__init__()
        self.norm1, self.norm2, self.norm3, self.norm_seen = (LayerNorm(dim, 1e-5) for _ in range(4))
        self.own, self.other = CrossAttention(dim, num_heads), CrossAttention(dim, num_heads)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        nn.init.zeros_(self.mlp.fc2.weight)
        nn.init.zeros_(self.mlp.fc2.bias)

    def forward(self, x: Tensor, seen: Tensor, keep: Tensor | None = None, keep_seen: Tensor | None = None) -> Tensor:
        """Map x (B, N, D), looking at the other stream (B, M, D), to (B, N, D)."""
        y = self.norm1(x)
        x = x + self.own(y, y, keep)
        x = x + self.other(self.norm2(x), self.norm_seen(seen), keep_seen)
        return x + self.mlp(self.norm3(x))


@method(
    HEADS,
    "co_attention",
    slot="head",
    paper="An Empirical Study of Training End-to-End Vision-and-Language Transformers, arXiv 2111.02387",
    parity=("co_attention",),
    families=("vit", "swin"),
)
class CoAttentionHead(nn.Module):
    """Two streams of co-attention, image-text matching and masked language modeling.

    Paper: METER, arXiv 2111.02387.
    At start: both streams pass unchanged.

    Args:
        image_dim: width of image tokens.
        text_dim: width of text tokens.
        vocab_size: words that masked positions are sorted into.
        dim: width D of both streams; tokens of other widths are projected.
        depth: layers a stream.
        num_heads: heads.
    """

    def __init__(
        self, image_dim: int, text_dim: int, vocab_size: int, dim: int = 768, depth: int = 6, num_heads: int = 12
    ):
        super().__init__()
        self.image_in = nn.Identity() if image_dim == dim else nn.Linear(image_dim, dim)
        self.text_in = nn.Identity() if text_dim == dim else nn.Linear(text_dim, dim)
        self.image_layers = nn.ModuleList(CoAttentionLayer(dim, num_heads) for _ in range(depth))
        self.text_layers = nn.ModuleList(CoAttentionLayer(dim, num_heads) for _ in range(depth))
        self.match = nn.Linear(2 * dim, 2)
        self.words = nn.Linear(dim, vocab_size)

    def forward(self, image: Tensor, text: Tensor, keep: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Fuse tokens.

        Args:
            image: (B, N, image_dim), class token first.
            text: (B, L, text_dim), start token first.
            keep: (B, L) bool, False on padding.

        Returns:
            Both streams, (B, N, D) and (B, L, D).
        """
        image, text = self.image_in(image), self.text_in(text)
        for image_layer, text_layer in zip(self.image_layers, self.text_layers, strict=True):
            image, text = image_layer(image, text, None, keep), text_layer(text, image, keep, None)
        return image, text

    def matching(self, image: Tensor, text: Tensor) -> Tensor:
        """Logits (B, 2) of `do not belong together`, `belong together`, from both streams' first tokens."""
        return self.match(torch.cat([image[:, 0], text[:, 0]], dim=-1))

    def loss(
        self, image: Tensor, text: Tensor, masked: Tensor, target: Tensor, keep: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Matching against the neighbor's text as the wrong one, and words at masked positions.

        Args:
            image: (B, N, image_dim), B at least 2.
            text: (B, L, text_dim) of the true texts.
            masked: (B, L, text_dim) of the same texts with words hidden.
            target: (B, L) hidden words' ids, -100 elsewhere.
            keep: (B, L) bool, False on padding.

        Raises:
            ValueError: a batch of one sample, which has no wrong text.
        """
        if len(image) < 2:
            raise ValueError("image-text matching needs at least 2 samples a batch, to take wrong texts from")
        rolled = None if keep is None else keep.roll(1, 0)
        right = self.matching(*self(image, text, keep))
        wrong = self.matching(*self(image, text.roll(1, 0), rolled))
        answer = (torch.arange(2 * len(right), device=right.device) < len(right)).long()
        _, words = self(image, masked, keep)
        loss_match = F.cross_entropy(torch.cat([right, wrong]).float(), answer)
        loss_words = F.cross_entropy(self.words(words).float().flatten(0, 1), target.flatten(), ignore_index=-100)
        return {"loss_match": loss_match, "loss_words": loss_words}
