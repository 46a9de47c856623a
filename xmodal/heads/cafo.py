"""CaFo: two caches (CLIP and a self-supervised encoder), synthetic shots, sentences of a language model.

Paper: Prompt, Generate, then Cache (arXiv 2303.02151; preprint name CoMo, 2209.12255). The caches' logits are blended
with weights that say how much each agrees with zero-shot CLIP. `fit_keys` trains both caches' keys, N x (D1 + D2).
"""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from xmodal.heads.base import ScoringHead, unit
from xmodal.heads.cache import CacheSearch, cache_logits, search
from xmodal.registry import HEADS, did_you_mean, method

MODES = ("mean", "softmax", "linear")


def normalize_rows(logits: Tensor, mode: str) -> Tensor:
    """Make rows of logits (B, K) comparable: z-scores (unbiased), probabilities, or unit length.

    Raises:
        ValueError: an unknown mode.
    """
    if mode == "mean":
        return (logits - logits.mean(1, keepdim=True)) / logits.std(1, keepdim=True)
    if mode == "softmax":
        return logits.softmax(1)
    if mode == "linear":
        return logits / logits.norm(dim=1, keepdim=True)
    raise ValueError(f"fusion {mode!r}: choose one of {', '.join(MODES)}")


def fuse(zero_shot: Tensor, others: Sequence[Tensor], mode: str = "mean") -> Tensor:
    """Blend logits (B, K), each weighted by its agreement with the zero-shot logits.

    Args:
        zero_shot: (B, K); left as it is.
        others: what is blended, each (B, K).
        mode: see `normalize_rows`.

    Returns:
        (B, K).
    """
    anchor = normalize_rows(zero_shot, mode)
    rows = torch.stack([normalize_rows(x, mode) for x in others], 1)  # (B, M, K)
    weight = (rows * anchor[:, None]).sum(-1).softmax(1)  # (B, M)
    return (weight[..., None] * rows).sum(1)


@method(
    HEADS,
    "cafo",
    slot="head",
    paper="Prompt, Generate, then Cache: Cascade of Foundation Models makes Strong Few-shot Learners, arXiv 2303.02151",
    params="classes * (shots + synthetic shots) * (D1 + D2)",
    parity=("cafo",),
)
class CaFoHead(ScoringHead):
    """100 f.W + alpha * fuse(cache of CLIP, cache of a second encoder).

    Paper: arXiv 2303.02151.
    At start: zero-shot CLIP plus the blended caches.
    Trains: both caches' keys, in `key_training.fit_keys`.
    Differs from the released code: the search uses the keys the head holds, trained ones after training (there the
    search ran on the untrained ones); the zero-shot logits are never changed in place.

    Args:
        in_dim: D1, width of CLIP's feature.
        class_names: names of the K classes.
        text_features: L2-normalized (K, D1).
        keys: L2-normalized (N, D1) of CLIP, real shots first, then synthetic ones.
        second_keys: L2-normalized (N, D2) of the second encoder, of the same images.
        values: one-hot (N, K).
        alpha: weight of the caches.
        beta: sharpness of both caches.
        fusion: `mean`, `softmax` or `linear`.
        logit_scale: of the zero-shot logits.
        train_keys: whether the keys train in a Runner.

    Raises:
        ValueError: shapes that do not fit, or an unknown fusion.
    """

    text_features: Tensor
    values: Tensor

    def __init__(
        self,
        in_dim: int,
        class_names: Sequence[str],
        text_features: Tensor,
        keys: Tensor,
        second_keys: Tensor,
        values: Tensor,
        alpha: float = 1.0,
        beta: float = 1.0,
        fusion: str = "mean",
        logit_scale: float = 100.0,
        train_keys: bool = False,
    ):
        super().__init__(class_names)
        if fusion not in MODES:
            raise ValueError(f"fusion {fusion!r}: {did_you_mean(fusion, MODES)}")
        if not len(keys) == len(second_keys) == len(values) or keys.shape[1] != in_dim:
            shapes = ", ".join(str(tuple(t.shape)) for t in (keys, second_keys, values))
            raise ValueError(
                f"keys, second_keys and values {shapes} do not fit each other or features of width {in_dim}"
            )
        self.alpha, self.beta, self.logit_scale, self.fusion = float(alpha), float(beta), float(logit_scale), fusion
        self.keys = nn.Parameter(keys.detach().clone(), requires_grad=train_keys)
        self.second_keys = nn.Parameter(second_keys.detach().clone(), requires_grad=train_keys)
        self.register_buffer("values", values.detach().clone())
        self.register_buffer("text_features", text_features.detach().clone())

    def zero_shot(self, feature: Tensor) -> Tensor:
        """Zero-shot logits (B, K) of CLIP features (B, D1)."""
        return self.logit_scale * unit(feature) @ self.text_features.t()

    def affinities(self, features: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Cosines (B, N) of queries and keys, for both encoders."""
        return unit(features[0]) @ self.keys.t(), unit(features[1]) @ self.second_keys.t()

    def cached(self, features: tuple[Tensor, Tensor]) -> list[Tensor]:
        """Logits (B, K) of each cache, neither blended nor weighted."""
        return [cache_logits(a, self.values, self.beta) for a in self.affinities(features)]

    def forward(self, features: tuple[Tensor, Tensor]) -> Tensor:
        """Map features of both encoders, (B, D1) and (B, D2), to logits (B, K)."""
        base = self.zero_shot(features[0])
        return base + fuse(base, self.cached(features), self.fusion) * self.alpha

    @torch.no_grad()
    def search(
        self,
        features: tuple[Tensor, Tensor],
        label: Tensor,
        scale: Sequence[float],
        steps: Sequence[int] = (200, 20),
    ) -> CacheSearch:
        """Set alpha and beta to the best pair on labeled features of both encoders, and say what was tried."""
        base, affinities = self.zero_shot(features[0]), self.affinities(features)
        room = torch.empty_like(affinities[0])

        def blended(beta: float) -> Tensor:
            return fuse(base, [cache_logits(a, self.values, beta, room) for a in affinities], self.fusion)

        found = search(base, blended, label, scale, steps)
        self.alpha, self.beta = found.alpha, found.beta
        return found


def read_sentences(path: str | Path, class_names: Sequence[str]) -> list[list[str]]:
    """Sentences of each class from a JSON file {class name: [sentence, ...]}.

    Raises:
        ValueError: a class without sentences, with the nearest name the file has.
    """
    content = json.loads(Path(path).read_text(encoding="utf-8"))
    plain = {key.replace("_", " ").lower(): value for key, value in content.items()}
    found = []
    for name in class_names:
        sentences = content.get(name) or plain.get(name.replace("_", " ").lower())
        if not sentences:
            raise ValueError(f"{path}: no sentences for class {name!r}; {did_you_mean(name, content)}")
        found.append([str(s) for s in sentences])
    return found
