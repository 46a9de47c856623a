"""Turn points into tokens: groups of neighbors and a small PointNet over each group."""

import torch
from torch import Tensor, nn

from pointcloud import ops
from pointcloud.pointwise import PointConv, PointNorm


class MiniPointNet(nn.Module):
    """One token per group: two shared MLPs, each followed by a maximum over the group's members.

    Paper: Point-BERT (arXiv 2111.14819), used by EPCL (arXiv 2212.04098).
    Trains: 128(C+1) + 256 + 33,024 + 262,656 + 1,024 + 512 D + D weights at the published width.

    Args:
        in_dim: C, channels of a member (3 for offsets from the center).
        dim: width D of the tokens.
        width: channels of the first layer; the others have 2, 4 and 4 times as many.
    """

    def __init__(self, in_dim: int, dim: int, width: int = 128):
        super().__init__()
        wide = 4 * width
        self.first_conv = nn.Sequential(
            PointConv(in_dim, width), PointNorm(width), nn.ReLU(inplace=True), PointConv(width, 2 * width)
        )
        self.second_conv = nn.Sequential(
            PointConv(wide, wide), PointNorm(wide), nn.ReLU(inplace=True), PointConv(wide, dim)
        )

    def forward(self, groups: Tensor) -> Tensor:
        """Map groups (B, G, K, C) to tokens (B, G, D)."""
        x = self.first_conv(groups)  # (B, G, K, 2W)
        pooled = x.amax(dim=2, keepdim=True)
        return self.second_conv(torch.cat([pooled.expand_as(x), x], dim=3)).amax(dim=2)


class PointTokenizer(nn.Module):
    """Cut clouds into groups of neighbors and make a token of each.

    Centers come from farthest point sampling, members are the nearest points of each center.

    Args:
        num_groups: G.
        group_size: K.
        dim: width D of the tokens.
        feat_dim: channels of the features; 0 when only coordinates are used.
        use_coord: members carry their offset from the center (EPCL's dense tasks group features only).
        scale: offsets are divided by this many meters, so that small groups are not all zeros to the network.
        skip_near_origin: sample centers as `pointnet2_ops` does, which never chooses points with |p|^2 <= 1e-3; for
            released checkpoints.
        width: see `MiniPointNet`.

    Raises:
        ValueError: neither coordinates nor features.
    """

    def __init__(
        self,
        num_groups: int,
        group_size: int,
        dim: int,
        feat_dim: int = 0,
        use_coord: bool = True,
        scale: float = 1.0,
        skip_near_origin: bool = False,
        width: int = 128,
    ):
        super().__init__()
        if not use_coord and not feat_dim:
            raise ValueError("a tokenizer needs use_coord=True or feat_dim > 0")
        self.num_groups, self.group_size = num_groups, group_size
        self.feat_dim, self.use_coord, self.scale = feat_dim, use_coord, scale
        self.skip_near_origin = skip_near_origin
        self.encoder = MiniPointNet(3 * use_coord + feat_dim, dim, width)

    def group(self, coord: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Centers (B, G, 3), their indices (B, G) and members' indices (B, G, K)."""
        return ops.sample_and_group(
            coord, self.num_groups, self.group_size, lengths, skip_near_origin=self.skip_near_origin
        )

    def forward(
        self, coord: Tensor, feat: Tensor | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Make tokens.

        Args:
            coord: (B, P, 3), float32.
            feat: (B, P, C), needed when `feat_dim` is set.
            lengths: points of each cloud (B,).

        Returns:
            Tokens (B, G, D) and their centers (B, G, 3).

        Raises:
            ValueError: features that are missing or of another width.
        """
        if self.feat_dim and (feat is None or feat.shape[-1] != self.feat_dim):
            got = "none" if feat is None else f"{feat.shape[-1]} channels"
            raise ValueError(f"this tokenizer wants features of {self.feat_dim} channels, got {got}")
        centers, _, members = self.group(coord, lengths)
        parts = []
        if self.use_coord:
            parts.append((ops.gather(coord, members) - centers[:, :, None]) / self.scale)  # (B, G, K, 3)
        if self.feat_dim:
            parts.append(ops.gather(feat, members))  # type: ignore[arg-type]
        return self.encoder(torch.cat(parts, dim=-1)), centers
