"""Wrap a task network around a frozen encoder as a model that the engine trains."""

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.model import BaseModel
from torch import Tensor, nn

from pointcloud.task import NETWORKS
from pointcloud.task_token import Tower
from xmodal.frozen_tower import FrozenTower
from xmodal.registry import ENCODERS, MODELS, build

INPUTS = ("coord", "feat", "lengths")


class CloudPreprocessor(nn.Module):
    """Move a batch to the model's device; coordinates stay meters, and sizes of clouds stay numbers of the host."""

    anchor: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("anchor", torch.zeros(()), persistent=False)

    def forward(self, data: dict[str, Any], training: bool = False) -> dict[str, Any]:
        """Return the batch on the device."""
        device = self.anchor.device
        moved = {
            k: v.to(device, non_blocking=True) for k, v in data.items() if isinstance(v, Tensor) and k != "lengths"
        }
        return {**data, **moved}


@MODELS.register_module(name="cloud")
class CloudModel(FrozenTower, BaseModel):
    """A task network on points with a frozen encoder inside.

    Args:
        encoder: the tower, or its config; None for networks without one.
        network: config of a `TaskNetwork` (`classification3d`, `segmentation3d`, `detection3d`, `detr3d`), which
            receives `encoder`.
        adapters: what edits the encoder, in order.
        freeze_encoder: False trains the encoder too (the from-scratch baseline).
        random_encoder: seed of random weights for the encoder (the random-frozen baseline); None keeps its weights.

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
            wanted = {k: batch[k] for k in self.network.targets}
            return self.network.loss(**wanted, **inputs)
        if mode != "predict":
            raise ValueError(f"mode {mode!r}: choose tensor, loss or predict")
        with torch.no_grad():
            found = self.network.predict(**inputs)
        names = sample_id if sample_id is not None else [str(i) for i in range(len(found))]
        truths = [self.network.truth(batch, i) for i in range(len(found))]
        return [{"sample_id": n, **f, **t} for n, f, t in zip(names, found, truths, strict=True)]


def redraw(tower: Tower, seed: int) -> None:
    """Initialize a tower's weights again from a seed; the global random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in tower.modules():
            if isinstance(module, nn.LayerNorm):
                module.reset_parameters()
        tower.reset_parameters()
