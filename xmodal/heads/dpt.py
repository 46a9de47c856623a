"""DPT with CAVPT: text prompts, visual prompts, and class-aware visual prompts in the top blocks.

Paper: Dual Modality Prompt Tuning for Vision-Language Pre-Trained Model (arXiv 2208.08340).
M*W + (bottom-1)*N*V + a CAVPT block: D*V + V + 64*V + V*V + 4*V + K*V + 10*V.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xmodal.heads.base import top1, unit
from xmodal.heads.text_side import PromptHead, PromptIds
from xmodal.heads.visual_prompts import plain_feature, pooled, run_prompted
from xmodal.registry import HEADS, method
from xmodal.structures import Grid


class ClassAwarePrompts(nn.Module):
    """Prompts that look for the selected classes among the tokens of a block.

    Args:
        feature_dim: D, of the text features that ask.
        dim: V.
        num_classes: K, of the classifier that keeps each prompt about its class.
        n_tokens: learned tokens that stand among keys and values.
        attn_dim: width of queries and keys.
    """

    def __init__(self, feature_dim: int, dim: int, num_classes: int, n_tokens: int = 10, attn_dim: int = 32):
        super().__init__()
        self.meta_net = nn.Linear(feature_dim, dim)
        self.tokens = nn.Parameter(torch.empty(n_tokens, dim))
        nn.init.normal_(self.tokens, std=0.02)
        self.q = nn.Linear(dim, attn_dim, bias=False)
        self.k = nn.Linear(dim, attn_dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)
        self.norm = nn.LayerNorm(dim)
        self.classifier = nn.Linear(dim, num_classes, bias=False)
        self.prompt_norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, asked: Tensor) -> tuple[Tensor, Tensor]:
        """Make prompts.

        Args:
            x: tokens of the block without prompts (B, N, V); no gradient flows into them.
            asked: text features (B, n, D) of the selected classes, not normalized.

        Returns:
            Prompts (B, n, V) and their class logits (B, n, K).
        """
        query = self.meta_net(asked)  # (B, n, V)
        seen = torch.cat([x.detach(), self.tokens.expand(x.shape[0], -1, -1).to(x.dtype)], dim=1)  # (B, N+10, V)
        q, k = self.q(query), self.k(seen)
        attended = self.out((q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ seen)  # (B, n, V)
        return self.prompt_norm(attended + query), self.classifier(self.norm(attended))


@dataclass(frozen=True)
class DPTFeature:
    """Outputs of DPT's towers for a batch.

    Args:
        prompted: image features (B, D) with prompts.
        plain: image features (B, D) of the frozen tower.
        selected: (B, n), the classes that zero-shot CLIP finds likeliest, best first.
        text: text features (K, D) with prompts, not normalized.
        layer_logits: class logits (B, n, K) of each class-aware block.
    """

    prompted: Tensor
    plain: Tensor
    selected: Tensor
    text: Tensor
    layer_logits: tuple[Tensor, ...]

    def unflatten(self, *_: Any) -> "DPTFeature":
        """Return the features themselves: predictions are averaged over views, not features."""
        return self


@method(
    HEADS,
    "dpt",
    slot="head + visual prompts",
    paper="Dual Modality Prompt Tuning for Vision-Language Pre-Trained Model, arXiv 2208.08340",
    params="M*W + (bottom-1)*N*V + per class-aware block D*V + V + 64*V + V*V + 4*V + K*V + 10*V",
    parity=("dpt_cavpt",),
)
class DPTHead(PromptHead):
    """Scaled cosines of a prompted image tower, whose top blocks see class-aware prompts, and a prompted text tower.

    Use it in a `PromptedModel`, which lets the head run the image tower, and call `set_epoch` at every epoch.

    Paper: arXiv 2208.08340.
    At start: not the identity.
    Trains: `ctx` (M, W), `visual` (bottom-1, N, V), `cavpt` (one per block from `bottom` on).

    Args:
        in_dim: D.
        class_names: names of the K classes.
        clip: a `CLIP` or its config.
        n_ctx: M.
        n_visual: N, of the blocks below.
        bottom: the first class-aware block, counted from 1; None is the last block.
        top_classes: n, classes asked about; at most K.
        template: sentence of the zero-shot classifier.
        warmup_epochs: epochs with the three-term loss.
        alpha: weight of the blocks' own classification.
        n_tokens: learned tokens among a class-aware block's keys.
        attn_dim: width of its queries and keys.
        position: of the class name.
        chunk: prompts per pass of the text tower, recomputed in the backward pass; None for all at once.
        truncate: cut sequences to the longest prompt.
        logit_scale: another scale than that of `clip`.
        prompt_ids: finished token ids in place of tokenized class names.
        template_ids: finished token ids (K, L) of the zero-shot sentences.

    Raises:
        ValueError: `bottom` outside the tower, no class to ask about.
    """

    template_features: Tensor

    def __init__(
        self,
        in_dim: int,
        class_names: Sequence[str],
        clip: Any,
        n_ctx: int = 16,
        n_visual: int = 10,
        bottom: int | None = None,
        top_classes: int = 10,
        template: str = "a photo of a {}.",
        warmup_epochs: int = 30,
        alpha: float = 1.0,
        n_tokens: int = 10,
        attn_dim: int = 32,
        position: str = "end",
        chunk: int | None = None,
        truncate: bool = True,
        logit_scale: float | None = None,
        prompt_ids: PromptIds | None = None,
        template_ids: Tensor | None = None,
    ):
        super().__init__(class_names)
        tower = clip.visual
        bottom = tower.depth if bottom is None else bottom
        if not 1 <= bottom <= tower.depth:
            raise ValueError(f"bottom={bottom}: the first class-aware block lies between 1 and {tower.depth}")
        if top_classes < 1:
            raise ValueError(f"top_classes={top_classes}: ask about at least 1 class")
        self.plain_blocks, self.top_classes = bottom - 1, min(top_classes, self.num_classes)
        self.warmup_epochs, self.alpha, self.epoch = warmup_epochs, alpha, 0
        text = dict(logit_scale=logit_scale, chunk=chunk, truncate=truncate)
        self.make_prompts(clip, n_ctx, text, position=position, prompt_ids=prompt_ids)
        self.ctx = self.new_context()
        self.visual: Any = None
        if self.plain_blocks:
            self.visual = nn.Parameter(torch.empty(self.plain_blocks, n_visual, tower.dim).normal_(std=0.02))
        self.cavpt = nn.ModuleList(
            ClassAwarePrompts(in_dim, tower.dim, self.num_classes, n_tokens, attn_dim)
            for _ in range(tower.depth - self.plain_blocks)
        )
        if template_ids is None:
            features = self.text.encode_templates(self.class_names, [template])
        else:
            features = self.text.encode_ids(template_ids)
        self.register_buffer("template_features", features, persistent=False)

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch begins; the first `warmup_epochs` have three loss terms."""
        self.epoch = epoch

    def encode(self, encoder: Any, tokens: Tensor, grid: Grid) -> DPTFeature:
        """Encode embedded tokens (B*T, N, V) into everything that logits and loss need."""
        text = self.kept_text_features()
        plain = plain_feature(encoder, tokens.detach(), grid)
        likely = self.text.logits(plain, self.template_features).topk(self.top_classes, dim=1).indices  # (B, n)
        asked = text[likely].repeat_interleave(grid.t, 0)  # (B*T, n, D)
        layer_logits = []

        def prompt_of(i: int, x: Tensor) -> Tensor:
            if i < self.plain_blocks:
                return self.visual[i : i + 1]
            prompts, logits = self.cavpt[i - self.plain_blocks](x, asked)
            layer_logits.append(logits.unflatten(0, (-1, grid.t)).mean(1))
            return prompts

        prompted = pooled(encoder, run_prompted(encoder, tokens, grid, prompt_of), grid)
        return DPTFeature(prompted, plain, likely, text, tuple(layer_logits))

    def forward(self, feature: DPTFeature) -> Tensor:  # type: ignore[override]
        """Logits (B, K)."""
        return self.text.logits(feature.prompted, feature.text)

    def text_logits(self, feature: DPTFeature) -> Tensor:
        """Logits (B, K) of the frozen image feature and the prompted text."""
        return self.text.logits(feature.plain, feature.text)

    def image_logits(self, feature: DPTFeature) -> Tensor:
        """Logits (B, K) of the prompted image feature and the zero-shot sentences."""
        return self.text.logits(feature.prompted, unit(self.template_features))

    def loss(self, feature: DPTFeature, label: Tensor) -> dict[str, Tensor]:
        """Cross-entropy of the epoch's terms, and that of the class-aware blocks."""
        logits = self(feature)
        self.check_labels(label)
        loss = F.cross_entropy(logits, label)
        if self.epoch < self.warmup_epochs:
            loss = 0.1 * loss + F.cross_entropy(self.text_logits(feature), label)
            loss = loss + F.cross_entropy(self.image_logits(feature), label)
        blocks = torch.stack([self.block_loss(feature, block, label) for block in feature.layer_logits]).mean()
        return {"loss": loss + self.alpha * blocks, "top1": top1(logits, label)}

    @staticmethod
    def block_loss(feature: DPTFeature, logits: Tensor, label: Tensor) -> Tensor:
        """Mean cross-entropy of the prompts that ask about the label; 0 where none does."""
        hit = feature.selected == label[:, None]  # (B, n)
        each = F.cross_entropy(logits.flatten(0, 1), label.repeat_interleave(logits.shape[1]), reduction="none")
        return (each * hit.flatten()).sum() / hit.sum().clamp(min=1)
