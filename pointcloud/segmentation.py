"""EPCL for semantic segmentation: a point U-Net with the frozen blocks at its bottleneck."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pointcloud import task
from pointcloud.epcl import EPCL
from pointcloud.mixer import Down, Head, MixerBlock, Up, linear_norm
from pointcloud.packed import packed_knn
from pointcloud.segmenter import Segmenter
from pointcloud.task_token import Tower, unit_ball
from xmodal.registry import method

Level = tuple[Tensor, Tensor, list[int]]


@method(
    task.NETWORKS,
    "segmentation3d",
    params="U-Net around the blocks, task tokens",
    parity=("epcl_seg",),
    **task.EPCL,
)
class EPCLSegmenter(Segmenter):
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
        prefix_position: see `EPCL`.
        **options: of `Segmenter`.

    Raises:
        ValueError: options of different lengths.
    """

    official = "epcl-segmentation"

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
        prefix_position: Tensor | None = None,
        **options: Any,
    ):
        super().__init__(num_classes, in_dim, **options, smallest=math.prod(strides))
        if not len(planes) == len(blocks) == len(strides) == len(num_neighbors) >= 2:
            raise ValueError(
                f"planes {tuple(planes)}, blocks {tuple(blocks)}, strides {tuple(strides)} and num_neighbors "
                f"{tuple(num_neighbors)} describe different numbers of stages (at least 2)"
            )
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
            near.append(packed_knn(coord, coord, sizes, sizes, k))  # itself included
            for mixer in stage[1:]:
                x = mixer(coord, x, near[-1])
            levels.append((coord, x, sizes))
        return levels, near
