"""CoOp: learned context vectors in the place of a hand-written prompt.

Paper: Learning to Prompt for Vision-Language Models (arXiv 2109.01134). M*W weights, K*M*W with class-specific context.
"""

from collections.abc import Sequence
from typing import Any

from xmodal.heads.text_side import PromptHead, PromptIds
from xmodal.registry import HEADS, method


@method(
    HEADS,
    "coop",
    slot="head",
    paper="Learning to Prompt for Vision-Language Models, arXiv 2109.01134",
    params="M*W; class-specific K*M*W",
    parity=("coop",),
)
class CoOpHead(PromptHead):
    """Scaled cosines to the features of [context][class name].

    Paper: arXiv 2109.01134.
    At start: a random context; with `init_words` and `position="end"` zero-shot CLIP with that sentence.
    Trains: `ctx`, (M, W) or (K, M, W).
    Differs from the released code: the words of `init_words` are counted in tokens, and class-specific context can be
    initialized from words too; `official=True` counts words at the spaces.

    Args:
        in_dim: D.
        class_names: names of the K classes.
        clip: a `CLIP` or its config; its text tower stays frozen.
        n_ctx: M.
        position: of the class name: `end`, `middle` or `front`.
        class_specific: one context per class.
        init_words: initial context; sets M.
        chunk: prompts per pass of the text tower, recomputed in the backward pass; None for all at once.
        truncate: cut sequences to the longest prompt.
        logit_scale: another scale than that of `clip`.
        official: see above.
        prompt_ids: finished token ids in place of tokenized class names.

    Raises:
        ValueError: an unknown position, a class name that is too long, no tokenizer.
    """

    def __init__(
        self,
        in_dim: int,
        class_names: Sequence[str],
        clip: Any,
        n_ctx: int = 16,
        position: str = "end",
        class_specific: bool = False,
        init_words: str | None = None,
        chunk: int | None = None,
        truncate: bool = True,
        logit_scale: float | None = None,
        official: bool = False,
        prompt_ids: PromptIds | None = None,
    ):
        super().__init__(class_names)
        tower = dict(logit_scale=logit_scale, chunk=chunk, truncate=truncate)
        self.make_prompts(clip, n_ctx, tower, init_words, official, position, prompt_ids)
        self.class_specific = class_specific
        self.ctx = self.new_context(init_words, class_specific)
