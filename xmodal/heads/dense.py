"""A light feature-pyramid head that labels every pixel."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xmodal.registry import HEADS, build

IGNORE = -1


@HEADS.register_module(name="light_fpn")
class LightFPN(nn.Module):
    """Maps of several strides to one logit per class and pixel.

    Each map is brought to one width by a 1x1 convolution and added to the next finer one; a 3x3 convolution smooths the
    finest, a 1x1 convolution classifies it.

    Paper: Feature Pyramid Networks for Object Detection (arXiv 1612.03144), much reduced.

    Args:
        in_dim: channels of the maps, finest first.
        num_classes: K, background included.
        width: channels inside.
        dropout: before the classifier, in training.
        class_weight: weight of each class in the loss (K,), so that small things count too; None for 1.
        neck: what the maps pass first, such as `dynamic_head`, or its config; receives `in_dims`. None for nothing.

    Trains: all of it.

    Raises:
        ValueError: fewer than two classes, no map, or another number of class weights than classes.
    """

    class_weight: Tensor | None

    def __init__(
        self,
        in_dim: Sequence[int],
        num_classes: int,
        width: int = 64,
        dropout: float = 0.1,
        class_weight: Sequence[float] | None = None,
        neck: Any = None,
    ):
        super().__init__()
        if class_weight is not None and len(class_weight) != num_classes:
            raise ValueError(f"class_weight has {len(class_weight)} entries for {num_classes} classes")
        weight = None if class_weight is None else torch.tensor(class_weight, dtype=torch.float32)
        self.register_buffer("class_weight", weight, persistent=False)
        if num_classes < 2 or not in_dim:
            raise ValueError(f"light_fpn needs 2 classes and a map at least, got {num_classes} and {list(in_dim)}")
        self.num_classes = num_classes
        self.neck = None if neck is None else build(neck, HEADS, in_dims=in_dim)
        in_dim = in_dim if self.neck is None else [self.neck.dim] * len(in_dim)
        self.lateral = nn.ModuleList(nn.Conv2d(dim, width, 1) for dim in in_dim)
        groups = next(g for g in (8, 4, 2, 1) if width % g == 0)
        self.smooth = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.GroupNorm(groups, width), nn.ReLU())
        self.dropout = nn.Dropout2d(dropout)
        self.classify = nn.Conv2d(width, num_classes, 1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Map (B, C_i, h_i, w_i), finest first, to logits (B, K, h_0, w_0)."""
        x, maps = None, maps if self.neck is None else self.neck(maps)
        for lateral, level in zip(reversed(self.lateral), reversed(maps), strict=True):
            y = lateral(level)
            x = y if x is None else y + F.interpolate(x, size=y.shape[-2:], mode="nearest")
        assert x is not None
        return self.classify(self.dropout(self.smooth(x)))

    def full_size(self, maps: Sequence[Tensor], size: Sequence[int]) -> Tensor:
        """Logits (B, K, H, W) at the size of the image."""
        return F.interpolate(self(maps).float(), size=tuple(size), mode="bilinear", align_corners=False)

    def loss(self, maps: Sequence[Tensor], segment: Tensor) -> dict[str, Tensor]:
        """Cross-entropy against classes (B, H, W), -1 ignored, and the share of right pixels in percent.

        Raises:
            ValueError: a class the head does not have (looked for on the CPU, where looking costs nothing).
        """
        if segment.device.type == "cpu" and int(segment.max()) >= self.num_classes:
            raise ValueError(f"segment holds class {int(segment.max())}, the head has num_classes={self.num_classes}")
        logits = self.full_size(maps, segment.shape[-2:])
        with torch.no_grad():
            known = segment != IGNORE
            right = ((logits.argmax(1) == segment) & known).sum() / known.sum() * 100
        loss = F.cross_entropy(logits, segment, self.class_weight, ignore_index=IGNORE)
        return {"loss": loss, "pixel_accuracy": right}

    def predict(self, maps: Sequence[Tensor], size: Sequence[int]) -> Tensor:
        """Classes (B, H, W)."""
        return self.full_size(maps, size).argmax(1)
