"""LP++: a linear probe plus text features with one learned factor a class, and steps from Lipschitz constants.

Paper: LP++: A Surprisingly Strong Linear Probe for Few-Shot CLIP (arXiv 2404.02285). On unit features f of N shots and
unit text weights t_c,
    logits_c = w_c . f + b_c + alpha_c * (f . t_c)
w_c starts as the sum of the class's features, alpha_c at 250 * the mean cosine of shots and their class's text. W and b
take SGD steps (momentum 0.9) of 4 N / lambda_max(F^T F); every tenth epoch alpha takes one of N / (4 max_c sum_i
(f_i . t_c)^2). In the release alpha's gradient is never cleared; `clear_alpha` takes that of the epoch. K*D + 2*K
weights.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xmodal.heads.base import ScoringHead, unit
from xmodal.registry import HEADS, method


@method(
    HEADS,
    "lp_plus_plus",
    slot="head",
    paper="LP++: A Surprisingly Strong Linear Probe for Few-Shot CLIP (arXiv 2404.02285)",
    params="K*D + 2*K",
    parity=("lp_plus_plus",),
)
class LPPlusPlusHead(ScoringHead):
    """A linear classifier on unit features plus text similarities with a factor a class.

    Paper: arXiv 2404.02285.
    At start: sums of features and text, see `from_shots`.
    Trains: all of it, with `fit_lp`.

    Args:
        in_dim: D.
        class_names: names of the K classes.
        text_features: L2-normalized (K, D).
        weight: initial (K, D).
        alpha: initial factor of every class.
    """

    class_specific = True
    text_features: Tensor

    def __init__(
        self, in_dim: int, class_names: Sequence[str], text_features: Tensor, weight: Tensor, alpha: float = 1.0
    ):
        super().__init__(class_names)
        self.register_buffer("text_features", text_features.detach().clone())
        self.weight = nn.Parameter(weight.detach().clone())
        self.bias = nn.Parameter(torch.empty(len(weight)).uniform_(-(in_dim**-0.5), in_dim**-0.5).to(weight))
        self.alpha = nn.Parameter(torch.full((len(weight),), float(alpha)).to(weight))

    @classmethod
    def from_shots(
        cls, feature: Tensor, label: Tensor, text_features: Tensor, class_names: Sequence[str], factor: float = 250.0
    ) -> "LPPlusPlusHead":
        """Start from features (N, D) of the shots and their labels (N,)."""
        f, members = unit(feature), F.one_hot(label.long(), len(class_names)).to(feature)
        own = (members.T @ (f @ text_features.T * members)).diagonal() / members.sum(0)  # mean cosine of each class
        return cls(f.shape[1], class_names, text_features, members.T @ f, factor * float(own.mean()))

    def forward(self, feature: Tensor) -> Tensor:
        """Map features (B, D), normalized or not, to logits (B, K)."""
        f = unit(feature)
        return F.linear(f, self.weight, self.bias) + f @ self.text_features.T * self.alpha
