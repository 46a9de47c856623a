"""Train ELEVATER's linear classifier as its toolkit does.

Paper: ELEVATER (arXiv 2204.08790).
"""

import copy
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xmodal.evaluation.fit import BestSoFar, fit
from xmodal.evaluation.metrics import accuracy
from xmodal.registry import did_you_mean

Measure = Callable[[np.ndarray, np.ndarray], float]


def initial_log_scale(kind: str, num_classes: int, pretrained: float | None = None) -> float:
    """Logarithm of the factor on the logits.

    Args:
        kind: `none` (factor 1), `clip` (1/0.07), `ln_cls` (ln K), or `pretrained`.
        num_classes: K.
        pretrained: `logit_scale` of the encoder, for the last kind.

    Raises:
        ValueError: an unknown kind, or `pretrained` without a value.
    """
    known = {"none": 0.0, "clip": math.log(1 / 0.07), "ln_cls": math.log(max(math.log(num_classes), 1e-6))}
    if kind == "pretrained" and pretrained is not None:
        return float(pretrained)
    if kind not in known:
        hint = "this encoder has no logit_scale" if kind == "pretrained" else did_you_mean(kind, [*known, "pretrained"])
        raise ValueError(f"logit_scale_init={kind!r}: {hint}")
    return known[kind]


class LinearProbe(nn.Module):
    """Feature to logits: a BatchNorm without weights, optional L2 norm, a linear layer, a fixed factor.

    Trains: D*K + K weights.

    Args:
        in_dim: D, width of the feature.
        num_classes: K.
        channel_bn: BatchNorm (eps 1e-5, momentum 0.1) in front; running statistics at evaluation.
        normalize: L2-normalize behind it.
        logit_scale_init: see `initial_log_scale`.
        text_weights: (K, D) initial weights, class features of a text tower; the bias is then 0.
        pretrained_scale: for `logit_scale_init="pretrained"`.

    Raises:
        ValueError: text weights of another shape.
    """

    def __init__(
        self,
        in_dim: int,
        num_classes: int,
        channel_bn: bool = True,
        normalize: bool = False,
        logit_scale_init: str = "none",
        text_weights: Tensor | None = None,
        pretrained_scale: float | None = None,
    ):
        super().__init__()
        self.channel_bn = nn.BatchNorm1d(in_dim, affine=False) if channel_bn else nn.Identity()
        self.normalize = normalize
        self.fc = nn.Linear(in_dim, num_classes)
        scale = initial_log_scale(logit_scale_init, num_classes, pretrained_scale)
        self.logit_scale = nn.Parameter(torch.tensor(scale), requires_grad=False)
        if text_weights is not None:
            if text_weights.shape != self.fc.weight.shape:
                wanted, got = tuple(self.fc.weight.shape), tuple(text_weights.shape)
                raise ValueError(f"text weights have shape {got}, the head needs {wanted}: (classes, feature width)")
            with torch.no_grad():
                self.fc.weight.copy_(text_weights)
                self.fc.bias.zero_()

    def forward(self, feature: Tensor) -> Tensor:
        """Map features (B, D) to logits (B, K)."""
        feature = self.channel_bn(feature)
        if self.normalize:
            feature = F.normalize(feature, dim=-1)
        return self.logit_scale.exp() * self.fc(feature)


@dataclass
class LabeledInputs:
    """Features (N, D) and labels: (N,) or, several a sample, 0/1 floats (N, K).

    Instead of features anything may stand that has a length, splits into batches, is indexed with a tensor and adds.
    """

    feature: Any
    label: Tensor

    def __len__(self) -> int:
        return len(self.feature)

    def merged(self, other: "LabeledInputs") -> "LabeledInputs":
        """Both, one behind the other."""
        ours, theirs = self.feature, other.feature
        joined = torch.cat([ours, theirs]) if isinstance(ours, Tensor) else ours + theirs
        return LabeledInputs(joined, torch.cat([self.label, other.label]))


@dataclass
class Fit:
    """Hold the result of training.

    Args:
        best: the best score over the epochs, in percent; on the test set this is the toolkit's final number.
        last: score after the last epoch, the honest figure.
        best_probabilities: (N, K) at the best epoch, the first of equals.
        last_probabilities: (N, K) after the last epoch.
        probe: the trained head.
    """

    best: float
    last: float
    best_probabilities: np.ndarray
    last_probabilities: np.ndarray
    probe: nn.Module


def fit_probe(
    probe: nn.Module,
    train: LabeledInputs,
    test: LabeledInputs,
    learning_rate: float,
    weight_decay: float,
    epochs: int,
    batch_size: int = 64,
    measure: Measure = accuracy,
    seed: int = 0,
) -> Fit:
    """Train a copy of `probe` on features and score it after every epoch.

    SGD with momentum 0.9, constant rate, weight decay on weight and bias; cross-entropy, or binary cross-entropy where
    labels are (N, K).

    Args:
        probe: the head at its start; not changed.
        train: training samples.
        test: samples scored.
        learning_rate: of SGD.
        weight_decay: of SGD.
        epochs: passes over `train`.
        batch_size: samples a step; a set no larger is one batch in its own order.
        measure: (probabilities (N, K), labels) to percent. Probabilities are softmax over classes in every case.
        seed: of the order of the samples.

    Raises:
        ValueError: no epoch.
    """
    if epochs < 1:
        raise ValueError(f"training needs at least 1 epoch, got epochs={epochs}")
    probe = copy.deepcopy(probe)
    trained = [p for p in probe.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=learning_rate, momentum=0.9, weight_decay=weight_decay)
    order = torch.Generator().manual_seed(seed)
    best, last = BestSoFar(), np.empty(0)

    def shuffled(epoch: int) -> Iterable[tuple[Tensor, Tensor]]:
        probe.train()
        return batches(train, batch_size, order)

    def judge(epoch: int) -> None:
        nonlocal last
        last = predict(probe, test.feature)
        best.offer(measure(last, test.label.cpu().numpy()), last)

    fit(epochs, shuffled, lambda batch: objective(probe(batch[0]), batch[1]), [optimizer], each_epoch=judge)
    return Fit(best.score, best.seen[-1], best.kept, last, probe)


def batches(samples: LabeledInputs, size: int, order: torch.Generator) -> Iterable[tuple[Tensor, Tensor]]:
    """Shuffled batches, made one by one; a last one of a single sample joins the one before (BatchNorm needs two)."""
    if len(samples) <= size:
        whole = samples.feature if isinstance(samples.feature, Tensor) else samples.feature[torch.arange(len(samples))]
        return [(whole, samples.label)]
    index = torch.randperm(len(samples), generator=order)
    parts = list(index.split(size))
    if len(parts[-1]) == 1:
        parts[-2:] = [torch.cat(parts[-2:])]
    return ((samples.feature[p.to(samples.feature.device)], samples.label[p.to(samples.label.device)]) for p in parts)


def objective(logits: Tensor, label: Tensor) -> Tensor:
    """Cross-entropy, or the binary one where a sample has several labels."""
    label = label.to(logits.device)
    if label.ndim == 2:
        return F.binary_cross_entropy_with_logits(logits, label.to(logits.dtype))
    return F.cross_entropy(logits, label)


@torch.no_grad()
def predict(probe: nn.Module, feature: Tensor, batch_size: int | None = None) -> np.ndarray:
    """Softmax probabilities (N, K) of features, or of images that are decoded batch by batch."""
    probe.eval()
    batch_size = batch_size or (8192 if isinstance(feature, Tensor) else 64)
    return torch.cat([probe(part).float().softmax(-1) for part in feature.split(batch_size)]).cpu().numpy()
