"""Two-stage few-shot adaptation (2SFS): norms of both towers first, then a classifier that starts at the texts.

Paper: Rethinking Few-Shot Adaptation of Vision-Language Models in Two Stages (arXiv 2503.11609). Stage 1 trains the
LayerNorms of the blocks (or LoRA, or biases) with logits exp(logit_scale) * cos; stage 2 trains E, from the unit text
features of the adapted tower:
    logits_c = exp(logit_scale) * cos(f, E_c)
with both towers frozen. Classes that were not trained use the adapted text tower (selective inference).
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from xmodal.clip_tuning.clip_lora import TOWERS, place_low_rank
from xmodal.clip_tuning.tuned import TunedCLIP
from xmodal.heads.base import unit
from xmodal.registry import MODELS, did_you_mean, method


def train_norms(clip: Any, towers: str, starts: tuple[int, int], released: bool) -> None:
    """Train the LayerNorms of the blocks from `starts` (vision, text) on; and those outside unless as released."""
    for name in TOWERS[towers]:
        tower, start = getattr(clip, name), starts[0 if name == "visual" else 1]
        outside = [] if released else [getattr(tower, "norm_pre", None), tower.norm]
        inside = [norm for block in list(tower.blocks)[start:] for norm in (block.norm1, block.norm2)]
        for norm in (*inside, *outside):
            if norm is not None:
                norm.requires_grad_(True)


def train_biases(clip: Any, towers: str, starts: tuple[int, int], released: bool) -> None:
    """Train the biases of norms, output projections and MLPs; not those of queries, keys and values."""
    for name in TOWERS[towers]:
        tower = getattr(clip, name)
        owners = [m for b in tower.blocks for m in (b.norm1, b.norm2, b.attn.proj, b.mlp.fc1, b.mlp.fc2)]
        for owner in (*owners, getattr(tower, "norm_pre", None), tower.norm):
            if getattr(owner, "bias", None) is not None:
                owner.bias.requires_grad_(True)  # type: ignore[union-attr]


def train_low_rank(clip: Any, towers: str, starts: tuple[int, int], released: bool, **options: Any) -> None:
    """Place CLIP-LoRA's updates."""
    place_low_rank(clip, towers, **options)


STAGES = {"norms": train_norms, "biases": train_biases, "lora": train_low_rank}


@method(
    MODELS,
    "two_stage",
    slot="both towers",
    paper="Rethinking Few-Shot Adaptation of Vision-Language Models in Two Stages (arXiv 2503.11609)",
    params="norms 4*L*(W + V), then K*D",
    parity=("two_stage",),
)
class TwoStage(TunedCLIP):
    """CLIP that is adapted in two stages; `second_stage` begins the second.

    Args:
        class_names: names of the K classes.
        clip: a `CLIP` or its config; it is copied.
        first: what stage 1 trains: `norms`, `biases` or `lora`.
        towers: `both`, `vision` or `text`.
        starts: first block trained, (vision, text); of norms.
        released: norms of the blocks only, which is what the release really trains; False adds those in front of and
            behind the blocks.
        options: of LoRA, see `clip_lora.place_low_rank`.
        template: sentence with one `{}`, the same for every data set.
        prompt_ids: finished token ids (K, L).

    Raises:
        ValueError: an unknown first stage.
    """

    def __init__(
        self,
        class_names: Sequence[str],
        clip: Any,
        first: str = "norms",
        towers: str = "both",
        starts: tuple[int, int] = (0, 0),
        released: bool = True,
        options: dict[str, Any] | None = None,
        template: str = "a photo of a {}.",
        prompt_ids: Tensor | None = None,
    ):
        super().__init__(class_names, clip, template, None, prompt_ids)
        if first not in STAGES:
            raise ValueError(f"two_stage: no first stage is called {first!r}; {did_you_mean(first, STAGES)}")
        STAGES[first](self.clip, towers, starts, released, **(options or {}))
        self.classifier: nn.Parameter | None = None
        self.known: list[str] = []

    def second_stage(self) -> nn.Parameter:
        """Freeze the towers; return the classifier (K, D), which trains from now on."""
        with torch.no_grad():
            start = self.encode_classes()
        self.clip.requires_grad_(False)
        self.classifier, self.known = nn.Parameter(start.clone()), list(self.class_names)
        return self.classifier

    def text_features(self) -> Tensor:
        """Unit weights (K, D): rows of the classifier for trained classes, text features for others."""
        if self.classifier is None:
            return super().text_features()
        rows = unit(self.classifier)
        if self.class_names == self.known:
            return rows
        found, texts = {name: i for i, name in enumerate(self.known)}, super().text_features()
        chosen = [rows[found[n]] if n in found else texts[i] for i, n in enumerate(self.class_names)]
        return torch.stack(chosen)

    def image_features(self, images: Tensor) -> Tensor:
        """Unit features (B, D); without gradients in the second stage."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.classifier is None):
            return super().image_features(images)
