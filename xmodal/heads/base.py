"""Base class of CLIP heads: cross-entropy and probabilities from logits."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def unit(x: Tensor) -> Tensor:
    """L2-normalize the last axis, without an epsilon, as CLIP does."""
    return x / x.norm(dim=-1, keepdim=True)


def check_range(label: Tensor, num_classes: int, fix: str) -> None:
    """Refuse labels (B,) that are out of range; checked on the CPU only, where it does not wait for a GPU.

    The preprocessor lets a head check the labels of the loader, before they go to a GPU.

    Raises:
        ValueError: naming the label and what the head has and needs (`fix`).
    """
    on_host = label.device.type == "cpu" and not torch.compiler.is_compiling()
    if on_host and label.ndim == 1 and len(label) and not label.is_floating_point():
        low, high = int(label.min()), int(label.max())
        if low < 0 or high >= num_classes:
            wrong = high if high >= num_classes else low
            raise ValueError(f"label {wrong} is out of range: the head has {fix}")


class ScoringHead(nn.Module):
    """A head whose `forward` maps what the model calls a feature to logits (B, K).

    Args:
        class_names: names of the K classes.

    Raises:
        ValueError: fewer than two classes.
    """

    def __init__(self, class_names: Sequence[str]):
        super().__init__()
        if len(class_names) < 2:
            raise ValueError(f"a classifier needs at least 2 classes, got {list(class_names)}")
        self.class_names = [str(n) for n in class_names]
        self.num_classes = len(self.class_names)

    def loss(self, feature: Any, label: Tensor) -> dict[str, Tensor]:
        """Cross-entropy against labels (B,) or soft targets (B, K), and the batch's top-1 in percent."""
        logits = self(feature).float()
        self.check_labels(label)
        return {"loss": F.cross_entropy(logits, label), "top1": top1(logits, label)}

    def check_labels(self, label: Tensor) -> None:
        """Refuse labels that are out of range, see `check_range`."""
        check_range(label, self.num_classes, f"{self.num_classes} class names; give it those of the data set")

    def predict(self, feature: Any) -> Tensor:
        """Class probabilities (B, K) in float32."""
        return self(feature).float().softmax(-1)


@torch.no_grad()
def top1(logits: Tensor, label: Tensor) -> Tensor:
    """Return the top-1 accuracy of logits (B, K) in percent."""
    hard = label if label.ndim == 1 else label.argmax(1)
    return (logits.argmax(1) == hard).float().mean() * 100
