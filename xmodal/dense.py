"""Semantic segmentation of images with a ConvNet that adapters edit: model and metric."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from xmodal.encoders.taps import Taps
from xmodal.metrics import CountingMetric, confusion, gather
from xmodal.model import EncoderModel
from xmodal.readers import Reader
from xmodal.registry import METRICS, MODELS, READERS
from xmodal.structures import Encoder, Grid


@READERS.register_module(name="pyramid")
class PyramidReader(Reader):
    """The maps of all stages of a ConvNet, finest first.

    Args:
        encoder: a tower with `feature_maps`.

    Raises:
        ValueError: a tower without stages.
    """

    out_dim: list[int]  # type: ignore[assignment]

    def __init__(self, encoder: Encoder):
        super().__init__()
        self.out_dim = encoder.map_dims()

    def forward(self, tokens: Tensor, grid: Grid | None, encoder: Encoder, taps: Taps | None = None) -> Any:
        """Map normalized images (B, 3, H, W), which are such a tower's tokens, to its maps (B, C_i, h_i, w_i)."""
        return encoder.feature_maps(tokens)


@MODELS.register_module(name="segmentation")
class SegmentationModel(EncoderModel):
    """A model that labels pixels; batches hold `image` (B, 3, H, W) and `segment` (B, H, W), -1 = ignore.

    Args:
        encoder: a ConvNet, or its config.
        head: such as `LightFPN`; receives `in_dim`, the channels of all maps.
        **options: see `EncoderModel`; the reader is `PyramidReader` unless given.

    Raises:
        ValueError: something trains behind the last map, which no stage shows (`conv_adapter` with `norms="paper"`).
    """

    def __init__(self, encoder: Any, head: Any, **options: Any):
        super().__init__(encoder, head, **{"reader": dict(type=PyramidReader), **options})
        placed = getattr(getattr(self.encoder, "norm", None), "edits", None)
        if placed is not None and len(placed):
            raise ValueError(
                f"{', '.join(placed.keys())} stands behind the last map, which a dense head does not read; "
                'conv_adapter takes norms="none"'
            )

    def features(self, **inputs: Any) -> Any:
        """Maps of all stages of normalized images (B, 3, H, W)."""
        return self.reader(inputs["image"], None, self.encoder, None)

    def forward(  # type: ignore[override]  # batches have a `segment` where others have a `label`
        self, mode: str = "tensor", segment: Any = None, sample_id: Any = None, **inputs: Any
    ) -> Any:
        """Run a preprocessed batch: `tensor` for logits (B, K, h, w), `loss` for losses, `predict` for dicts.

        Raises:
            ValueError: an unknown mode.
        """
        maps = self.features(**inputs)
        if mode == "tensor":
            return self.head(maps)
        if mode == "loss":
            return self.head.loss(maps, segment)
        if mode != "predict":
            raise ValueError(f"mode {mode!r}: choose tensor, loss or predict")
        found = self.head.predict(maps, inputs["image"].shape[-2:]).cpu()  # (B, H, W)
        names = sample_id if sample_id is not None else [str(i) for i in range(len(found))]
        truth = [None] * len(found) if segment is None else list(segment.cpu())
        return [{"sample_id": n, "segment": s, "target": t} for n, s, t in zip(names, found, truth, strict=True)]


@METRICS.register_module(name="mean_iou")
class MeanIoU(CountingMetric):
    """Mean intersection over union of the classes that occur, and the share of right pixels, in percent.

    Args:
        num_classes: K.
    """

    def __init__(self, num_classes: int):
        super().__init__()
        self.num_classes = num_classes
        self.reset()

    def reset(self) -> None:
        """Reset the counts."""
        self.confusion = np.zeros((self.num_classes, self.num_classes + 1), np.int64)
        self.images, self.skipped = 0, []

    def process(self, data_batch: Any, data_samples: Sequence[dict[str, Any]]) -> None:
        """Count the pixels of one batch; `target` -1 is left out."""
        self.note_skipped(data_batch)
        for sample in data_samples:
            self.confusion += confusion(sample["segment"], sample["target"], self.num_classes)
            self.images += 1

    def evaluate(self, size: int) -> dict[str, Any]:
        """Add up the counts of all ranks: `miou`, `pixel_accuracy`, `iou` per class (None where it never occurs)."""
        everyone = gather((self.confusion, self.images, self.skipped))
        counts = np.sum([part[0] for part in everyone], axis=0)[:, : self.num_classes]
        hits, union = counts.diagonal(), counts.sum(0) + counts.sum(1) - counts.diagonal()
        iou = [100 * h / u if u else None for h, u in zip(hits.tolist(), union.tolist(), strict=True)]
        seen = [value for value in iou if value is not None]
        self.reset()
        return {
            "miou": sum(seen) / max(len(seen), 1),
            "pixel_accuracy": 100 * float(hits.sum() / max(counts.sum(), 1)),
            "iou": iou,
            "evaluated": sum(part[1] for part in everyone),
            "of": size,
            "skipped": [entry for part in everyone for entry in part[2]],
        }
