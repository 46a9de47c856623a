"""CoCoOp: context vectors conditioned on each image.

Paper: Conditional Prompt Learning for Vision-Language Models (arXiv 2203.05557).
M*W + D*(D//16) + D//16 + (D//16)*W + W weights.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from xmodal.heads.base import unit
from xmodal.heads.text_side import PromptIds, PromptLearner
from xmodal.registry import HEADS, method


@method(
    HEADS,
    "cocoop",
    slot="head",
    paper="Conditional Prompt Learning for Vision-Language Models, arXiv 2203.05557",
    params="M*W + D*(D//16) + D//16 + (D//16)*W + W",
    parity=("cocoop",),
)
class CoCoOpHead(PromptLearner):
    """Scaled cosines to the features of [context + shift(image)][class name]; B * K prompts a batch.

    Paper: arXiv 2203.05557.
    At start: not the identity (the shift is a fresh network), even with `init_words`.
    Trains: `ctx` (M, W) and `meta_net`.

    Args:
        in_dim: D.
        class_names: names of the K classes.
        clip: a `CLIP` or its config; its text tower stays frozen.
        n_ctx: M, where no words are given.
        init_words: initial context; sets M.
        chunk: prompts per pass of the text tower, recomputed in the backward pass; None for all B * K at once.
        truncate: cut sequences to the longest prompt.
        logit_scale: another scale than that of `clip`.
        official: words of `init_words` are counted at the spaces, as in the released code.
        prompt_ids: finished token ids in place of tokenized class names.

    Raises:
        ValueError: features narrower than 16, a class name that is too long, no tokenizer.
    """

    def __init__(
        self,
        in_dim: int,
        class_names: Sequence[str],
        clip: Any,
        n_ctx: int = 4,
        init_words: str | None = None,
        chunk: int | None = None,
        truncate: bool = True,
        logit_scale: float | None = None,
        official: bool = False,
        prompt_ids: PromptIds | None = None,
    ):
        super().__init__(class_names)
        if in_dim < 16:
            raise ValueError(
                f"features of width {in_dim}: the shift's hidden layer is in_dim // 16 wide, so at least 16"
            )
        tower = dict(logit_scale=logit_scale, chunk=chunk, truncate=truncate)
        self.make_prompts(clip, n_ctx, tower, init_words, official, prompt_ids=prompt_ids)
        self.ctx = self.new_context(init_words)
        hidden, width = in_dim // 16, self.ctx.shape[1]
        layers = [("linear1", nn.Linear(in_dim, hidden)), ("relu", nn.ReLU()), ("linear2", nn.Linear(hidden, width))]
        self.meta_net = nn.Sequential(OrderedDict(layers))

    def shift(self, feature: Tensor) -> Tensor:
        """Compute the shift (B, W) that each image adds to every context vector."""
        return self.meta_net(unit(feature))

    def forward(self, feature: Tensor) -> Tensor:
        """Map image features (B, D), normalized or not, to logits (B, K)."""
        ctx = self.ctx + self.shift(feature)[:, None]  # (B, M, W)
        return self.text.logits(feature, self.text.encode_groups(self.prompts, ctx))
