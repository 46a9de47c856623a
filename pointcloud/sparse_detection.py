"""Detectors on sparse convolutions: EPCL's released backbone with 3DETR's decoder, and V-DETR as published.

Papers: EPCL (arXiv 2212.04098), V-DETR (arXiv 2308.04409).
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from pointcloud import ops, task
from pointcloud.detection import Detector, with_options
from pointcloud.epcl import EPCLDense
from pointcloud.packed import pack, sizes_of
from pointcloud.sparse import SparseTensor, sent, voxelize
from pointcloud.sparse_resnet import SparseResNetFPN
from pointcloud.sparse_unet import SparseUNet
from pointcloud.task_token import Tower
from pointcloud.vdetr import PAPER, VertexDetector
from xmodal.registry import method


def clouds_of(x: SparseTensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Pad voxels by cloud.

    Returns:
        Coordinates (B, M, 3) in voxels, features (B, M, C), voxels of each cloud (B,) on the host, and the rows in the
        order of the clouds (N,).
    """
    order = torch.argsort(x.coordinates[:, 0], stable=True)
    lengths = torch.bincount(x.coordinates[:, 0].cpu())  # the host waits once
    rows = order.split(lengths.tolist())
    coord, features = x.coordinates[:, 1:].to(x.features.dtype), x.features
    padded = (pad_sequence([values[r] for r in rows], batch_first=True) for values in (coord, features))
    return *padded, lengths, order  # type: ignore[return-value]


class FrozenBottleneck(nn.Module):
    """EPCL between the two halves of a sparse U-Net: groups of its coarsest voxels through the frozen blocks.

    Differs from the released code: attention runs over tokens, and the layer that brings features back to the U-Net's
    width is trained (the released code draws it anew in every call).

    Args:
        encoder: a frozen `Encoder`.
        channels: of the coarsest voxels.
        num_task_tokens: T (one per class and one more in the released code).
        num_groups: G point tokens.
        group_size: members of a group.
        voxel: edge at stride 1, meters.
    """

    def __init__(
        self, encoder: Tower, channels: int, num_task_tokens: int, num_groups: int, group_size: int, voxel: float
    ):
        super().__init__()
        self.dense = EPCLDense(encoder, channels, num_groups, group_size, num_task_tokens, voxel, normalize=False)

    def forward(self, x: SparseTensor) -> SparseTensor:
        """Return what is added to voxels (N, C)."""
        coord, features, lengths, order = clouds_of(x)
        carried, _ = self.dense.carry(coord, features, lengths)
        added = self.dense.up(pack(carried, lengths.tolist())[None])[0]
        return x.with_features(torch.empty_like(x.features).index_copy(0, order, added.to(x.features.dtype)))


