"""Linear classifier on a feature."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xmodal.heads.base import check_range
from xmodal.registry import HEADS


@HEADS.register_module(name="classification")
class ClassificationHead(nn.Module):
    """Norm (optional), dropout, one linear layer; cross-entropy.

    Args:
        in_dim: width of the feature.
        num_classes: K.
        dropout: before the linear layer, in training.
        norm: a LayerNorm in front (EVL); `batch` for a BatchNorm without weights (AdaptFormer, Efficient Probing).
        label_smoothing: of the loss.
        init_std: standard deviation of the initial weights (bias 0); None keeps torch's default.
        column_penalty: times the sum of the norms of the weight's columns, added to the loss: it pushes whole features
            to zero before `tools/select_features.py` chooses among them (VQT: 1e-4).
        class_weights: factors (K,) of the loss of each class, or `balanced`: samples over (K x samples of the class).

    Raises:
        ValueError: fewer than two classes, or another norm.
    """

    multilabel = False
    weights: Tensor | None

    def __init__(
        self,
        in_dim: int,
        num_classes: int,
        dropout: float = 0.0,
        norm: bool | str = False,
        label_smoothing: float = 0.0,
        init_std: float | None = 0.02,
        column_penalty: float = 0.0,
        class_weights: Sequence[float] | str | None = None,
    ):
        super().__init__()
        if num_classes < 2:
            raise ValueError(f"a classifier needs at least 2 classes, got num_classes={num_classes}")
        self.num_classes, self.class_weights = num_classes, class_weights
        given = None if class_weights is None or isinstance(class_weights, str) else torch.tensor(class_weights)
        if given is not None and tuple(given.shape) != (num_classes,):
            raise ValueError(f"{len(given)} class_weights for num_classes={num_classes}")
        if isinstance(class_weights, str) and class_weights != "balanced":
            raise ValueError(f"class_weights are numbers or 'balanced', got {class_weights!r}")
        self.register_buffer("weights", None if given is None else given.float(), persistent=False)
        self.label_smoothing, self.column_penalty = label_smoothing, column_penalty
        if norm not in (True, False, "batch"):
            raise ValueError(f"norm={norm!r}: choose True (LayerNorm), batch or False")
        layer = nn.BatchNorm1d(in_dim, eps=1e-6, affine=False) if norm == "batch" else nn.LayerNorm(in_dim)
        self.norm: nn.Module = layer if norm else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(in_dim, num_classes)
        if init_std is not None:
            nn.init.normal_(self.fc.weight, std=init_std)
            nn.init.zeros_(self.fc.bias)

    def forward(self, feature: Tensor) -> Tensor:
        """Map features (B, in_dim) to logits (B, K)."""
        return self.fc(self.dropout(self.norm(feature)))

    def loss(self, feature: Tensor, label: Tensor) -> dict[str, Tensor]:
        """Cross-entropy against labels (B,) or soft targets (B, K), and the batch's top-1 in percent."""
        logits = self(feature).float()
        self.check_labels(label)
        loss = F.cross_entropy(
            logits, label, self.weights, label_smoothing=self.label_smoothing, reduction=self.reduction
        ).mean()
        with torch.no_grad():
            hard = label if label.ndim == 1 else label.argmax(1)
            top1 = (logits.argmax(1) == hard).float().mean() * 100
        if not self.column_penalty:
            return {"loss": loss, "top1": top1}
        return {"loss": loss, "loss_columns": self.column_penalty * self.fc.weight.norm(dim=0).sum(), "top1": top1}

    @property
    def reduction(self) -> str:
        """Return how the loss is averaged: weighted by the number of samples, so that parts of a batch add up."""
        return "mean" if self.weights is None else "none"

    def weigh(self, counts: Tensor, samples: int) -> None:
        """Set balanced weights from the number of samples (K,) of each class, of `samples` in all."""
        weights = samples / (self.num_classes * counts.clamp(min=1)).float()
        self.weights = torch.where(counts > 0, weights, torch.zeros_like(weights)).to(self.fc.weight.device)

    def check_labels(self, label: Tensor) -> None:
        """Refuse labels that are out of range, see `check_range`."""
        fix = f"num_classes={self.num_classes}; set model.head.num_classes to the classes of the data set"
        check_range(label, self.num_classes, fix)

    def predict(self, feature: Tensor) -> Tensor:
        """Class probabilities (B, K) in float32."""
        return self(feature).float().softmax(-1)
