"""PromptSRC: independent prompts in both towers, held to the frozen CLIP by three losses, averaged over epochs.

Paper: Self-regulating Prompts: Foundational Model Adaptation without Forgetting (arXiv 2307.06948). With t, f the
prompted unit features, g the normed mean of the frozen text features over templates, h the frozen image feature of the
same image and q, p the frozen and prompted class probabilities,
    loss = CE + 25 mean|t - g| + 10 mean|f - h| + sum q (log q - log p) / (B*K)
The prompts of epoch e count with exp(-(e - mean)^2 / (2 std^2)) in the average that replaces them at the end. Without
these parts it is the IVLP baseline. depth*n*(W + V) weights.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xmodal.clip_tuning.prompts import check_depth, first_context, place_text, place_visual, splice
from xmodal.clip_tuning.templates import SRC_TEMPLATES
from xmodal.clip_tuning.tuned import TunedCLIP
from xmodal.encoders.clip import fill
from xmodal.encoders.frozen import freeze
from xmodal.heads.base import top1, unit
from xmodal.heads.taskres import mean_features
from xmodal.registry import ENCODERS, MODELS, build, method


def gaussian_weights(epochs: int, mean: float, std: float) -> list[float]:
    """Weights of epochs 1, ..., `epochs`, which sum to 1."""
    raw = [math.exp(-((e - mean) ** 2) / (2 * std**2)) for e in range(1, epochs + 1)]
    return [value / sum(raw) for value in raw]


def visual_prompt(index: int, model: "PromptSRC") -> Tensor:
    """Image prompts (n, V) of block `index`."""
    return model.visual[index]


def text_prompt(index: int, model: "PromptSRC") -> Tensor:
    """Text prompts (n, W) of block `index`."""
    return model.deep[index - 1]


@method(
    MODELS,
    "promptsrc",
    slot="both towers",
    paper="Self-regulating Prompts (arXiv 2307.06948)",
    params="depth*n*(W + V)",
    parity=("promptsrc",),
)
class PromptSRC(TunedCLIP):
    """CLIP with its own prompts in each tower and the three losses against forgetting.

    Args:
        class_names: names of the K classes.
        clip: a `CLIP` or its config; it is copied, and the original is the frozen teacher.
        n_text: text prompts a block.
        n_visual: image prompts a block.
        depth_text: blocks with text prompts of their own, the input counted; 9, or 3 across data sets.
        depth_visual: the same of image prompts.
        text_weight: of the loss on text features.
        image_weight: of the loss on image features.
        logit_weight: of the loss on class probabilities.
        template: sentence with one `{}`.
        templates: of the teacher.
        prompt_ids: finished token ids (K, L).
        template_ids: finished token ids (templates, K, L) of the teacher.

    Raises:
        ValueError: a depth that a tower does not have.
    """

    frozen_text: Tensor

    def __init__(
        self, class_names: Sequence[str], clip: Any, n_text: int = 4, n_visual: int = 4, depth_text: int = 9,
        depth_visual: int = 9, text_weight: float = 25.0, image_weight: float = 10.0, logit_weight: float = 1.0,
        template: str = "a photo of a {}.", templates: Sequence[str] = SRC_TEMPLATES,
        prompt_ids: Tensor | None = None, template_ids: Tensor | None = None,
    ):  # fmt: skip
        clip = freeze(build(clip, ENCODERS))
        super().__init__(class_names, clip, template, None, prompt_ids)
        text, visual = self.clip.text, self.clip.visual
        check_depth(depth_text, n_text, len(text.blocks), "promptsrc, text")
        check_depth(depth_visual, n_visual, len(visual.blocks), "promptsrc, images")
        self.teacher, self.weights = (clip,), (text_weight, image_weight, logit_weight)
        self.templates = tuple(templates)
        self.ctx = first_context(text, self.ids, n_text, n_text <= 4)
        self.deep = nn.ParameterList(torch.randn(n_text, text.dim) * 0.02 for _ in range(depth_text - 1))
        self.visual = nn.ParameterList(torch.randn(n_visual, visual.dim) * 0.02 for _ in range(depth_visual))
        place_visual(visual, self, [partial(visual_prompt, i) for i in range(depth_visual)], "promptsrc")
        place_text(text, self, [partial(text_prompt, i) for i in range(1, depth_text)], "promptsrc")
        self.register_buffer("frozen_text", torch.zeros(0), persistent=False)
        if any(self.weights):
            self.teach(template_ids)

    def teach(self, template_ids: Tensor | None = None) -> None:
        """Compute the teacher's text features (K, D) of the classes."""
        if template_ids is None:
            sentences = [[fill(t, name) for name in self.class_names] for t in self.templates]
            template_ids = torch.stack([self.clip.tokenize(own) for own in sentences])
        self.frozen_text = unit(mean_features(self.teacher[0].text, template_ids))

    def encode_classes(self) -> Tensor:
        """Unit features (K, D) of the prompted classes."""
        text = self.clip.text
        return unit(text.encode_embedded(splice(text, self.ids, self.ctx), text.end(self.ids), truncate=False))

    @torch.no_grad()
    def frozen_image(self, images: Tensor) -> Tensor:
        """Unit features (B, D) of the teacher."""
        return unit(self.teacher[0].visual(images))

    def losses(self, images: Tensor, label: Tensor) -> dict[str, Tensor]:
        """The four parts of the loss, weighted."""
        f, t = self.image_features(images), self.text_features()
        logits = self.scale * f @ t.T
        parts = {"ce": F.cross_entropy(logits, label), "logits": logits}
        if any(self.weights):
            h, (on_text, on_image, on_logits) = self.frozen_image(images), self.weights
            q = (self.scale * h @ self.frozen_text.T).log_softmax(1)
            parts["text"] = on_text * (t - self.frozen_text).abs().mean()
            parts["image"] = on_image * (f - h).abs().mean()
            away = F.kl_div(logits.log_softmax(1), q, reduction="sum", log_target=True)
            parts["kl"] = on_logits * away / logits.numel()
        return parts

    def loss(self, images: Tensor, label: Tensor) -> dict[str, Tensor]:
        """Sum of the parts, and the batch's top-1 in percent."""
        parts = self.losses(images, label)
        logits = parts.pop("logits")
        return {"loss": torch.stack([*parts.values()]).sum(), "top1": top1(logits, label)}
