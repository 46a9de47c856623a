"""Zero-shot CLIP: classifier weights out of class names.

Paper: CLIP (arXiv 2103.00020). Nothing trains.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from xmodal.heads.base import ScoringHead
from xmodal.heads.text_side import TextSide
from xmodal.registry import HEADS, method


@method(
    HEADS,
    "zero_shot",
    slot="head",
    paper="Learning Transferable Visual Models From Natural Language Supervision, arXiv 2103.00020",
    parity=("coop",),
    params="0",
)
class ZeroShotHead(ScoringHead):
    """Scaled cosines to the mean features of each class's sentences.

    Paper: arXiv 2103.00020.
    Trains: nothing.

    Args:
        in_dim: D.
        class_names: names of the K classes.
        clip: a `CLIP` or its config.
        templates: sentences with `{}`; several make an ensemble. Or one list of finished sentences a class.
        logit_scale: another scale than that of `clip`.
    """

    weights: Tensor

    def __init__(
        self,
        in_dim: int,
        class_names: Sequence[str],
        clip: Any,
        templates: Sequence[str] | Sequence[Sequence[str]] = ("a photo of a {}.",),
        logit_scale: float | None = None,
    ):
        super().__init__(class_names)
        self.text = TextSide(clip, logit_scale)
        self.register_buffer("weights", self.text.encode_templates(self.class_names, templates), persistent=False)

    def forward(self, feature: Tensor) -> Tensor:
        """Map features (B, D), normalized or not, to logits (B, K)."""
        return self.text.logits(feature, self.weights)
