"""Segmentation with the sparse U-Net of EPCL's released detector, the frozen blocks in its middle or not.

Paper: EPCL (arXiv 2212.04098). The combination is this project's own: the released segmentation stands on other
networks.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pointcloud import task
from pointcloud.segmenter import Segmenter
from pointcloud.sparse import sent, voxelize
from pointcloud.sparse_detection import FrozenBottleneck
from pointcloud.sparse_unet import SparseUNet
from pointcloud.task_token import Tower
from xmodal.registry import method


@method(
    task.NETWORKS,
    "sparse_segmentation3d",
    params="sparse U-Net, tokenizer, position MLP, task tokens, head",
    parity=("minkowski", "epcl_dense"),
    **task.EPCL,
)
class SparseSegmenter(Segmenter):
    """Every point reads its voxel of the U-Net at stride 2, and its own features.

    Args:
        encoder: a frozen `Encoder` for the middle of the U-Net; None leaves the middle out.
        num_classes: K.
        voxel: edge of a voxel, meters.
        widths: channels at strides 1, 2, 4 and 8.
        num_groups: point tokens of the middle.
        group_size: members of a group.
        **options: of `Segmenter`.
    """

    def __init__(
        self,
        encoder: Tower | None,
        num_classes: int,
        voxel: float = 0.05,
        widths: Sequence[int] = (32, 64, 128, 256),
        num_groups: int = 256,
        group_size: int = 16,
        **options: Any,
    ):
        super().__init__(num_classes, **options)
        middle = None
        if encoder is not None:
            middle = FrozenBottleneck(encoder, widths[-1], num_classes, num_groups, group_size, voxel)
        self.voxel, self.net = voxel, SparseUNet(self.in_dim, widths, bottleneck=middle)
        hidden = self.net.out_dim
        self.head = nn.Sequential(
            nn.Linear(hidden + self.in_dim, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, num_classes)
        )

    def forward(self, coord: Tensor, feat: Tensor | None, sizes: list[int]) -> Tensor:
        """Classify packed points (n, 3) with features (n, C): logits (n, K)."""
        cloud = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes)).to(
            coord.device, non_blocking=True
        )
        place = coord - torch.stack([part.amin(0) for part in coord.split(sizes)])[cloud]
        x = place if feat is None else torch.cat([place, feat], 1)
        found = self.net(voxelize(place, cloud, x, self.voxel))
        stride = sent(found.stride, found.coordinates)
        cells = torch.div(torch.floor(place / self.voxel).long(), stride, rounding_mode="floor") * stride
        _, rows = found.voxels.find(torch.cat([cloud[:, None], cells], 1))
        return self.head(torch.cat([found.features[rows], x], 1))
