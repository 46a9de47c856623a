"""EPCL: a frozen image transformer as the encoder of a point cloud (arXiv 2212.04098, AAAI 2024).

Tokens of points, each with its position, stand where patches stood; task tokens follow at the end; the frozen blocks do
the rest. Attention runs over the tokens of a cloud. (Three of the four released tasks hand the blocks a transposed
batch, so that attention runs over the batch axis there; that is not reproduced.)
"""

import torch
from torch import Tensor, nn

from pointcloud import ops
from pointcloud.task_token import PositionMLP, TaskTokens, Tower, unit_ball
from pointcloud.tokenizer import PointTokenizer


class EPCL(nn.Module):
    """Frozen blocks over point tokens.

    At start: an untrained position MLP and task tokens in front of the frozen blocks; not an identity.
    Trains: position MLP and task tokens (and whatever adapters are placed in the encoder).

    Args:
        encoder: a frozen `Encoder`.
        num_task_tokens: T.
        pre_norm: apply the tower's norm before the blocks to class and point tokens (classification; the dense tasks of
            the released code do not).
        prefix_position: replaces the tower's position of its first token (D,), for comparisons.
    """

    prefix_position: Tensor | None

    def __init__(
        self, encoder: Tower, num_task_tokens: int, pre_norm: bool = False, prefix_position: Tensor | None = None
    ):
        super().__init__()
        self.encoder: Tower = encoder
        self.pre_norm = pre_norm
        self.pos_embed = PositionMLP(encoder.dim)
        self.te_encoder = TaskTokens(num_task_tokens, encoder.dim)
        self.register_buffer("prefix_position", prefix_position, persistent=False)
        self.class_token = None if encoder.num_prefix else nn.Parameter(torch.zeros(1, 1, encoder.dim))

    @property
    def num_prefix(self) -> int:
        """Return the number of tokens in front of the point tokens."""
        return max(self.encoder.num_prefix, 1)

    def prefix(self) -> Tensor:
        """Class and register tokens with their positions (1, prefix, D)."""
        if self.class_token is not None:
            return self.class_token
        tower = self.encoder
        tokens = torch.cat([t for t in (tower.cls_token, tower.reg_token) if t is not None], dim=1)
        if self.prefix_position is not None:
            return tokens + self.prefix_position
        if tower.pos_embed is None or not tower.embed_prefix:
            return tokens
        return tokens + tower.pos_embed[:, : tokens.shape[1]]

    def forward(self, tokens: Tensor, position: Tensor) -> Tensor:
        """Run the frozen blocks.

        Args:
            tokens: point tokens (B, M, D).
            position: what the position MLP sees (B, M, 3).

        Returns:
            Class and register tokens, point tokens, task tokens: (B, prefix + M + T, D), the raw residual stream.
        """
        batch, count = tokens.shape[:2]
        x = torch.cat([self.prefix().expand(batch, -1, -1), tokens + self.pos_embed(position)], dim=1)
        if self.pre_norm:
            x = self.encoder.norm_pre(x)
        task = self.te_encoder(batch)
        if task is not None:
            x = torch.cat([x, task], dim=1)
        kept = self.num_prefix + count + self.te_encoder.num_tokens
        return self.encoder.forward_blocks(x, None)[:, :kept]  # prompts of adapters stand behind

    def points_of(self, x: Tensor, count: int) -> Tensor:
        """The point tokens (B, M, D) of what `forward` returns."""
        return x[:, self.num_prefix : self.num_prefix + count]


class EPCLDense(nn.Module):
    """EPCL between a dense network's features and the same features improved (outdoor segmentation, detection).

    Differs from the released code: attention runs over tokens, and distances for the interpolation are measured in one
    unit (the released code compares raw with normalized centers).

    Args:
        encoder: a frozen `Encoder`.
        feat_dim: channels of the features.
        num_groups: G point tokens.
        group_size: K members of a group.
        num_task_tokens: T.
        voxel_size: meters per unit of the coordinates.
        normalize: center and scale positions per cloud (not so in detection).
        skip_near_origin: see `PointTokenizer`.
        prefix_position: see `EPCL`.
    """

    official = "epcl-dense"

    def __init__(
        self,
        encoder: Tower,
        feat_dim: int,
        num_groups: int = 512,
        group_size: int = 16,
        num_task_tokens: int = 20,
        voxel_size: float = 0.05,
        normalize: bool = True,
        skip_near_origin: bool = False,
        prefix_position: Tensor | None = None,
    ):
        super().__init__()
        self.tokenizer = PointTokenizer(
            num_groups, group_size, encoder.dim, feat_dim, use_coord=False, skip_near_origin=skip_near_origin
        )
        self.epcl = EPCL(encoder, num_task_tokens, prefix_position=prefix_position)
        self.upsampling = nn.Sequential(
            nn.Conv1d(encoder.dim, feat_dim, 1), nn.BatchNorm1d(feat_dim), nn.ReLU(inplace=True)
        )
        self.voxel_size, self.normalize = voxel_size, normalize

    def forward(self, coord: Tensor, feat: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Improve features.

        Args:
            coord: voxel coordinates (B, P, 3), float.
            feat: (B, P, C).
            lengths: voxels of each cloud (B,).

        Returns:
            Features (B, P, C) and the centers of the groups (B, G, 3), in voxels. Rows behind a cloud's length mean
            nothing.
        """
        carried, centers = self.carry(coord, feat, lengths)
        return feat + self.up(carried), centers

    def carry(self, coord: Tensor, feat: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return what the frozen blocks make of the groups, at every voxel (B, P, D), and the groups' centers."""
        tokens, centers = self.tokenizer(coord, feat, lengths)
        position = centers * self.voxel_size
        x = self.epcl(tokens, unit_ball(position) if self.normalize else position)
        x = self.epcl.points_of(x, tokens.shape[1])
        return ops.three_interpolate(coord, centers, x, lengths), centers

    def up(self, carried: Tensor) -> Tensor:
        """Map (B, P, D) to channels of the features (B, P, C)."""
        return self.upsampling(carried.transpose(1, 2)).transpose(1, 2)
