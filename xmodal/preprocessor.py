"""Preprocess batches on the device: move them, normalize with the encoder's statistics, mix."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

PIXELS = ("image", "clips")


def normalize(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Normalize pixels.

    Args:
        images: (..., 3, H, W), 0-255, uint8 or float.
        mean: (3,), of images in [0, 1].
        std: (3,).

    Returns:
        float32 (..., 3, H, W).
    """
    scale = (1 / (255 * std)).view(3, 1, 1)
    shift = (mean / std).view(3, 1, 1)
    return images.to(mean.dtype) * scale - shift


class Preprocessor(nn.Module):
    """Move a batch to the model's device and normalize its pixels there.

    Args:
        mean: per channel, of images in [0, 1].
        std: per channel.
        mixup: alpha of mixup (arXiv 1710.09412), 0 for none; training only.
        cutmix: alpha of CutMix (arXiv 1905.04899), 0 for none; training only.
        num_classes: K, needed for mixing.
        label_smoothing: of the mixed targets.

    Raises:
        ValueError: mixing without `num_classes`.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        mean: Sequence[float],
        std: Sequence[float],
        mixup: float = 0.0,
        cutmix: float = 0.0,
        num_classes: int | None = None,
        label_smoothing: float = 0.0,
    ):
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32), persistent=False)
        self.check_labels: Callable[[Tensor], None] | None = None  # of the model's head
        self.mixer = None
        if mixup or cutmix:
            if not num_classes:
                raise ValueError("mixup and cutmix make soft labels: set `num_classes` of the preprocessor")
            from timm.data.mixup import Mixup

            self.mixer = Mixup(mixup, cutmix, label_smoothing=label_smoothing, num_classes=num_classes)

    def forward(self, data: dict[str, Any], training: bool = False) -> dict[str, Any]:
        """Return the batch on the device, pixels as normalized float32, mixed when training asks for it."""
        if training and self.check_labels is not None and isinstance(data.get("label"), Tensor):
            self.check_labels(data["label"])  # before a GPU sees them, which would end the process
        device = self.mean.device
        batch = {k: v.to(device, non_blocking=True) if isinstance(v, Tensor) else v for k, v in data.items()}
        for key in PIXELS:
            if key in batch:
                batch[key] = normalize(batch[key], self.mean, self.std)
                if training and self.mixer is not None:
                    batch[key], batch["label"] = self.mix(batch[key], batch["label"])
        return batch

    def mix(self, pixels: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """Mix images or whole clips (B, ..., H, W) in pairs; labels (B,) become (B, K)."""
        if len(pixels) % 2:
            return pixels, nn.functional.one_hot(label, self.mixer.num_classes).to(pixels.dtype)  # type: ignore[union-attr]
        flat = pixels.flatten(1, -3)  # (B, V*T*3, H, W)
        mixed, target = self.mixer(flat, label.to(flat.device))  # type: ignore[misc]
        return mixed.view_as(pixels), target.to(pixels.dtype)
