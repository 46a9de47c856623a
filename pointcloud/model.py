"""The model of every point-cloud experiment: a task network around a frozen encoder, as the engine wants it."""

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.model import BaseModel
from torch import Tensor, nn

from pointcloud.classification import EPCLClassifier
from pointcloud.detection import Detector, EPCLBackbone
from pointcloud.detr_encoder import DETREncoder
from pointcloud.segmentation import EPCLSegmenter
from pointcloud.task_token import Tower
from xmodal.frozen_tower import FrozenTower
from xmodal.registry import ENCODERS, MODELS, Registry, build, check_arguments, method
from xmodal.structures import Encoder

NETWORKS = Registry("network", scope="xmodal")
EPCL_PAPER = "EPCL: Frozen CLIP Transformer Is An Efficient Point Cloud Encoder, arXiv 2212.04098"
_epcl = dict(slot="encoder+head", paper=EPCL_PAPER)
method(
    NETWORKS, "classification3d", params="tokenizer, position MLP, task tokens, head", parity=("epcl_cls",), **_epcl
)(EPCLClassifier)
method(NETWORKS, "segmentation3d", params="U-Net around the blocks, task tokens", parity=("epcl_seg",), **_epcl)(
    EPCLSegmenter
)
INPUTS = ("coord", "feat", "lengths")


class CloudPreprocessor(nn.Module):
    """Move a batch to the model's device; coordinates stay meters."""

    anchor: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("anchor", torch.zeros(()), persistent=False)

    def forward(self, data: dict[str, Any], training: bool = False) -> dict[str, Any]:
        """Return the batch on the device."""
        device = self.anchor.device
        return {k: v.to(device, non_blocking=True) if isinstance(v, Tensor) else v for k, v in data.items()}


@MODELS.register_module(name="cloud")
class CloudModel(FrozenTower, BaseModel):
    """A task network on points with a frozen encoder inside.

    Args:
        encoder: the tower, or its config; None for networks without one.
        network: config of the task network (`classification3d`, `segmentation3d`, `detection3d`, `detr3d`), which
            receives `encoder`.
        adapters: what edits the encoder, in order.
        freeze_encoder: False trains the encoder too (the from-scratch baseline).
        random_encoder: draw the encoder's weights anew (the random-frozen baseline), with this seed; None keeps them.

    Raises:
        ValueError: a misspelt argument anywhere below, with the nearest known one.
    """

    def __init__(
        self,
        encoder: Any,
        network: Any,
        adapters: Sequence[Any] = (),
        freeze_encoder: bool = True,
        random_encoder: int | None = None,
    ):
        super().__init__(data_preprocessor=CloudPreprocessor())
        tower = build(encoder, ENCODERS) if encoder is not None else None
        if tower is not None:
            if random_encoder is not None:
                redraw(tower, random_encoder)
            self.hold(tower, adapters, freeze_encoder)
        self._tower = [tower]  # in a list: the network holds it
        self.network = build(network, NETWORKS, encoder=tower)

    @property
    def encoder(self) -> nn.Module | None:
        """The tower inside the network."""
        return self._tower[0]

    def forward(self, mode: str = "tensor", sample_id: Any = None, **batch: Any) -> Any:
        """Run a preprocessed batch.

        Args:
            mode: `tensor` for what the network returns, `loss` for a dict of losses, `predict` for one dict a sample.
            sample_id: names of the samples.
            **batch: `coord` (B, P, 3), `feat` (B, P, C), `lengths` (B,) and the task's targets.

        Raises:
            ValueError: an unknown mode, or a batch without points.
        """
        inputs = {k: batch[k] for k in INPUTS if batch.get(k) is not None}
        if mode == "predict" and not inputs:
            return []
        if "coord" not in inputs:
            raise ValueError(f"a batch of clouds needs `coord`, got {sorted(batch)}")
        if mode == "tensor":
            return self.network(**inputs)
        if mode == "loss":
            wanted = {k: batch[k] for k in TARGETS[type(self.network)]}
            return self.network.loss(**wanted, **inputs)
        if mode != "predict":
            raise ValueError(f"mode {mode!r}: choose tensor, loss or predict")
        with torch.no_grad():
            found = self.network.predict(**inputs)
        names = sample_id if sample_id is not None else [str(i) for i in range(len(found))]
        truths = truths_of(batch, len(found))
        return [{"sample_id": n, **f, **t} for n, f, t in zip(names, found, truths, strict=True)]


TARGETS: dict[type, tuple[str, ...]] = {
    EPCLClassifier: ("label",),
    EPCLSegmenter: ("segment",),
    Detector: ("boxes", "box_label", "box_mask"),
}


def truths_of(batch: dict[str, Any], count: int) -> list[dict[str, Any]]:
    """What is known of each sample, for the metrics: `label`, `target`, or `target_boxes` and `target_label`."""
    truths: list[dict[str, Any]] = [{} for _ in range(count)]
    for i, truth in enumerate(truths):
        if batch.get("label") is not None:
            truth["label"] = int(batch["label"][i])
        if batch.get("segment") is not None:
            size = batch["lengths"][i] if batch.get("lengths") is not None else batch["segment"].shape[1]
            truth["target"] = batch["segment"][i, :size].cpu().numpy()
        if batch.get("boxes") is not None:
            mask = batch["box_mask"][i].bool()
            truth["target_boxes"] = batch["boxes"][i][mask].cpu().numpy()
            truth["target_label"] = batch["box_label"][i][mask].cpu().numpy()
    return truths


def redraw(tower: Tower, seed: int) -> None:
    """Draw a tower's weights anew, the way it was made, from a seed; the global random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in tower.modules():
            if isinstance(module, nn.LayerNorm):
                module.reset_parameters()
        tower.reset_parameters()


def with_options(kind: type, options: dict[str, Any], **given: Any) -> Any:
    """Build `kind`; a misspelt option is a ValueError with the nearest name."""
    check_arguments(kind, options)
    return kind(**options, **given)


@method(NETWORKS, "detection3d", params="tokenizer, task tokens, 3DETR's decoder", parity=("epcl_dense",), **_epcl)
def detection3d(encoder: Encoder, num_classes: int, backbone: dict | None = None, **options: Any) -> Detector:
    """3DETR's decoder on EPCL tokens; options are those of `Detector`, `backbone` those of `EPCLBackbone`."""
    tokens = with_options(EPCLBackbone, {"num_task_tokens": num_classes + 1, **(backbone or {})}, encoder=encoder)
    return with_options(Detector, options, backbone=tokens, num_classes=num_classes)


@method(
    NETWORKS,
    "detr3d",
    slot="encoder+head",
    paper="3DETR: An End-to-End Transformer Model for 3D Object Detection, arXiv 2109.08141",
    params="all",
    parity=("detr3d",),
    families=("none",),
)
def detr3d(encoder: None, num_classes: int, backbone: dict | None = None, **options: Any) -> Detector:
    """3DETR as published; options are those of `Detector`, `backbone` those of `DETREncoder`."""
    points = with_options(DETREncoder, backbone or {})
    hidden = 1 if points.interim is not None else 2
    options["decoder"] = {"hidden_projections": hidden, **(options.get("decoder") or {})}
    return with_options(Detector, options, backbone=points, num_classes=num_classes)
