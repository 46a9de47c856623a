"""Queries that stand in objects: encoded points vote for centers, and a query sees the raw points around it.

Neither EPCL nor 3DETR has this; it is what lets a detector learn from a few hundred scenes.
"""

import torch
from torch import Tensor, nn

from pointcloud import boxes as box_ops
from pointcloud import ops
from pointcloud.tokenizer import MiniPointNet


class VoteHead(nn.Module):
    """Predict for every encoded point whether it lies on an object, and the object's center.

    Paper: VoteNet (arXiv 1904.09664), used here to place 3DETR's queries; neither EPCL nor 3DETR has it.

    Args:
        in_dim: channels of the encoded points.
        hidden: width.
    """

    def __init__(self, in_dim: int, hidden: int = 128):
        super().__init__()
        self.mlp = nn.Sequential(nn.LayerNorm(in_dim), nn.Linear(in_dim, hidden), nn.GELU(), nn.Linear(hidden, 4))

    def forward(self, xyz: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        """Votes (B, M, 3) and logits of being on an object (B, M)."""
        out = self.mlp(features)
        return xyz + out[..., :3], out[..., 3]

    @staticmethod
    def queries(votes: Tensor, logits: Tensor, count: int) -> Tensor:
        """Far votes (B, count, 3) among the points most likely on an object."""
        best = logits.topk(min(2 * count, logits.shape[1]), dim=1).indices
        near = ops.gather(votes.detach(), best)
        return ops.gather(near, ops.farthest_point_sample(near, count).clamp(min=0))

    @staticmethod
    def loss(xyz: Tensor, votes: Tensor, logits: Tensor, boxes: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """Binary cross-entropy of being in a true box (B, N, 7), distance of the vote from its center."""
        inside = torch.stack([box_ops.contains(b, x, slack=0.03) for b, x in zip(boxes, xyz, strict=True)])
        inside = (inside & mask[..., None].bool()).float()  # (B, N, M)
        if inside.shape[1] == 0:
            inside = inside.new_zeros(len(xyz), 1, xyz.shape[1])
            boxes = boxes.new_zeros(len(xyz), 1, 7)
        target = inside.amax(1)  # (B, M)
        center = ops.gather(boxes[..., :3], inside.argmax(1))  # (B, M, 3)
        offset = ((votes - center).abs().sum(-1) * target).sum()
        return {
            "loss_on_object": nn.functional.binary_cross_entropy_with_logits(logits, target),
            "loss_vote": offset / target.sum().clamp(min=1),
        }


class QueryPoints(nn.Module):
    """A small PointNet over the raw points within a ball around each query.

    Paper: the local regions of VoteNet's proposals (arXiv 1904.09664), on raw points.

    Args:
        dim: channels of a query.
        feat_dim: channels of the point features.
        radius: of the ball, meters.
        num_points: most points of a ball, the first in the order of the cloud.
        width: see `MiniPointNet`.
    """

    def __init__(self, dim: int, feat_dim: int = 0, radius: float = 1.2, num_points: int = 96, width: int = 32):
        super().__init__()
        self.radius, self.num_points, self.feat_dim = radius, num_points, feat_dim
        self.net = MiniPointNet(3 + feat_dim, dim, width)

    def forward(
        self, query_xyz: Tensor, coord: Tensor, feat: Tensor | None = None, lengths: Tensor | None = None
    ) -> Tensor:
        """Features (B, Q, D) of queries at (B, Q, 3) in clouds (B, P, 3) with features (B, P, C)."""
        _, idx = ops.ball_query(query_xyz, coord, self.radius, self.num_points, None, lengths, fill="first")
        group = ops.gather(coord, idx) - query_xyz[:, :, None]  # (B, Q, K, 3)
        if self.feat_dim:
            group = torch.cat([group, ops.gather(feat, idx)], dim=-1)  # type: ignore[arg-type]
        return self.net(group)
