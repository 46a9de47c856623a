"""MaPLe: learned text tokens in the first blocks, and image prompts that are linear maps of them.

Paper: MaPLe: Multi-modal Prompt Learning (arXiv 2210.03117). n tokens P_0 stand behind the text's start token, and
    V_i = proj_i(P_i)
behind the image's patches (positions added before them, norm behind). P_i and V_i replace these rows in front of block
i for i = 1, ..., depth - 1; later blocks go on with what comes out. logits = exp(logit_scale) * cos at the end and the
class token. n*W*depth + depth*(W*V + V) weights.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from xmodal.clip_tuning.prompts import check_depth, first_context, place_text, place_visual, splice
from xmodal.clip_tuning.tuned import TunedCLIP
from xmodal.heads.base import unit
from xmodal.registry import MODELS, method


def text_prompt(index: int, model: "MaPLe") -> Tensor:
    """Text prompts (n, W) of block `index`."""
    return model.ctx if index == 0 else model.text_prompts[index - 1]


def image_prompt(index: int, model: "MaPLe") -> Tensor:
    """Image prompts (n, V) of block `index`."""
    project = model.proj if index == 0 else model.projections[index - 1]
    return project(text_prompt(index, model))


@method(
    MODELS,
    "maple",
    slot="both towers",
    paper="MaPLe: Multi-modal Prompt Learning (arXiv 2210.03117)",
    params="depth*(n*W + W*V + V)",
    parity=("maple",),
)
class MaPLe(TunedCLIP):
    """CLIP with coupled prompts in both towers.

    Args:
        class_names: names of the K classes.
        clip: a `CLIP` or its config; it is copied.
        n_ctx: n.
        depth: blocks with prompts of their own, the input counted; 9, or 3 across data sets.
        template: sentence with one `{}`; its words at places 1 to n are replaced, the others stay.
        from_words: begin with the embeddings of the replaced words; not so in the release for n above 4.
        prompt_ids: finished token ids (K, L).

    Raises:
        ValueError: a depth that a tower does not have.
    """

    def __init__(
        self,
        class_names: Sequence[str],
        clip: Any,
        n_ctx: int = 2,
        depth: int = 9,
        template: str = "a photo of a {}.",
        from_words: bool = True,
        prompt_ids: Tensor | None = None,
    ):
        super().__init__(class_names, clip, template, None, prompt_ids)
        text, visual = self.clip.text, self.clip.visual
        check_depth(depth, n_ctx, min(len(text.blocks), len(visual.blocks)), "maple")
        self.ctx = first_context(text, self.ids, n_ctx, from_words)
        self.proj = nn.Linear(text.dim, visual.dim)
        deep = [torch.randn(n_ctx, text.dim) * 0.02 for _ in range(depth - 1)]
        self.text_prompts = nn.ParameterList(nn.Parameter(p) for p in deep)
        self.projections = nn.ModuleList(nn.Linear(text.dim, visual.dim) for _ in deep)
        for other in list(self.projections)[1:]:  # clones of one layer
            other.load_state_dict(self.projections[0].state_dict())
        place_visual(visual, self, [partial(image_prompt, i) for i in range(depth)], "maple")
        place_text(text, self, [partial(text_prompt, i) for i in range(1, depth)], "maple")

    def encode_classes(self) -> Tensor:
        """Unit features (K, D) of the prompted classes."""
        text = self.clip.text
        return unit(text.encode_embedded(splice(text, self.ids, self.ctx), text.end(self.ids), truncate=False))
