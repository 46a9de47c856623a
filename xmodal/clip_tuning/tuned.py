"""Base class of few-shot methods that train inside CLIP's towers: a copy of CLIP, class texts and logits."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xmodal.encoders.clip import fill
from xmodal.encoders.frozen import freeze, keep_frozen_in_eval
from xmodal.heads.base import top1, unit
from xmodal.registry import ENCODERS, build


class TunedCLIP(nn.Module):
    """Scaled cosines of images and class names, both through a frozen copy of CLIP that a subclass edits.

    Args:
        class_names: names of the K classes.
        clip: a `CLIP` or its config; it is copied.
        template: sentence with one `{}`.
        logit_scale: another scale than that of `clip`.
        prompt_ids: finished token ids (K, L) in place of tokenized names.
    """

    ids: Tensor

    def __init__(
        self,
        class_names: Sequence[str],
        clip: Any,
        template: str = "a photo of a {}.",
        logit_scale: float | None = None,
        prompt_ids: Tensor | None = None,
    ):
        super().__init__()
        source = build(clip, ENCODERS)
        self.clip = freeze(copy.deepcopy(source))
        self.template = template
        self.scale = float(source.logit_scale.detach().exp()) if logit_scale is None else float(logit_scale)
        self.register_buffer("ids", torch.zeros(0), persistent=False)
        self.set_classes(class_names, prompt_ids)

    def set_classes(self, class_names: Sequence[str], prompt_ids: Tensor | None = None) -> None:
        """Set the class names, also to others than those of training."""
        self.class_names, device = list(class_names), self.clip.logit_scale.device
        ids = self.tokenize(self.class_names) if prompt_ids is None else prompt_ids
        self.ids = self.clip.text.cut(ids).to(device)
        self._kept: Tensor | None = None

    def tokenize(self, names: Sequence[str]) -> Tensor:
        """Token ids (K, L) of the classes' sentences."""
        return self.clip.tokenize([fill(self.template, name) for name in names])

    def train(self, mode: bool = True) -> "TunedCLIP":
        """Set the mode; frozen parts stay in evaluation mode."""
        super().train(mode)
        if mode:
            keep_frozen_in_eval(self.clip)
        self._kept = None
        return self

    def trained(self) -> dict[str, nn.Parameter]:
        """Return the weights that train, by name."""
        return {name: p for name, p in self.named_parameters() if p.requires_grad}

    def image_features(self, images: Tensor) -> Tensor:
        """Unit features (B, D) of normalized images (B, 3, H, W)."""
        return unit(self.clip.visual(images))

    def encode_classes(self) -> Tensor:
        """Unit features (K, D) of the classes through the text tower as it stands."""
        return unit(self.clip.text(self.ids, truncate=False))

    def text_features(self) -> Tensor:
        """`encode_classes`, kept in evaluation mode."""
        if self.training or torch.is_grad_enabled():
            return self.encode_classes()
        if self._kept is None:
            self._kept = self.encode_classes()
        return self._kept

    def forward(self, images: Tensor) -> Tensor:
        """Map normalized images (B, 3, H, W) to logits (B, K)."""
        return self.scale * self.image_features(images) @ self.text_features().T

    def loss(self, images: Tensor, label: Tensor) -> dict[str, Tensor]:
        """Cross-entropy against labels (B,), and the batch's top-1 in percent."""
        logits = self(images)
        return {"loss": F.cross_entropy(logits, label), "top1": top1(logits, label)}


class WeightAverage:
    """Weighted sum of a model's trained weights over epochs, which replaces them at the end.

    Args:
        model: whose weights.
    """

    def __init__(self, model: TunedCLIP):
        self.weights = list(model.trained().values())
        self.sums = [torch.zeros_like(p) for p in self.weights]

    @torch.no_grad()
    def add(self, weight: float) -> None:
        """Add the weights as they stand."""
        for total, p in zip(self.sums, self.weights, strict=True):
            total.add_(p, alpha=weight)

    @torch.no_grad()
    def install(self) -> None:
        """Replace the weights by the sums."""
        for total, p in zip(self.sums, self.weights, strict=True):
            p.copy_(total)
