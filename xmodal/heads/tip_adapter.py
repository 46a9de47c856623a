"""Tip-Adapter and Tip-Adapter-F: a cache of few-shot features beside zero-shot CLIP.

Paper: Tip-Adapter (arXiv 2207.09519). Nothing trains until `fit_keys` is called, which makes it Tip-Adapter-F and
trains the N x D keys.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from xmodal.heads.base import ScoringHead, unit
from xmodal.heads.cache import CacheSearch, build_cache, cache_logits, search
from xmodal.registry import HEADS, method


@method(
    HEADS,
    "tip_adapter",
    slot="head",
    paper="Tip-Adapter: Training-free Adaption of CLIP for Few-shot Classification, arXiv 2207.09519",
    params="0; F: classes * shots * D",
    parity=("tip_adapter",),
)
class TipAdapterHead(ScoringHead):
    """100 f.W + alpha * exp(-(beta - beta f.keys)) @ values.

    Paper: arXiv 2207.09519.
    At start: zero-shot CLIP plus the cache.
    Trains: the keys, (N, D), in `key_training.fit_keys` (Tip-Adapter-F).
    Differs from the released code: the keys that were cached stay as they are when a trained copy is made of them.

    Args:
        in_dim: D.
        class_names: names of the K classes.
        text_features: L2-normalized (K, D).
        keys: L2-normalized (N, D), from `build_cache`.
        values: one-hot (N, K).
        alpha: weight of the cache.
        beta: sharpness of the cache.
        logit_scale: of the zero-shot logits.
        train_keys: whether the keys train in a Runner.

    Raises:
        ValueError: shapes that do not fit.
    """

    text_features: Tensor
    values: Tensor

    def __init__(
        self,
        in_dim: int,
        class_names: Sequence[str],
        text_features: Tensor,
        keys: Tensor,
        values: Tensor,
        alpha: float = 1.0,
        beta: float = 1.0,
        logit_scale: float = 100.0,
        train_keys: bool = False,
    ):
        super().__init__(class_names)
        if keys.shape[1] != in_dim or text_features.shape != (self.num_classes, in_dim):
            raise ValueError(
                f"text_features {tuple(text_features.shape)} and keys {tuple(keys.shape)} do not fit "
                f"{self.num_classes} classes and features of width {in_dim}"
            )
        self.alpha, self.beta, self.logit_scale = float(alpha), float(beta), float(logit_scale)
        self.keys = nn.Parameter(keys.detach().clone(), requires_grad=train_keys)
        self.register_buffer("values", values.detach().clone())
        self.register_buffer("text_features", text_features.detach().clone())
        self.register_load_state_dict_pre_hook(_older_state)

    def get_extra_state(self) -> Tensor:
        """Alpha and beta, which a search may have set."""
        return torch.tensor([self.alpha, self.beta], dtype=torch.float64)

    def set_extra_state(self, state: Tensor) -> None:
        """Restore alpha and beta."""
        self.alpha, self.beta = state.tolist()

    @classmethod
    def from_shots(
        cls, features: Tensor, label: Tensor, text_features: Tensor, class_names: Sequence[str], **more: Any
    ) -> "TipAdapterHead":
        """Build the cache of raw training features (A, N, D) or (N, D) with labels (N,)."""
        keys, values = build_cache(features, label, len(class_names))
        return cls(keys.shape[1], class_names, text_features, keys, values, **more)

    def zero_shot(self, feature: Tensor) -> Tensor:
        """Zero-shot logits (B, K)."""
        return self.logit_scale * unit(feature) @ self.text_features.t()

    def cached(self, feature: Tensor, beta: float | None = None) -> Tensor:
        """Logits of the cache (B, K), not weighted."""
        return cache_logits(unit(feature) @ self.keys.t(), self.values, self.beta if beta is None else beta)

    def forward(self, feature: Tensor) -> Tensor:
        """Map features (B, D), normalized or not, to logits (B, K)."""
        return self.zero_shot(feature) + self.cached(feature) * self.alpha

    @torch.no_grad()
    def search(
        self, feature: Tensor, label: Tensor, scale: Sequence[float], steps: Sequence[int] = (200, 20)
    ) -> CacheSearch:
        """Set alpha and beta to the best pair on labeled features (N, D), and say what was tried.

        Args:
            feature: of a validation set. Searching on the test set is optimistic: report it as such.
            label: (N,).
            scale: (largest beta, largest alpha), exclusive.
            steps: numbers of betas and alphas.
        """
        affinity = unit(feature) @ self.keys.t()  # (N, cache)
        room = torch.empty_like(affinity)
        added = lambda beta: cache_logits(affinity, self.values, beta, room)  # noqa: E731
        found = search(self.zero_shot(feature), added, label, scale, steps)
        self.alpha, self.beta = found.alpha, found.beta
        return found


def _older_state(head: TipAdapterHead, state: dict, prefix: str, *_: Any) -> None:
    """State dicts of earlier versions hold no alpha and beta: those of the head stay."""
    state.setdefault(f"{prefix}_extra_state", head.get_extra_state())
