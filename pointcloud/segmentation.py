"""EPCL for semantic segmentation: a point U-Net with the frozen blocks at its bottleneck."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pointcloud import task
from pointcloud.datasets.base import Cloud, CloudError
from pointcloud.epcl import EPCL
from pointcloud.formats.write import write_labeled
from pointcloud.mixer import Down, Head, MixerBlock, Up, linear_norm, neighbors_of
from pointcloud.packed import pack
from pointcloud.scenes import vote
from pointcloud.task_token import Tower, unit_ball
from pointcloud.voxels import voxel_groups
from xmodal.registry import method

Level = tuple[Tensor, Tensor, list[int]]


@method(
    task.NETWORKS,
    "segmentation3d",
    params="U-Net around the blocks, task tokens",
    parity=("epcl_seg",),
    **task.EPCL,
)
class EPCLSegmenter(task.TaskNetwork):
    """PointMixer-style U-Net on packed points; its deepest stage passes through frozen transformer blocks.

    Paper: EPCL (arXiv 2212.04098); PointMixer (arXiv 2111.11187).
    Trains: everything but the tower: 8,500,609 weights with the defaults, ViT-B/32 and 13 classes.
    Differs from the released code: attention runs over the tokens of a cloud, not over the batch.

    Args:
        encoder: a frozen `Encoder`, or None for the U-Net alone.
        num_classes: K.
        in_dim: channels of the input features, coordinates included (6: xyz and color).
        planes: channels of the stages.
        blocks: blocks of the encoder stages, the transition included.
        strides: points per kept point at the entrance of each stage.
        num_neighbors: K of each stage; must divide its channels.
        share: channel groups that share weights.
        num_task_tokens: T; None for one per class.
        ignore_label: points with this label have no loss.
        class_weight: weight of each class in the loss (K,), so that rare things count; None for 1.
        prefix_position: see `EPCL`.
        eval_voxel: predict scenes in parts of one point per voxel of this edge (meters), summing logits at every raw
            point (see `scenes.vote`); None runs each cloud as it is.
        eval_parts: most parts (see `scenes.vote`); None covers every raw point, as the released code does.
        eval_points: most points that go through the network at once when predicting in parts.

    Raises:
        ValueError: options of different lengths.
    """

    targets = ("segment",)
    official = "epcl-segmentation"
    class_weight: Tensor | None

    def __init__(
        self,
        encoder: Tower | None,
        num_classes: int,
        in_dim: int = 6,
        planes: Sequence[int] = (32, 64, 128, 256, 512),
        blocks: Sequence[int] = (2, 3, 4, 6, 3),
        strides: Sequence[int] = (1, 4, 4, 4, 4),
        num_neighbors: Sequence[int] = (8, 16, 16, 16, 16),
        share: int = 8,
        num_task_tokens: int | None = None,
        ignore_label: int = -1,
        class_weight: Sequence[float] | None = None,
        prefix_position: Tensor | None = None,
        eval_voxel: float | None = None,
        eval_points: int = 40_000,
        eval_parts: int | None = None,
    ):
        super().__init__()
        self.feat_dim = in_dim - 3
        self.eval_voxel, self.eval_points, self.eval_parts = eval_voxel, eval_points, eval_parts
        if not len(planes) == len(blocks) == len(strides) == len(num_neighbors) >= 2:
            raise ValueError(
                f"planes {tuple(planes)}, blocks {tuple(blocks)}, strides {tuple(strides)} and num_neighbors "
                f"{tuple(num_neighbors)} describe different numbers of stages (at least 2)"
            )
        if class_weight is not None and len(class_weight) != num_classes:
            raise ValueError(f"class_weight has {len(class_weight)} entries for {num_classes} classes")
        weight = None if class_weight is None else torch.tensor(class_weight, dtype=torch.float32)
        self.register_buffer("class_weight", weight, persistent=False)
        self.num_classes, self.in_dim, self.ignore_label = num_classes, in_dim, ignore_label
        self.neighbors, self.strides = tuple(num_neighbors), tuple(strides)
        last = len(planes) - 1
        dims = [in_dim, *planes]
        self.enc, self.dec = nn.ModuleDict(), nn.ModuleDict()  # stages "1" (fine) to "5" (coarse)
        for i, (dim, k) in enumerate(zip(planes, num_neighbors, strict=True)):
            down = Down(dims[i], dim, strides[i], k, equal=i == last)
            up = Head(dim) if i == last else Up(planes[i + 1], dim, k)
            self.enc[str(i + 1)] = nn.ModuleList([down, *(MixerBlock(dim, share, k) for _ in range(blocks[i] - 1))])
            self.dec[str(i + 1)] = nn.ModuleList([up, MixerBlock(dim, share, k)])
        self.cls = nn.Sequential(*linear_norm(planes[0], planes[0], bias=True), nn.Linear(planes[0], num_classes))
        self.epcl = None
        if encoder is not None:
            tasks = num_classes if num_task_tokens is None else num_task_tokens
            self.epcl = EPCL(encoder, tasks, prefix_position=prefix_position)
            self.input_layer = linear_norm(planes[-1], encoder.dim, bias=True)
            self.output_layer = linear_norm(encoder.dim, planes[-1], bias=True)

    def bottleneck(self, coord: Tensor, x: Tensor, clouds: int) -> Tensor:
        """Add the frozen blocks' output to the deepest points (B*M, C)."""
        if self.epcl is None:
            return x
        tokens = self.input_layer(x).unflatten(0, (clouds, -1))  # (B, M, D)
        out = self.epcl(tokens, unit_ball(coord.unflatten(0, (clouds, -1))))
        return x + self.output_layer(self.epcl.points_of(out, tokens.shape[1]).flatten(0, 1))

    def forward(self, coord: Tensor, feat: Tensor | None, sizes: list[int]) -> Tensor:
        """Classify every point.

        Args:
            coord: packed points (n, 3), meters.
            feat: packed features (n, in_dim - 3), colors in 0..1; None when `in_dim` is 3.
            sizes: points of each cloud.

        Returns:
            Logits (n, K).

        Raises:
            ValueError: features of another width, or clouds too small for the strides.
        """
        x = coord if feat is None else torch.cat([coord, feat], dim=1)
        if x.shape[1] != self.in_dim:
            raise ValueError(f"this network was built for in_dim={self.in_dim} channels with xyz, got {x.shape[1]}")
        levels, near = self.descend(coord, x, sizes)
        deep_coord, x, deep_sizes = levels[-1]
        stages: list[Any] = list(self.dec.values())
        x = stages[-1][0](self.bottleneck(deep_coord, x, len(sizes)), deep_sizes)
        x = stages[-1][1](deep_coord, x, near[-1])
        for i in range(len(levels) - 2, -1, -1):
            x = stages[i][0](levels[i], (levels[i + 1][0], x, levels[i + 1][2]))
            x = stages[i][1](levels[i][0], x, near[i])
        return self.cls(x)

    def descend(self, coord: Tensor, x: Tensor, sizes: list[int]) -> tuple[list[Level], list[Tensor]]:
        """Points, features and sizes of every stage, and each point's neighbors there."""
        levels: list[Level] = []
        near = []
        stages: list[Any] = list(self.enc.values())
        for stage, k in zip(stages, self.neighbors, strict=True):
            coord, x, sizes = stage[0](coord, x, sizes)
            near.append(neighbors_of(coord, sizes, k))
            for mixer in stage[1:]:
                x = mixer(coord, x, near[-1])
            levels.append((coord, x, sizes))
        return levels, near

    def flat(
        self, coord: Tensor, feat: Tensor | None, lengths: Tensor | None
    ) -> tuple[Tensor, Tensor | None, list[int]]:
        """Padded clouds (B, P, C) as packed ones."""
        sizes = [coord.shape[1]] * len(coord) if lengths is None else lengths.tolist()
        return pack(coord, sizes), None if feat is None else pack(feat, sizes), sizes

    def loss(
        self, segment: Tensor, coord: Tensor, feat: Tensor | None = None, lengths: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Cross-entropy of padded clouds with labels (B, P), and the share of points that are right, in percent."""
        logits = self(*self.flat(coord, feat, lengths)).float()
        sizes = [coord.shape[1]] * len(coord) if lengths is None else lengths.tolist()
        target = pack(segment, sizes)
        keep = target != self.ignore_label
        if not keep.any():  # the mean of nothing would be NaN
            return {"loss_segment": logits.sum() * 0, "oa": logits.new_zeros(())}
        loss = F.cross_entropy(logits, target, self.class_weight, ignore_index=self.ignore_label)
        right = (logits.argmax(1) == target)[keep].float().mean() * 100
        return {"loss_segment": loss, "oa": right}

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
        coord, feat = (task.on_device(self, cloud.get(key)) for key in ("coord", "feat"))
        scene = self, coord, feat, self.num_classes, voxel, self.eval_points, self.eval_parts
        logits = vote(*scene, progress)  # type: ignore[arg-type]
        task.check_scores(logits)
        return {"segment": logits.argmax(1), "cloud": cloud}

    def check_size(self, coord: np.ndarray, voxel: float) -> None:
        """Refuse a cloud that has too few voxels for the strides.

        Raises:
            CloudError: naming the scale that was assumed.
        """
        wanted, have = int(np.prod(self.strides)), len(voxel_groups(coord, voxel)[1])
        if have < wanted:
            size = " x ".join(f"{v:.3g}" for v in coord.max(0) - coord.min(0))
            raise CloudError(
                f"the cloud is {size} m, if its unit was read right, and fills {have} voxels of {voxel:g} m; the "
                f"network "
                f"needs {wanted}: give the file's unit (--unit), or a smaller model.network.eval_voxel"
            )

    def show(self, found: dict[str, Any], names: Sequence[str], stem: Path) -> tuple[dict[str, Any], dict[str, Any]]:
        """Write the classes as `.npy` and with the points (`write_labeled`); returns both paths and the `counts`."""
        segment = found["segment"].numpy()
        values, counts = np.unique(segment, return_counts=True)
        per_class = {task.named(names, int(v)): int(c) for v, c in zip(values, counts, strict=True)}
        files = write_labeled(stem, found["cloud"], segment, names)
        return {**files, "counts": per_class}, {"segment": segment}