class SparseBackbone(nn.Module):
    """Voxels of points through a sparse network, of which far ones are kept for a decoder.

    Args:
        net: maps a `SparseTensor` of voxels to coarser ones with `out_dim` channels.
        voxel: edge of a voxel, meters.
        num_points: voxels kept of each scene.
        feat_dim: channels of the point features (3: colors in 0..1); 0 for coordinates only.
        use_coord: voxels carry the coordinates of their point beside the features.
        color_mean: taken from the colors, in 0..1.
        color_scale: the colors are divided by it.
    """

    def __init__(
        self,
        net: Any,
        voxel: float,
        num_points: int,
        feat_dim: int = 3,
        use_coord: bool = False,
        color_mean: Sequence[float] = (0.0, 0.0, 0.0),
        color_scale: float = 1.0,
    ):
        super().__init__()
        self.net, self.out_dim, self.voxel, self.num_points = net, net.out_dim, voxel, num_points
        self.feat_dim, self.use_coord = feat_dim, use_coord or not feat_dim
        self.color_mean, self.color_scale = tuple(color_mean), color_scale

    def voxels(self, coord: Tensor, feat: Tensor | None, lengths: Tensor | None) -> SparseTensor:
        """Make voxels of points (B, P, 3) with features (B, P, C); each has the values of its first point."""
        sizes = sizes_of(coord, lengths)
        cloud = torch.repeat_interleave(torch.arange(len(coord)), torch.tensor(sizes)).to(
            coord.device, non_blocking=True
        )
        points, parts = pack(coord, sizes), []
        if self.use_coord:
            parts.append(points)
        if self.feat_dim:
            if feat is None or feat.shape[-1] != self.feat_dim:
                got = "none" if feat is None else f"{feat.shape[-1]} channels"
                raise ValueError(f"this backbone wants features of {self.feat_dim} channels, got {got}")
            values = pack(feat, sizes)
            color = (values[:, :3] - sent(self.color_mean, values)) / self.color_scale
            parts.append(torch.cat([color, values[:, 3:]], 1))
        return voxelize(points, cloud, torch.cat(parts, 1), self.voxel)

    def forward(
        self, coord: Tensor, feat: Tensor | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Map points (B, P, 3), features (B, P, C) to corners of voxels (B, M, 3), meters, with features (B, M, D)."""
        places, features, counts, _ = clouds_of(self.net(self.voxels(coord, feat, lengths)))
        places = places.to(coord.dtype) * self.voxel
        idx = ops.farthest_point_sample(places, self.num_points, counts).clamp(min=0)
        return ops.gather(places, idx), ops.gather(features, idx)


class EPCLSparseBackbone(SparseBackbone):
    """The sparse U-Net of EPCL's released detector with the frozen blocks in its middle.

    Args:
        encoder: a frozen `Encoder`.
        num_task_tokens: T.
        widths: channels at strides 1, 2, 4 and 8.
        num_groups: G point tokens.
        group_size: members of a group.
        voxel: edge of a voxel, meters.
        **options: of `SparseBackbone`.
    """

    def __init__(
        self,
        encoder: Tower,
        num_task_tokens: int,
        widths: Sequence[int] = (64, 128, 256, 512),
        num_groups: int = 512,
        group_size: int = 16,
        voxel: float = 0.02,
        num_points: int = 1024,
        feat_dim: int = 3,
        use_coord: bool = False,
    ):
        middle = FrozenBottleneck(encoder, widths[-1], num_task_tokens, num_groups, group_size, voxel)
        net = SparseUNet(feat_dim + 3 * (use_coord or not feat_dim), widths, bottleneck=middle)
        super().__init__(net, voxel, num_points, feat_dim, use_coord)


@method(
    task.NETWORKS,
    "epcl_sparse3d",
    params="sparse U-Net, tokenizer, position MLP, task tokens, 3DETR's decoder",
    parity=("minkowski", "epcl_dense", "detr3d"),
    **task.EPCL,
)
def epcl_sparse3d(encoder: Tower, num_classes: int, backbone: dict | None = None, **options: Any) -> Detector:
    """EPCL's released backbone and 3DETR's decoder.

    Args:
        encoder: a frozen `Encoder`.
        num_classes: C.
        backbone: of `EPCLSparseBackbone`.
        **options: of `Detector`.
    """
    voxels = with_options(EPCLSparseBackbone, {"num_task_tokens": num_classes + 1, **(backbone or {})}, encoder=encoder)
    detector = with_options(Detector, options, backbone=voxels, num_classes=num_classes)
    detector.official = "epcl-detection"
    return detector


class VDETRBackbone(SparseBackbone):
    """V-DETR's published backbone: a sparse residual network with a pyramid on voxels of 1 cm.

    Args:
        depth: 34, or 18.
        widths: of the four stages.
        out_dim: channels of the result.
        voxel: edge of a voxel, meters.
        num_points: voxels kept of each scene.
        feat_dim: 3: colors in 0..1, brought to the published range; 0 for coordinates alone.
        use_coord: voxels carry coordinates beside colors.
    """

    def __init__(
        self,
        depth: int = 34,
        widths: Sequence[int] = (64, 128, 256, 512),
        out_dim: int = 256,
        voxel: float = 0.01,
        num_points: int = 4096,
        feat_dim: int = 3,
        use_coord: bool = True,
    ):
        net = SparseResNetFPN(feat_dim + 3 * (use_coord or not feat_dim), depth, widths, out_dim)
        mean = tuple(value / 255 for value in (109.8, 97.2, 83.8))
        super().__init__(net, voxel, num_points, feat_dim, use_coord, mean, 256 / 255)


@method(task.NETWORKS, "vdetr3d_sparse", params="all", families=("none",), **PAPER)
def vdetr3d_sparse(encoder: None, num_classes: int, backbone: dict | None = None, **options: Any) -> VertexDetector:
    """V-DETR as published; options are those of `Detector`, `backbone` those of `VDETRBackbone`."""
    voxels = with_options(VDETRBackbone, backbone or {})
    return with_options(VertexDetector, options, backbone=voxels, num_classes=num_classes)
