"""3DETR's own point encoder (arXiv 2109.08141), trained from scratch: the baseline beside EPCL tokens.

Set abstraction to 2048 points, then pre-norm transformer layers without position embedding; the masked variant attends
within growing radii and halves the points after its first layer.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from pointcloud import ops
from pointcloud.mixer import linear_norm
from xmodal.registry import ENCODERS


@ENCODERS.register_module(name="no_encoder")
def no_encoder(weights: str = "random") -> None:
    """Stand where other configs have a frozen encoder: 3DETR has none, and everything in it begins random.

    Args:
        weights: `random`, the only ones there are.

    Raises:
        ValueError: other weights are asked for.
    """
    if weights != "random":
        raise ValueError(f"weights={weights!r}: 3DETR has no encoder that could be pretrained, only random")


class SetAbstraction(nn.Module):
    """Keep far points and describe the ball around each: shared MLP on offsets and features, then a maximum.

    Paper: PointNet++ (arXiv 1706.02413). Short balls repeat their first hit.

    Args:
        num_points: points kept.
        radius: of the balls, meters; offsets are divided by it.
        num_samples: most members of a ball.
        dims: channels from the input features (0 for none) to the output.
        skip_near_origin: see `ops.farthest_point_sample`.
    """

    def __init__(
        self, num_points: int, radius: float, num_samples: int, dims: Sequence[int], skip_near_origin: bool = False
    ):
        super().__init__()
        self.num_points, self.radius, self.num_samples = num_points, radius, num_samples
        self.skip_near_origin = skip_near_origin
        steps = [dims[0] + 3, *dims[1:]]
        self.mlp = nn.Sequential(*(linear_norm(a, b) for a, b in pairwise(steps)))

    def forward(self, coord: Tensor, feat: Tensor | None, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map points (B, P, 3) with features (B, P, C) to kept points (B, M, 3) with features (B, M, C')."""
        idx = ops.farthest_point_sample(coord, self.num_points, lengths, self.skip_near_origin).clamp(min=0)
        kept = ops.gather(coord, idx)
        _, members = ops.ball_query(kept, coord, self.radius, self.num_samples, None, lengths, fill="first")
        group = (ops.gather(coord, members) - kept[:, :, None]) / self.radius  # (B, M, K, 3)
        if feat is not None:
            group = torch.cat([group, ops.gather(feat, members)], dim=-1)
        return kept, self.mlp(group).amax(dim=2)


class EncoderLayer(nn.Module):
    """Pre-norm self-attention and MLP."""

    def __init__(self, dim: int, num_heads: int, ffn_dim: int, dropout: float):
        super().__init__()
        self.self_attn = nn.MultiheadAttention(dim, num_heads, dropout, batch_first=True)
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.linear1, self.linear2 = nn.Linear(dim, ffn_dim), nn.Linear(ffn_dim, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Map (B, M, D) to (B, M, D); mask (B, M, M) is True where attention is forbidden."""
        y = self.norm1(x)
        mask = None if mask is None else mask.repeat_interleave(self.self_attn.num_heads, dim=0)
        x = x + self.dropout(self.self_attn(y, y, y, attn_mask=mask, need_weights=False)[0])
        return x + self.dropout(self.linear2(self.dropout(self.linear1(self.norm2(x)).relu())))


class DETREncoder(nn.Module):
    """Set abstraction and transformer layers.

    Args:
        feat_dim: channels of the point features, 0 for coordinates only.
        masked: the masked variant ("3DETR-m").
        dim: width.
        num_heads: attention heads.
        ffn_dim: hidden width of the MLPs.
        depth: layers.
        num_points: points kept at the entrance.
        dropout: None for 0.1, masked 0.3.
        radii: attention radii of the masked variant in meters. The released code squares (.4, .8, 1.2) and compares the
            squares with plain distances; its effective radii are the default.
        skip_near_origin: see `ops.farthest_point_sample`.
    """

    def __init__(
        self,
        feat_dim: int = 0,
        masked: bool = False,
        dim: int = 256,
        num_heads: int = 4,
        ffn_dim: int = 128,
        depth: int = 3,
        num_points: int = 2048,
        dropout: float | None = None,
        radii: Sequence[float] = (0.16, 0.64, 1.44),
        skip_near_origin: bool = False,
    ):
        super().__init__()
        self.feat_dim = feat_dim
        if masked and len(radii) != depth:
            raise ValueError(f"radii {tuple(radii)}: give one for each of the {depth} layers")
        dropout = (0.3 if masked else 0.1) if dropout is None else dropout
        self.radii = tuple(radii) if masked else (None,) * depth
        self.out_dim = dim
        self.pre_encoder = SetAbstraction(num_points, 0.2, 64, (feat_dim, 64, 128, dim), skip_near_origin)
        self.layers = nn.ModuleList(EncoderLayer(dim, num_heads, ffn_dim, dropout) for _ in range(depth))
        self.interim = None
        if masked:
            self.interim = SetAbstraction(num_points // 2, 0.4, 32, (dim, dim, dim, dim), skip_near_origin)
        for weight in self.layers.parameters():
            if weight.ndim > 1:
                nn.init.xavier_uniform_(weight)

    def forward(
        self, coord: Tensor, feat: Tensor | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Map points (B, P, 3) with features (B, P, C) to points (B, M, 3) with features (B, M, D)."""
        coord, x = self.pre_encoder(coord, feat, lengths)
        for i, (layer, radius) in enumerate(zip(self.layers, self.radii, strict=True)):
            mask = None if radius is None else torch.cdist(coord, coord) >= radius
            x = layer(x, mask)
            if i == 0 and self.interim is not None:
                coord, x = self.interim(coord, x)
        return coord, x
