"""TaskRes: a residual that does not depend on the text tower, added to the features of each class's text.

Paper: Task Residual for Tuning Vision-Language Models (arXiv 2211.10277). With b_c the mean over templates of the raw
text features of class c (not normalized) and x_c trained from 0, the classifier is
    t_c = b_c + alpha * x_c,   logits = exp(logit_scale) * cos(f, t_c)
K*D weights. `projection` is the enhanced base: another text projection, trained before by the authors.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xmodal.encoders.clip import fill
from xmodal.heads.base import ScoringHead
from xmodal.heads.text_side import TextSide
from xmodal.registry import HEADS, method


@method(
    HEADS,
    "taskres",
    slot="head",
    paper="Task Residual for Tuning Vision-Language Models (arXiv 2211.10277)",
    params="K*D",
    parity=("taskres",),
)
class TaskResHead(ScoringHead):
    """Scaled cosines to the mean text features of each class plus a learned residual.

    Paper: arXiv 2211.10277.
    At start: zero-shot CLIP with the mean of raw text features.
    Trains: `residual`, (K, D).
    Differs from the released code: underscores in class names are read as spaces.

    Args:
        in_dim: D.
        class_names: names of the K classes.
        clip: a `CLIP` or its config; its text tower stays frozen.
        templates: sentences with one `{}` each.
        alpha: factor on the residual; 1 for Flowers.
        projection: another text projection (D, W).
        template_ids: finished token ids (templates, K, L) in place of tokenized sentences.
    """

    class_specific = True
    base: Tensor

    def __init__(
        self,
        in_dim: int,
        class_names: Sequence[str],
        clip: Any,
        templates: Sequence[str] = ("a photo of a {}.",),
        alpha: float = 0.5,
        projection: Tensor | None = None,
        template_ids: Tensor | None = None,
    ):
        super().__init__(class_names)
        self.text, self.alpha = TextSide(clip), alpha
        if template_ids is None:
            tokenize = self.text.need_tokenizer()
            template_ids = torch.stack([tokenize([fill(t, name) for name in self.class_names]) for t in templates])
        self.register_buffer("base", mean_features(self.text.tower, template_ids, projection))
        self.residual = nn.Parameter(torch.zeros_like(self.base))

    def text_features(self) -> Tensor:
        """Features (K, D) of the classes, not normalized."""
        return self.base + self.alpha * self.residual

    def forward(self, feature: Tensor) -> Tensor:
        """Map image features (B, D), normalized or not, to logits (B, K)."""
        return self.text.logits(feature, self.text_features())


@torch.no_grad()
def mean_features(tower: Any, ids: Tensor, projection: Tensor | None = None) -> Tensor:
    """Mean over templates of raw text features: token ids (templates, K, L) to (K, D), not normalized.

    Args:
        tower: the text tower.
        ids: token ids.
        projection: another projection (D, W) than the tower's.
    """
    features = []
    for own in ids.to(tower.token_embedding.weight.device):
        rows = tower.forward_blocks(tower.embed(own))[torch.arange(len(own)), tower.end(own)]
        features.append(tower.proj(tower.norm(rows)) if projection is None else F.linear(tower.norm(rows), projection))
    return torch.stack(features).mean(0)
