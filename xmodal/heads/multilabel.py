"""Linear classifier of samples that have several classes, or none: a sigmoid for each class."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from xmodal.heads.classification import ClassificationHead
from xmodal.registry import HEADS


@HEADS.register_module(name="multilabel")
class MultiLabelHead(ClassificationHead):
    """Norm (optional), dropout, one linear layer; binary cross-entropy of every class.

    Args:
        in_dim: width of the feature.
        num_classes: K.
        class_weights: factors (K,) of the loss where a class is present, or `balanced`: samples without a class over
            samples with it.
        **options: `dropout`, `norm` and `init_std` of `ClassificationHead`.
    """

    multilabel = True

    def __init__(
        self, in_dim: int, num_classes: int, class_weights: Sequence[float] | str | None = None, **options: Any
    ):
        super().__init__(in_dim, num_classes, class_weights=class_weights, **options)

    def loss(self, feature: Tensor, label: Tensor) -> dict[str, Tensor]:
        """Binary cross-entropy against labels (B, K) of 0 and 1, and the share of right answers in percent."""
        logits = self(feature).float()
        self.check_labels(label)
        loss = F.binary_cross_entropy_with_logits(logits, label.to(logits.dtype), pos_weight=self.weights)
        with torch.no_grad():
            right = ((logits > 0) == (label > 0.5)).float().mean() * 100
        return {"loss": loss, "right": right}

    def check_labels(self, label: Tensor) -> None:
        """Refuse labels of one class a sample, and those of another number of classes.

        Raises:
            ValueError: naming the shape and the fix.
        """
        if label.ndim != 2 or label.shape[1] != self.num_classes:
            raise ValueError(
                f"labels have shape {tuple(label.shape)}, the multi-label head wants (B, {self.num_classes}): give the "
                "data set `classes`, and the head num_classes of them"
            )

    def weigh(self, counts: Tensor, samples: int) -> None:
        """Set balanced weights from the number of samples (K,) that have each class, of `samples` in all."""
        self.weights = ((samples - counts) / counts.clamp(min=1)).float().to(self.fc.weight.device)

    def predict(self, feature: Tensor) -> Tensor:
        """Probability (B, K) of each class by itself, in float32."""
        return self(feature).float().sigmoid()
