"""CLIP-LoRA: low-rank updates of the attention projections of both towers, one setting for every data set.

Paper: Low-Rank Few-Shot Adaptation of Vision-Language Models (arXiv 2405.18541). Every chosen projection becomes
    y = W x + b + alpha / sqrt(rank) * B A dropout(x)
with its own dropout mask; logits = 100 * cos. The classes' texts run through the text tower in every step. Zero-shot
CLIP at the start (B is zero). 2 * rank * width weights a projection: 184,320 on ViT-B/16.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor

from xmodal.adapters.lora import lora
from xmodal.clip_tuning.tuned import TunedCLIP
from xmodal.registry import MODELS, method

TOWERS = {"both": ("text", "visual"), "vision": ("visual",), "text": ("text",)}
TARGETS = {"q": "q", "k": "k", "v": "v", "o": "proj"}


def place_low_rank(
    clip: Any,
    towers: str = "both",
    targets: Sequence[str] = ("q", "k", "v"),
    rank: int = 2,
    alpha: float = 1.0,
    dropout: float = 0.25,
    blocks: int | Iterable[int] | None = None,
) -> None:
    """Place CLIP-LoRA's updates in the towers of a CLIP.

    Args:
        clip: the towers.
        towers: `both`, `vision` or `text`.
        targets: any of q, k, v and o (the output projection).
        rank: of each update.
        alpha: divided by the root of the rank.
        dropout: on the input of each update, in training.
        blocks: None for all, a number n for the last n, or indices.

    Raises:
        ValueError: an unknown tower or target.
    """
    if towers not in TOWERS or not set(targets) <= set(TARGETS):
        raise ValueError(
            f"towers={towers!r}, targets={list(targets)}: choose both, vision or text, and some of q, k, v, o"
        )
    blocks = blocks if blocks is None or isinstance(blocks, int) else list(blocks)
    for name in TOWERS[towers]:
        chosen = [TARGETS[t] for t in targets]
        lora(getattr(clip, name), rank, alpha, chosen, dropout, sqrt_scale=True, blocks=blocks, name="clip_lora")


@method(
    MODELS,
    "clip_lora",
    slot="both towers",
    paper="Low-Rank Few-Shot Adaptation of Vision-Language Models (arXiv 2405.18541)",
    params="L * targets * 2*rank*(W + V)",
    parity=("clip_lora",),
)
class CLIPLoRA(TunedCLIP):
    """CLIP with low-rank updates in its attention.

    Args:
        class_names: names of the K classes.
        clip: a `CLIP` or its config; it is copied.
        towers: `both`, `vision` or `text`.
        targets: any of q, k, v and o.
        rank: of each update.
        alpha: divided by the root of the rank.
        dropout: on the input of each update, in training.
        blocks: None for all, a number n for the last n, or indices.
        template: sentence with one `{}`, the same for every data set.
        logit_scale: of the cosines.
        prompt_ids: finished token ids (K, L).
    """

    def __init__(
        self,
        class_names: Sequence[str],
        clip: Any,
        towers: str = "both",
        targets: Sequence[str] = ("q", "k", "v"),
        rank: int = 2,
        alpha: float = 1.0,
        dropout: float = 0.25,
        blocks: int | Iterable[int] | None = None,
        template: str = "a photo of a {}.",
        logit_scale: float = 100.0,
        prompt_ids: Tensor | None = None,
    ):
        super().__init__(class_names, clip, template, logit_scale, prompt_ids)
        place_low_rank(self.clip, towers, targets, rank, alpha, dropout, blocks)
        self.about = dict(r=rank, alpha=alpha, encoder=towers, params=list(targets))
