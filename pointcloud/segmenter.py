"""Base of networks that give every point of a cloud a class: loss, prediction of scenes in parts, reports."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pointcloud import task
from pointcloud.datasets.base import Cloud, CloudError
from pointcloud.datasets.files import in_place
from pointcloud.formats.write import write_labeled
from pointcloud.lovasz import lovasz_softmax
from pointcloud.packed import pack, sizes_of
from pointcloud.scenes import vote
from pointcloud.voxels import voxel_groups
from xmodal.engine.classes import name_of


class Segmenter(task.TaskNetwork):
    """A network from packed points (n, 3), features (n, C) and sizes to logits (n, K), its `forward`.

    Args:
        num_classes: K.
        in_dim: channels of the input features, coordinates included (6: xyz and color).
        ignore_label: points with this label have no loss.
        class_weight: weight of each class in the loss (K,), so that rare things count; None for 1.
        lovasz: weight of `lovasz_softmax` beside cross-entropy.
        eval_voxel: predict scenes in parts of one point per voxel of this edge (meters), summing logits at every raw
            point (see `scenes.vote`); None runs each cloud as it is.
        eval_points: most points that go through the network at once when predicting in parts.
        eval_parts: most parts (see `scenes.vote`); None covers every raw point, as the released code does.
        smallest: voxels that a cloud must fill.

    Raises:
        ValueError: not one weight a class.
    """

    targets = ("segment",)
    class_weight: Tensor | None

    def __init__(
        self,
        num_classes: int,
        in_dim: int = 6,
        ignore_label: int = -1,
        class_weight: Sequence[float] | None = None,
        eval_voxel: float | None = None,
        eval_points: int = 40_000,
        eval_parts: int | None = None,
        smallest: int = 1,
        lovasz: float = 0.0,
    ):
        super().__init__()
        self.feat_dim, self.lovasz = in_dim - 3, lovasz
        self.eval_voxel, self.eval_points, self.eval_parts = eval_voxel, eval_points, eval_parts
        if class_weight is not None and len(class_weight) != num_classes:
            raise ValueError(f"class_weight has {len(class_weight)} entries for {num_classes} classes")
        weight = None if class_weight is None else torch.tensor(class_weight, dtype=torch.float32)
        self.register_buffer("class_weight", weight, persistent=False)
        self.num_classes, self.in_dim, self.ignore_label, self.smallest = num_classes, in_dim, ignore_label, smallest

    def flat(
        self, coord: Tensor, feat: Tensor | None, lengths: Tensor | None
    ) -> tuple[Tensor, Tensor | None, list[int]]:
        """Padded clouds (B, P, C) as packed ones."""
        sizes = sizes_of(coord, lengths)
        return pack(coord, sizes), None if feat is None else pack(feat, sizes), sizes

    def loss(
        self, segment: Tensor, coord: Tensor, feat: Tensor | None = None, lengths: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Cross-entropy of padded clouds with labels (B, P), and the share of points that are right, in percent."""
        logits = self(*self.flat(coord, feat, lengths)).float()
        target = pack(segment, sizes_of(coord, lengths))
        keep = target != self.ignore_label
        loss = F.cross_entropy(logits, target, self.class_weight, ignore_index=self.ignore_label)
        loss = loss.masked_fill(~keep.any(), 0)  # the mean of nothing is NaN
        right = ((logits.argmax(1) == target) & keep).sum() / keep.sum().clamp(min=1) * 100
        losses = {"loss_segment": loss, "oa": right}
        if self.lovasz and keep.any():
            losses["loss_lovasz"] = self.lovasz * lovasz_softmax(logits[keep].softmax(1), target[keep])
        return losses

    def predict(
        self, coord: Tensor, feat: Tensor | None = None, lengths: Tensor | None = None
    ) -> list[dict[str, Tensor]]:
        """One dict a cloud with `logits` (P, K) and `segment` (P,).

        Clouds go through one by one: the deepest stage keeps as many points of each as of the smallest in its batch.
        """
        points, feats, sizes = self.flat(coord, feat, lengths)
        features = [None] * len(sizes) if feats is None else feats.split(sizes)
        clouds = zip(points.split(sizes), features, sizes, strict=True)
        logits = [self.scene_logits(p, f, n) for p, f, n in clouds]
        return [{"logits": x, "segment": x.argmax(1)} for x in logits]

    def scene_logits(self, coord: Tensor, feat: Tensor | None, size: int) -> Tensor:
        """Logits (P, K) of one cloud, on the CPU."""
        if self.eval_voxel is None:
            return self(coord, feat, [size]).float().cpu()
        return vote(self, coord, feat, self.num_classes, self.eval_voxel, self.eval_points, self.eval_parts)

    def truth(self, batch: dict[str, Any], index: int) -> dict[str, Any]:
        """Return the `target` (P,) of a cloud, without padding."""
        if batch.get("segment") is None:
            return {}
        size = batch["lengths"][index] if batch.get("lengths") is not None else batch["segment"].shape[1]
        return {"target": batch["segment"][index, :size].cpu().numpy()}

    def predict_cloud(
        self, cloud: Cloud, transforms: Sequence[Callable], progress: task.Progress | None = None
    ) -> dict[str, Any]:
        """Find the class of every raw point, in parts; the transforms are left out, since they would drop points."""
        voxel = self.eval_voxel or 0.04
        self.check_size(cloud["coord"], voxel)
        device = next(self.parameters()).device
        arrays = (cloud["coord"], cloud.get("feat"))
        coord, feat = (None if a is None else torch.from_numpy(a).to(device) for a in arrays)
        scene = self, coord, feat, self.num_classes, voxel, self.eval_points, self.eval_parts
        logits = vote(*scene, progress)  # type: ignore[arg-type]
        task.check_scores(logits)
        return {"segment": logits.argmax(1), "cloud": cloud}

    def check_size(self, coord: np.ndarray, voxel: float) -> None:
        """Refuse a cloud that has too few voxels for the strides.

        Raises:
            CloudError: naming the scale that was assumed.
        """
        wanted, have = self.smallest, len(voxel_groups(coord, voxel)[1])
        if have < wanted:
            size = " x ".join(f"{v:.3g}" for v in coord.max(0) - coord.min(0))
            raise CloudError(
                f"the cloud is {size} m, if its unit was read right, and fills {have} voxels of {voxel:g} m; the "
                f"network needs {wanted}: give the file's unit (--unit), or a smaller model.network.eval_voxel"
            )

    def show(
        self, found: dict[str, Any], names: Sequence[str], stem: Path | None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the `counts` and the `segment` of the points; with `stem`, the paths that `write_labeled` gives."""
        segment = found["segment"].numpy()
        values, counts = np.unique(segment, return_counts=True)
        per_class = {name_of(int(v), names): int(c) for v, c in zip(values, counts, strict=True)}
        if stem is None:
            return {"segment": in_place(found["cloud"], segment, -1).tolist(), "counts": per_class}, {}
        files = write_labeled(stem, found["cloud"], segment, names)
        return {**files, "counts": per_class}, {"segment": segment}
