"""Train a co-attention head on the tokens of two frozen towers: image-text matching and masked words.

Papers: METER (arXiv 2111.02387); Florence (2111.11432) reads images and texts together with such an adapter.
"""

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.model import BaseModel
from torch import Tensor

from xmodal.encoders.clip import CLIP
from xmodal.frozen_tower import FrozenTower
from xmodal.preprocessor import Preprocessor
from xmodal.registry import ENCODERS, HEADS, MODELS, build


@MODELS.register_module(name="fusion")
class FusionModel(FrozenTower, BaseModel):
    """Two frozen towers and a head that fuses their tokens.

    Args:
        clip: the towers with their tokenizer, or their config.
        head: such as `co_attention`, or its config; receives `image_dim`, `text_dim` and `vocab_size`.
        hidden_share: share of the words that are hidden (their id becomes that of padding) and to be found.
    """

    def __init__(self, clip: Any, head: Any, hidden_share: float = 0.15):
        clip = build(clip, ENCODERS)
        super().__init__(data_preprocessor=Preprocessor(clip.visual.pixel_mean, clip.visual.pixel_std))
        self.clip: CLIP = self.hold(clip)
        text = clip.text
        self.head = build(head, HEADS, image_dim=clip.visual.dim, text_dim=text.dim, vocab_size=text.vocab_size)
        self.hidden_share = hidden_share

    @property
    def encoder(self) -> CLIP:
        """Return both towers."""
        return self.clip

    @torch.no_grad()
    def image_tokens(self, image: Tensor) -> Tensor:
        """Map normalized images (B, 3, H, W) to tokens (B, N, D)."""
        return self.clip.visual.forward_tokens(*self.clip.visual.embed(image))

    @torch.no_grad()
    def text_tokens(self, ids: Tensor) -> Tensor:
        """Map token ids (B, L) to tokens (B, L, W)."""
        text = self.clip.text
        return text.norm(text.forward_blocks(text.embed(ids)))

    def hide(self, ids: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
        """Hide some of the words of ids (B, L): the ids with gaps, and what stood there (-100 elsewhere)."""
        words = keep.roll(-1, 1) & keep  # neither the end nor padding
        words[:, 0] = words[:, -1] = False
        hidden = words & (torch.rand(ids.shape, device=ids.device) < self.hidden_share)
        hidden[:, 1] |= ~hidden.any(1) & words[:, 1]  # one at least
        return ids.masked_fill(hidden, 0), ids.masked_fill(~hidden, -100)

    def forward(self, mode: str = "tensor", image: Any = None, caption: Sequence[str] = (), **_: Any) -> Any:
        """Run a preprocessed batch.

        Args:
            mode: `loss` for the head's losses; `tensor` for logits (B, 2) of image and caption belonging together.
            image: (B, 3, H, W), normalized.
            caption: B texts.
            **_: labels and names of the samples.

        Raises:
            ValueError: another mode.
        """
        if mode not in ("loss", "tensor"):
            raise ValueError(f"mode {mode!r}: choose tensor or loss")
        assert self.clip.tokenizer is not None
        ids = self.clip.tokenizer(list(caption), truncate=True).to(image.device, non_blocking=True)
        keep = torch.arange(ids.shape[1], device=ids.device) <= self.clip.text.end(ids)[:, None]
        seen, read = self.image_tokens(image), self.text_tokens(ids)
        if mode == "tensor":
            return self.head.matching(*self.head(seen, read, keep))
        gaps, target = self.hide(ids, keep)
        return self.head.loss(seen, read, self.text_tokens(gaps), target, keep)
