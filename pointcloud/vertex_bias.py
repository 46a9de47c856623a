"""Attention whose logits know where a point lies relative to the eight corners of a query's box.

Paper: V-DETR, DETR with Vertex Relative Position Encoding for 3D Object Detection (arXiv 2308.04409).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pointcloud import boxes as box_ops


class VertexBias(nn.Module):
    """bias[h, q, p] = sum over corners v of T_v[h](g), g = sign(o) log2(s|o| + 1) / (3 reach), o = corner - point.

    T_v is a small MLP evaluated on a grid of n^3 nodes and read with trilinear interpolation, zero beyond the outermost
    nodes. Node k sits at (2k + 1)/n - 1, and the offset's x looks up the MLP's third input, as in the released weights.

    Args:
        num_heads: H.
        width: hidden width of the MLPs.
        nodes: n.
        reach: of the table, in the units of the logarithm.
        log_scale: s, per meter.
        own_axes: measure offsets along the axes of the query's box, not of the scene.
    """

    table: Tensor

    def __init__(
        self,
        num_heads: int,
        width: int = 128,
        nodes: int = 10,
        reach: float = 4.0,
        log_scale: float = 512.0,
        own_axes: bool = False,
    ):
        super().__init__()
        self.reach, self.log_scale, self.own_axes, self.nodes = reach, log_scale, own_axes, nodes
        self.cpb_mlps = nn.ModuleList(
            nn.Sequential(nn.Linear(3, width), nn.ReLU(), nn.Linear(width, num_heads, bias=False)) for _ in range(8)
        )
        axis = torch.linspace(-reach, reach, nodes)
        self.register_buffer("table", torch.cartesian_prod(axis, axis, axis), persistent=False)

    def forward(self, boxes: Tensor, points: Tensor) -> Tensor:
        """Map boxes (B, Q, 7) and points (B, P, 3) to biases (B, H, Q, P); no gradient reaches the boxes."""
        boxes = boxes.detach()
        corners = box_ops.corners(boxes)  # (B, Q, 8, 3)
        total: Tensor | float = 0.0
        for vertex, mlp in enumerate(self.cpb_mlps):
            offset = corners[:, :, None, vertex] - points[:, None]  # (B, Q, P, 3)
            if self.own_axes:
                offset = box_ops.into_axes(offset, boxes[..., 6:7])
            scaled = offset.sign() * torch.log2(self.log_scale * offset.abs() + 1) / (math.log2(8) * self.reach)
            table = mlp(self.table).t().view(1, -1, self.nodes, self.nodes, self.nodes)  # (1, H, n, n, n)
            at = scaled.flatten(0, 1)[None, :, :, None]  # (1, B*Q, P, 1, 3)
            total = total + F.grid_sample(table, at, align_corners=False)[0, ..., 0]  # (H, B*Q, P)
        assert isinstance(total, Tensor)
        return total.unflatten(1, boxes.shape[:2]).transpose(0, 1)


class VertexAttention(VertexBias):
    """Cross-attention with the bias above; keys and values of one head are shared by all heads.

    Args:
        dim: width C.
        num_heads: H.
        dropout: of the attention weights, in training.
        **bias: of `VertexBias`.
    """

    def __init__(self, dim: int, num_heads: int, dropout: float = 0.0, **bias: float):
        super().__init__(num_heads, **bias)  # type: ignore[arg-type]
        self.num_heads, self.dropout = num_heads, nn.Dropout(dropout)
        self.q, self.proj = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.k, self.v = (nn.Linear(dim, dim // num_heads) for _ in range(2))

    def weights(self, query: Tensor, memory: Tensor, boxes: Tensor, points: Tensor) -> Tensor:
        """Return softmaxed weights (B, H, Q, P) of queries (B, Q, C) on memory (B, P, C)."""
        q = self.q(query).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # (B, H, Q, d)
        logits = (q * q.shape[-1] ** -0.5) @ self.k(memory)[:, None].transpose(-1, -2)
        return (logits + VertexBias.forward(self, boxes, points)).softmax(-1)

    def forward(self, query: Tensor, memory: Tensor, boxes: Tensor, points: Tensor) -> Tensor:  # type: ignore[override]
        """Map queries (B, Q, C), whose boxes are (B, Q, 7), and memory (B, P, C) at points (B, P, 3) to (B, Q, C)."""
        mixed = self.dropout(self.weights(query, memory, boxes, points)) @ self.v(memory)[:, None]  # (B, H, Q, d)
        return self.proj(mixed.transpose(1, 2).flatten(2))
