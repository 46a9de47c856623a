"""ProLIP: train the last projection of CLIP's image tower, held near where it was.

Paper: CLIP's Visual Embedding Projector is a Few-shot Cornucopia (arXiv 2410.05270). With x the image feature in front
of the projection P (start P0) and t_c the frozen text weights,
    logits_c = 100 * cos(x P, t_c),   loss = cross-entropy + lambda * sum (P - P0)^2
Adam (eps 1e-4), a cosine per epoch to 0, one step on all shots an epoch, another stored view in each: 1, 2, ..., A-1,
0, 1, ... Without validation lambda = 1 / shots and the rate 1e-5. V*D weights. Train in float32: in float16 steps of
1e-5 vanish.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from xmodal.heads.base import ScoringHead, unit
from xmodal.registry import HEADS, method


@method(
    HEADS,
    "prolip",
    slot="head",
    paper="ProLIP: CLIP's Visual Embedding Projector is a Few-shot Cornucopia (arXiv 2410.05270)",
    params="V*D",
    parity=("prolip",),
)
class ProLIPHead(ScoringHead):
    """Scaled cosines of projected features and frozen text weights; the projection trains.

    Paper: arXiv 2410.05270.
    At start: zero-shot CLIP.
    Trains: `weight`, (D, V).

    Args:
        in_dim: V, width in front of the projection.
        class_names: names of the K classes.
        text_features: L2-normalized (K, D).
        weight: the tower's own projection (D, V).
        bias: frozen bias (D,) of it (CLIP's ResNets).
        logit_scale: of the cosines.
    """

    text_features: Tensor
    start: Tensor
    bias: Tensor | None

    def __init__(
        self,
        in_dim: int,
        class_names: Sequence[str],
        text_features: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        logit_scale: float = 100.0,
    ):
        super().__init__(class_names)
        self.logit_scale = logit_scale
        self.register_buffer("text_features", text_features.detach().clone())
        self.register_buffer("start", weight.detach().clone(), persistent=False)
        self.register_buffer("bias", None if bias is None else bias.detach().clone())
        self.weight = nn.Parameter(weight.detach().clone())

    def forward(self, feature: Tensor) -> Tensor:
        """Map features in front of the projection (B, V) to logits (B, K)."""
        return self.logit_scale * unit(F.linear(feature, self.weight, self.bias)) @ self.text_features.T

    def distance(self) -> Tensor:
        """Sum of squared differences to the start."""
        return (self.weight - self.start).square().sum()
