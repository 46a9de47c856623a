"""Base class of the networks that `CloudModel` trains: everything that the shared code asks of a 3D task.

A new task is one file with a subclass: register it in `NETWORKS`, name it in a config, and training, testing and the
prediction of single files work. Its targets come from the data set, its figures from the metric that the config names.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pointcloud.datasets.base import Cloud, CloudError, finish
from xmodal.registry import Registry

NETWORKS = Registry("network", scope="xmodal")
EPCL = dict(
    slot="encoder+head", paper="EPCL: Frozen CLIP Transformer Is An Efficient Point Cloud Encoder, arXiv 2212.04098"
)
Progress = Callable[[int, int], None]


class TaskNetwork(nn.Module):
    """A network on points. Subclasses define `forward`, `loss`, `predict` and, for files, `show`.

    Attributes:
        loss: maps targets, `coord` (B, P, 3) and perhaps `feat` (B, P, C) and `lengths` (B,), all by keyword, to a dict
            whose keys begin with `loss` (what else is in it is logged).
        predict: maps `coord`, `feat` and `lengths` to a dict for each cloud, as the metric and `show` read it.
        targets: keys of the batch that `loss` takes beside the points.
        feat_dim: features of a point, beside its coordinates, that the network was built for.
        gray: color of clouds that have none; None where the network cannot do without the features it wants.
        official: name of the layout of released checkpoints (see `pointcloud.checkpoints`), empty where there is none.
        show_score: lowest score that a report of one file shows, where scores decide.
    """

    loss: Callable[..., dict[str, Tensor]]
    predict: Callable[..., list[dict[str, Any]]]
    targets: tuple[str, ...] = ()
    feat_dim = 0
    gray: float | None = None
    official = ""
    show_score = 0.0

    def truth(self, batch: dict[str, Any], index: int) -> dict[str, Any]:
        """Return what is known of one sample of a batch, as the metric reads it; by default its targets."""
        return {key: batch[key][index] for key in self.targets if batch.get(key) is not None}

    def predict_cloud(
        self, cloud: Cloud, transforms: Sequence[Callable], progress: Progress | None = None
    ) -> dict[str, Any]:
        """Predict one raw cloud.

        Args:
            cloud: as read from a file, with `feat_dim` features.
            transforms: those of the config's test data.
            progress: called with parts done and parts in all, where a scene is cut into parts.

        Returns:
            One entry of `predict`, after `place`, with `seen`, the points that the network was given.

        Raises:
            CloudError: the cloud is too small for the network.
        """
        inputs, seen = self.inputs_of(cloud, transforms)
        found = self.predict(**inputs)[0]
        found["seen"] = len(seen["coord"])
        return self.place(found, cloud, seen.get("scale", 1.0), seen.get("shift", np.zeros(3)))

    def inputs_of(self, cloud: Cloud, transforms: Sequence[Callable]) -> tuple[dict[str, Tensor], Cloud]:
        """Transform a raw cloud; returns the network's inputs as a batch of one, and the transformed cloud."""
        cloud = {k: cloud[k] for k in ("coord", "feat") if k in cloud}
        for transform in transforms:
            cloud = transform(cloud, np.random.default_rng(0))
        item, device = finish(cloud, "", None, None), next(self.parameters()).device
        return {k: item[k][None].to(device) for k in ("coord", "feat") if k in item}, cloud

    def place(self, found: dict[str, Any], cloud: Cloud, scale: float, shift: np.ndarray) -> dict[str, Any]:
        """Bring what was found back to where the cloud was read; by default nothing has a place.

        Args:
            found: one entry of `predict`, in the coordinates x of the network.
            cloud: from `read_cloud`; its coordinates are x * scale + shift.
            scale: see `cloud`.
            shift: see `cloud` (3,).
        """
        return found

    def show(
        self, found: dict[str, Any], names: Sequence[str], stem: Path | None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Turn what `predict_cloud` found into a report.

        Args:
            found: one entry of `predict`.
            names: of the classes.
            stem: path without suffix, for files that belong to the report; None writes none.

        Returns:
            A dict of plain values for the JSON file, and arguments of `page.write_page`.
        """
        raise NotImplementedError


def check_scores(*scores: Any) -> None:
    """Refuse what a network gave when it is not finite: argmax and sorting would make something of it.

    Raises:
        CloudError: naming the fix.
    """
    for values in scores:
        if not bool(torch.isfinite(torch.as_tensor(values).sum())):
            raise CloudError("the scores are not finite: predict in float32 (without --amp)")
