"""The decoder and heads of 3DETR (arXiv 2109.08141): queries at points, a transformer decoder, box heads.

Names of weights are 3DETR's.
"""

import math
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from pointcloud import ops
from pointcloud.pointwise import PointConv, PointNorm


class FourierPositions(nn.Module):
    """Random Fourier features of positions normalized to the scene: [sin, cos] of 2 pi x B.

    Args:
        dim: channels, even. B (3, dim/2) is drawn once and travels with the checkpoint.
    """

    gauss_B: Tensor  # noqa: N815  (the official key)

    def __init__(self, dim: int):
        super().__init__()
        if dim % 2:
            raise ValueError(f"Fourier positions need an even width, got {dim}")
        self.register_buffer("gauss_B", torch.randn(3, dim // 2))

    def forward(self, xyz: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """Map points (B, M, 3) in a scene from low to high (B, 3) to (B, M, dim)."""
        extent = (high - low).clamp(min=1e-6)[:, None]  # a flat scene has no position along its thin axis
        angle = 2 * math.pi * ((xyz - low[:, None]) / extent) @ self.gauss_B
        return torch.cat([angle.sin(), angle.cos()], dim=-1)


class PointMLP(nn.Module):
    """1x1 convolutions over points: hidden layers with optional BatchNorm, ReLU and dropout, then one more layer.

    Args:
        dims: channels from input to output.
        norm: BatchNorm behind every hidden layer, which then has no bias.
        dropout: behind every hidden layer; 0 adds no module, as the official keys count.
        norm_output: BatchNorm and ReLU behind the output as well.
        act_output: ReLU behind the output.
        output_bias: bias of the last layer.
    """

    def __init__(
        self,
        dims: list[int],
        norm: bool = True,
        dropout: float | None = None,
        norm_output: bool = False,
        act_output: bool = False,
        output_bias: bool = True,
    ):
        super().__init__()
        layers: list[nn.Module] = []
        for i, (one, two) in enumerate(pairwise(dims)):
            hidden = i < len(dims) - 2
            layers.append(PointConv(one, two, bias=not norm if hidden else output_bias))
            if (norm and hidden) or (norm_output and not hidden):
                layers.append(PointNorm(two))
            if hidden or act_output or norm_output:
                layers.append(nn.ReLU())
            if hidden and dropout is not None:
                layers.append(nn.Dropout(dropout))
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, M, C) to (B, M, C')."""
        return self.layers(x)


class DecoderLayer(nn.Module):
    """Pre-norm decoder layer; positions are added to queries and keys, not to values."""

    attention: Any = partial(nn.MultiheadAttention, batch_first=True)  # to the memory

    def __init__(self, dim: int, num_heads: int, ffn_dim: int, dropout: float, **options: Any):
        super().__init__()
        self.self_attn = nn.MultiheadAttention(dim, num_heads, dropout, batch_first=True)
        self.multihead_attn = self.attention(dim, num_heads, dropout, **options)
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(dim), nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.linear1, self.linear2 = nn.Linear(dim, ffn_dim), nn.Linear(ffn_dim, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, memory: Tensor, query_pos: Tensor, *where: Tensor) -> Tensor:
        """Map queries (B, Q, D) and memory (B, M, D), which is somewhere, to queries."""
        y = self.norm1(x)
        q = y + query_pos
        x = x + self.dropout(self.self_attn(q, q, y, need_weights=False)[0])
        x = x + self.dropout(self.attend(self.norm2(x) + query_pos, memory, *where))
        return x + self.dropout(self.linear2(self.dropout(self.linear1(self.norm3(x)).relu())))

    def attend(self, y: Tensor, memory: Tensor, pos: Tensor) -> Tensor:
        """Attend to the memory with positions `pos` (B, M, D)."""
        return self.multihead_attn(y, memory + pos, memory, need_weights=False)[0]


class Decoder(nn.Module):
    """Decoder layers whose every output passes one shared norm."""

    def __init__(self, dim: int, num_heads: int, ffn_dim: int, depth: int, dropout: float):
        super().__init__()
        self.layers = nn.ModuleList(DecoderLayer(dim, num_heads, ffn_dim, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)

    def forward(self, memory: Tensor, query_pos: Tensor, pos: Tensor, query: Tensor | None = None) -> Tensor:
        """Outputs of all layers (L, B, Q, D); queries start at `query`, or at zero."""
        x = torch.zeros_like(query_pos) if query is None else query
        found = []
        for layer in self.layers:
            x = layer(x, memory, query_pos, pos)
            found.append(self.norm(x))
        return torch.stack(found)


class BoxDecoder(nn.Module):
    """From encoded points to boxes.

    Paper: 3DETR (arXiv 2109.08141).
    Trains: everything; B of the Fourier positions is a fixed random buffer.

    Args:
        in_dim: channels of the encoded points.
        num_classes: C.
        num_angle_bins: A; 1 for boxes without yaw.
        dim: width of the decoder.
        num_heads: attention heads.
        ffn_dim: hidden width of its MLPs.
        depth: layers L.
        num_queries: Q.
        hidden_projections: hidden layers between encoder and decoder (2; 1 behind the masked encoder).
        dropout: of the decoder.
        mlp_dropout: of the heads.
        skip_near_origin: sample query points as `pointnet2_ops` does (released checkpoints).
        log_size: the size head gives the logarithm of meters, not a share of the scene; small boxes then come out as
            sharp as large ones.
    """

    def __init__(
        self,
        in_dim: int,
        num_classes: int,
        num_angle_bins: int = 1,
        dim: int = 256,
        num_heads: int = 4,
        ffn_dim: int = 256,
        depth: int = 8,
        num_queries: int = 256,
        hidden_projections: int = 2,
        dropout: float = 0.1,
        mlp_dropout: float = 0.3,
        skip_near_origin: bool = False,
        log_size: bool = False,
    ):
        super().__init__()
        self.num_classes, self.num_angle_bins, self.num_queries = num_classes, num_angle_bins, num_queries
        self.dim, self.log_size = dim, log_size
        self.skip_near_origin = skip_near_origin
        steps = [in_dim] * (hidden_projections + 1) + [dim]
        self.encoder_to_decoder_projection = PointMLP(steps, norm_output=True, output_bias=False)
        self.pos_embedding = FourierPositions(dim)
        self.query_projection = PointMLP([dim, dim, dim], norm=False, act_output=True)
        self.decoder = Decoder(dim, num_heads, ffn_dim, depth, dropout)
        widths = {
            "sem_cls_head": num_classes + 1,
            "center_head": 3,
            "size_head": 3,
            "angle_cls_head": num_angle_bins,
            "angle_residual_head": num_angle_bins,
        }
        self.mlp_heads = nn.ModuleDict(
            {k: PointMLP([dim, dim, dim, w], dropout=mlp_dropout) for k, w in widths.items()}
        )
        for module in self.decoder.parameters():
            if module.ndim > 1:
                nn.init.xavier_uniform_(module)

    def forward(
        self,
        xyz: Tensor,
        features: Tensor,
        low: Tensor,
        high: Tensor,
        query_xyz: Tensor | None = None,
        query: Tensor | None = None,
    ) -> tuple[list[dict[str, Tensor]], Tensor]:
        """Predict boxes.

        Args:
            xyz: encoded points (B, M, 3), meters.
            features: (B, M, in_dim).
            low: lowest coordinates of each scene (B, 3).
            high: highest ones.
            query_xyz: where queries stand (B, Q, 3); None samples Q far points of `xyz`.
            query: what they begin with (B, Q, dim); None for zeros.

        Returns:
            One dict per decoder layer in order (see `decode`), and the queries' indices into `xyz` (B, Q), -1
            when they were given.
        """
        memory = self.encoder_to_decoder_projection(features)
        pos = self.pos_embedding(xyz, low, high)
        if query_xyz is None:
            query_idx = ops.farthest_point_sample(xyz, self.num_queries, skip_near_origin=self.skip_near_origin)
            query_idx = query_idx.clamp(min=0)  # fewer points than queries: the first point again
            query_xyz = ops.gather(xyz, query_idx)
        else:
            query_idx = torch.full(query_xyz.shape[:2], -1, device=xyz.device)
        query_pos = self.query_projection(self.pos_embedding(query_xyz, low, high))
        layers = self.decoder(memory, query_pos, pos, query)  # (L, B, Q, D)
        flat = layers.flatten(0, 1)
        raw = {k: head(flat).unflatten(0, layers.shape[:2]) for k, head in self.mlp_heads.items()}
        found = [
            decode({k: v[i] for k, v in raw.items()}, query_xyz, low, high, self.log_size) for i in range(len(layers))
        ]
        return found, query_idx


def decode(
    raw: dict[str, Tensor], query_xyz: Tensor, low: Tensor, high: Tensor, log_size: bool = False
) -> dict[str, Tensor]:
    """Decode the heads' outputs into boxes (B, Q, 7).

    Args:
        raw: outputs of the heads (B, Q, ...).
        query_xyz: (B, Q, 3).
        low: of the scene (B, 3).
        high: of the scene (B, 3).
        log_size: see `BoxDecoder`.

    Returns:
        `query` (B, Q, 3), `logits` (B, Q, C+1), `class_probs` (B, Q, C), `objectness` (B, Q), `center` and `size` in
        meters (B, Q, 3) and their shares of the scene `center_normalized`, `size_normalized`, `angle_logits`,
        `angle_raw` (residuals in half bins), `angle_residual` (B, Q, A), `angle` (B, Q) and `boxes` (B, Q, 7).
    """
    extent = high - low
    center = query_xyz + raw["center_head"].sigmoid() - 0.5  # at most half a meter from the query
    if log_size:
        size = raw["size_head"].clamp(-4, 3).exp()  # 2 cm to 20 m
        size_share = size / extent.clamp(min=0.1)[:, None]
    else:
        size_share = raw["size_head"].sigmoid()
        size = size_share * extent.clamp(min=0.1)[:, None]
    bins = raw["angle_cls_head"].shape[-1]
    residual = raw["angle_residual_head"] * (math.pi / bins)
    angle = continuous_angle(raw["angle_cls_head"], residual)
    probs = raw["sem_cls_head"].softmax(-1)
    return {
        "query": query_xyz,
        "logits": raw["sem_cls_head"],
        "class_probs": probs[..., :-1],
        "objectness": 1 - probs[..., -1],
        "center": center,
        "center_normalized": (center - low[:, None]) / extent.clamp(min=1e-6)[:, None],
        "size": size,
        "size_normalized": size_share,
        "angle_logits": raw["angle_cls_head"],
        "angle_raw": raw["angle_residual_head"],
        "angle_residual": residual,
        "angle": angle,
        "boxes": torch.cat([center, size, angle[..., None]], dim=-1),
    }


def continuous_angle(logits: Tensor, residual: Tensor) -> Tensor:
    """Angles (B, Q) in (-pi, pi] from bins and residuals (B, Q, A); 0 when there is one bin."""
    bins = logits.shape[-1]
    if bins == 1:
        return torch.zeros_like(logits[..., 0])
    best = logits.argmax(-1, keepdim=True)
    angle = best[..., 0] * (2 * math.pi / bins) + residual.gather(-1, best)[..., 0]
    return torch.where(angle > math.pi, angle - 2 * math.pi, angle)
