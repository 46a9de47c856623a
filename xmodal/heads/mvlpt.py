"""MVLPT: text, visual and unified prompts that many tasks share.

Paper: Multitask Vision-Language Prompt Tuning (arXiv 2211.11720). Text M*W; visual N*V shallow, L*N*V deep; unified
both, two projections in and out of `project_dim` and one transformer block between them.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xmodal.encoders.block import Block
from xmodal.heads.base import top1
from xmodal.heads.text_side import PromptHead, PromptIds
from xmodal.heads.visual_prompts import pooled, run_prompted
from xmodal.registry import HEADS, method
from xmodal.structures import Grid

PROJECTIONS = ("transformer", "mlp", "identity")


def linear_unless_equal(width: int, out: int) -> nn.Module:
    """A linear layer, or nothing where it would not change the width."""
    return nn.Identity() if width == out else nn.Linear(width, out)


class UnifiedPrompts(nn.Module):
    """The network between stored and used prompts: project, one transformer block, project back.

    Args:
        text_width: W.
        visual_width: V.
        dim: of the block.
        kind: `transformer`, `mlp` (an activation between the projections) or `identity` (no network at all).
        mix_tokens: let prompts attend to each other, as the paper says. The released code feeds the block so that each
            prompt sees only itself.

    Raises:
        ValueError: an unknown kind.
    """

    def __init__(
        self, text_width: int, visual_width: int, dim: int, kind: str = "transformer", mix_tokens: bool = True
    ):
        super().__init__()
        if kind not in PROJECTIONS:
            raise ValueError(f"project_method {kind!r}: choose one of {', '.join(PROJECTIONS)}")
        self.kind, self.mix_tokens = kind, mix_tokens
        if kind == "identity":
            return
        self.text_pre, self.text_post = linear_unless_equal(text_width, dim), linear_unless_equal(dim, text_width)
        self.visual_pre, self.visual_post = (
            linear_unless_equal(visual_width, dim),
            linear_unless_equal(dim, visual_width),
        )
        self.block = Block(dim, 1, act="quick_gelu", norm_eps=1e-5) if kind == "transformer" else nn.GELU()

    def forward(self, text: Tensor, visual: Tensor) -> tuple[Tensor, Tensor]:
        """Map text (G, M, W) and visual prompts (1, P, V) to the same shapes."""
        if self.kind == "identity":
            return text, visual
        groups, m = text.shape[:2]
        x = torch.cat([self.text_pre(text).flatten(0, 1)[None], self.visual_pre(visual)], dim=1)  # (1, G*M+P, dim)
        if self.kind == "transformer" and not self.mix_tokens:
            x = self.block(x.transpose(0, 1)).transpose(0, 1)  # every token is its own sequence
        else:
            x = self.block(x)
        text, visual = x[:, : groups * m], x[:, groups * m :]
        return self.text_post(text[0]).unflatten(0, (groups, m)), self.visual_post(visual)


@method(
    HEADS,
    "mvlpt",
    slot="head + visual prompts",
    paper="Multitask Vision-Language Prompt Tuning, arXiv 2211.11720",
    params="text M*W; visual L*N*V; unified both + 2*(W+V)*P + 2*P + W + V + 12*P*P + 13*P",
    parity=("mvlpt",),
)
class MVLPTHead(PromptHead):
    """Scaled cosines of a prompted image tower and a prompted text tower; either side may go without.

    Use it in a `PromptedModel`, which lets the head run the image tower.

    Paper: arXiv 2211.11720.
    At start: not the identity.
    Trains: `ctx` (M, W), `visual` (1, N, V), `deep` (L-1, N, V), the unified network and the visual projection, as
    far as they are asked for.
    Differs from the released code: prompts of the unified network attend to each other (`official=True`: each only to
    itself); masking a task's logits excludes the others' (`official=True`: multiplies them by 0, so that they still
    compete); with fewer deep prompts than blocks, the last ones stay instead of the blocks being skipped.

    Args:
        in_dim: D.
        class_names: names of the K classes; those of several tasks one behind the other.
        clip: a `CLIP` or its config.
        n_ctx: M, 0 for no text prompts.
        n_visual: N, 0 for no visual prompts.
        deep: fresh visual prompts in every block.
        position: of the class name: `end`, `middle` or `front`.
        class_specific: one text context per class.
        project_method: `transformer`, `mlp` or `identity`, where both sides have prompts.
        project_dim: of the unified network.
        visual_project: store visual prompts of this width and project them; None stores them at width V.
        dropout: on the visual prompts, in training.
        init_words: initial text context, or the fixed sentence where there are no text prompts; sets M.
        task_sizes: classes of each task, in order, for masking.
        chunk: prompts per pass of the text tower, recomputed in the backward pass; None for all at once.
        truncate: cut sequences to the longest prompt.
        logit_scale: another scale than that of `clip`.
        official: see above.
        prompt_ids: finished token ids in place of tokenized class names.

    Raises:
        ValueError: no prompts on either side, task sizes that do not add up.
    """

    def __init__(
        self,
        in_dim: int,
        class_names: Sequence[str],
        clip: Any,
        n_ctx: int = 4,
        n_visual: int = 4,
        deep: bool = True,
        position: str = "middle",
        class_specific: bool = False,
        project_method: str = "transformer",
        project_dim: int = 128,
        visual_project: int | None = None,
        dropout: float = 0.0,
        init_words: str | None = None,
        task_sizes: Mapping[str, int] | None = None,
        chunk: int | None = None,
        truncate: bool = True,
        logit_scale: float | None = None,
        official: bool = False,
        prompt_ids: PromptIds | None = None,
    ):
        super().__init__(class_names)
        if n_ctx < 1 and n_visual < 1:
            raise ValueError(f"n_ctx={n_ctx}, n_visual={n_visual}: give prompts to the text or to the image side")
        if task_sizes and sum(task_sizes.values()) != self.num_classes:
            raise ValueError(f"task_sizes {dict(task_sizes)} do not add up to the {self.num_classes} classes")
        self.task_sizes, self.official, self.class_specific = dict(task_sizes or {}), official, class_specific
        tower = clip.visual
        words = init_words or (None if n_ctx else "a photo of a")
        text = dict(logit_scale=logit_scale, chunk=chunk, truncate=truncate)
        self.make_prompts(clip, n_ctx, text, words, official, position if n_ctx else "end", prompt_ids)
        self.ctx: Any = self.new_context(init_words, class_specific) if n_ctx else None
        self.make_visual(tower, n_visual, deep, visual_project, dropout)
        self.unified = None
        if n_ctx and n_visual:
            widths = self.prompts.words.shape[1], self.visual.shape[-1]
            self.unified = UnifiedPrompts(*widths, project_dim, project_method, mix_tokens=not official)

    def make_visual(self, tower: Any, count: int, deep: bool, project: int | None, dropout: float) -> None:
        """Make the visual prompts, uniform in a bound that depends on the patch size and their width."""
        self.visual: Any = None
        self.deep: Any = None
        self.visual_proj: nn.Module = nn.Identity()
        self.dropout = nn.Dropout(dropout)
        if not count:
            return
        width = project or tower.dim
        bound = math.sqrt(6 / (3 * tower.patch_size**2 + width))
        self.visual = nn.Parameter(torch.empty(1, count, width).uniform_(-bound, bound))
        if deep and tower.depth > 1:
            self.deep = nn.Parameter(torch.empty(tower.depth - 1, count, width).uniform_(-bound, bound))
        if project:
            self.visual_proj = nn.Linear(width, tower.dim)
            nn.init.kaiming_normal_(self.visual_proj.weight, a=0, mode="fan_out")

    def used_prompts(self) -> tuple[Tensor | None, Tensor | None]:
        """Text context like `ctx`, and visual prompts (1 or L, N, width), as they leave the unified network."""
        visual = self.visual if self.deep is None else torch.cat([self.visual, self.deep])
        if self.unified is None:
            return self.ctx, visual
        text = self.ctx if self.ctx.ndim == 3 else self.ctx[None]
        text, flat = self.unified(text, visual.flatten(0, 1)[None])
        return text if self.ctx.ndim == 3 else text[0], flat[0].unflatten(0, visual.shape[:2])

    def text_features(self) -> Tensor:
        """Features (K, D) of the classes, not normalized."""
        ctx = self.used_prompts()[0]
        return self.text.encode(self.prompts, self.prompts.words.to(self.text.scale.device) if ctx is None else ctx)

    def encode(self, encoder: Any, tokens: Tensor, grid: Grid) -> Tensor:
        """Image features (B, D) of embedded tokens (B*T, N, V), with visual prompts where there are any."""
        visual = self.used_prompts()[1]
        if visual is not None:
            visual = self.visual_proj(visual)

        def prompt_of(i: int, x: Tensor) -> Tensor | None:
            if visual is None or i >= len(visual):
                return None
            return self.dropout(visual[i : i + 1].expand(x.shape[0], -1, -1))

        return pooled(encoder, run_prompted(encoder, tokens, grid, prompt_of), grid)

    def loss(self, feature: Any, label: Tensor, task: Tensor | None = None) -> dict[str, Tensor]:
        """Cross-entropy and top-1, among the classes of each sample's task where `task` (B,) is given."""
        if task is None:
            return super().loss(feature, label)
        logits = self.mask(self(feature), task)
        self.check_labels(label)
        return {"loss": F.cross_entropy(logits, label), "top1": top1(logits, label)}

    def mask(self, logits: Tensor, task: Tensor) -> Tensor:
        """Leave each sample only the classes of its task.

        Args:
            logits: (B, K).
            task: (B,), number of each sample's task in `task_sizes`.
        """
        owner = torch.repeat_interleave(torch.tensor(list(self.task_sizes.values()))).to(logits.device)  # (K,)
        inside = owner == task.to(logits.device)[:, None]
        return logits * inside if self.official else logits.masked_fill(~inside, float("-inf"))


def average_states(states: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of several trained heads' weights, from which a target task goes on.

    Raises:
        ValueError: none, or weights that do not have the same names.
    """
    if not states or any(set(s) != set(states[0]) for s in states):
        raise ValueError("average the weights of at least one head, all of the same kind")
    return {key: torch.stack([s[key].float() for s in states]).mean(0) for key in states[0]}
