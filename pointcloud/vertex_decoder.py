"""V-DETR's decoder: proposals at points, layers that know the corners of their boxes, boxes in units of their anchors.

Paper: V-DETR (arXiv 2308.04409). Names of weights are the released ones.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pointcloud.box_decoder import DecoderLayer, PointMLP, continuous_angle
from pointcloud.pointwise import PointConv, PointNorm
from pointcloud.vertex_bias import VertexAttention

CONTENTS = ("random", "zero", "sample", "random_add")
Boxes = dict[str, Tensor]


class VertexLayer(DecoderLayer):
    """Decoder layer with vertex attention; positions of boxes are added to queries."""

    attention = VertexAttention

    def attend(self, y: Tensor, memory: Tensor, boxes: Tensor, points: Tensor) -> Tensor:  # type: ignore[override]
        """Attend from boxes (B, Q, 7) to the memory at points (B, M, 3)."""
        return self.multihead_attn(y, memory, boxes, points)


class FirstLayer(nn.Module):
    """h = z + W2 relu(W1 z), z = norm(memory)."""

    def __init__(self, dim: int, ffn_dim: int, dropout: float):
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.linear1, self.linear2 = nn.Linear(dim, ffn_dim), nn.Linear(ffn_dim, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, memory: Tensor) -> Tensor:
        """Map (B, P, D) to (B, P, D)."""
        z = self.norm(memory)
        return z + self.dropout(self.linear2(self.dropout(self.linear1(z).relu())))


class Positions(nn.Module):
    """Linear, BatchNorm, ReLU, linear, of numbers in meters."""

    def __init__(self, numbers: int, dim: int):
        super().__init__()
        self.position_embedding_head = nn.Sequential(
            PointConv(numbers, dim), PointNorm(dim), nn.ReLU(), PointConv(dim, dim)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, Q, numbers) to (B, Q, D)."""
        return self.position_embedding_head(x)


def heads_of(dim: int, num_classes: int, num_angle_bins: int, dropout: float) -> nn.ModuleDict:
    """Return the heads of one stage; a prediction begins as its anchor and as unlikely."""
    widths = {"sem_cls_head": num_classes, "center_head": 3, "size_head": 3, "angle_cls_head": num_angle_bins,
              "angle_residual_head": num_angle_bins}  # fmt: skip
    heads = nn.ModuleDict({k: PointMLP([dim, dim, dim, w], dropout=dropout) for k, w in widths.items()})
    for name, head in heads.items():
        *_, last = head.parameters()  # the bias of the last layer
        if name in ("center_head", "size_head"):
            for parameter in list(head.parameters())[-2:]:
                nn.init.zeros_(parameter)
        elif name == "sem_cls_head":
            nn.init.constant_(last, -math.log(99))
    return heads


def decode(raw: Boxes, center: Tensor, size: Tensor) -> Boxes:
    """Decode the heads' outputs relative to anchors with `center` and `size` (B, Q, 3).

    Returns:
        As `box_decoder.decode`; `logits` (B, Q, C) have no background. `center_offset` is in units of the anchor,
        `size_log` its logarithm; `anchor_center` and `anchor_size` are the anchor.
    """
    bins = raw["angle_cls_head"].shape[-1]
    residual = raw["angle_residual_head"] * (math.pi / bins)
    angle = continuous_angle(raw["angle_cls_head"], residual)
    found_center = center + raw["center_head"] * size
    found_size = size * raw["size_head"].exp()
    probs = raw["sem_cls_head"].sigmoid()
    return {
        "query": center,
        "anchor_center": center,
        "anchor_size": size,
        "center_offset": raw["center_head"],
        "size_log": raw["size_head"],
        "logits": raw["sem_cls_head"],
        "class_probs": probs,
        "objectness": probs.amax(-1),
        "center": found_center,
        "size": found_size,
        "angle_logits": raw["angle_cls_head"],
        "angle_raw": raw["angle_residual_head"],
        "angle_residual": residual,
        "angle": angle,
        "boxes": torch.cat([found_center, found_size, angle[..., None]], -1),
    }


class VertexDecoder(nn.Module):
    """Proposals at all points, of which the best become queries, and decoder layers.

    Args:
        dim: width D.
        num_classes: C.
        num_angle_bins: A; 1 for boxes without yaw.
        num_heads: attention heads.
        ffn_dim: hidden width of the MLPs.
        depth: decoder layers behind the proposals.
        num_queries: Q.
        content: what queries begin with: `random` (learned), `zero`, `sample` (the point's feature), `random_add`
            (both).
        mean_sizes: (C, 3) mean size of each class, the anchors of points by their likeliest class; None: 1 m cubes.
        one_class: proposals only tell objects from none.
        key_positions: add positions of points to memory.
        dropout: of the layers.
        mlp_dropout: of the heads.
        **bias: of `VertexBias`.

    Raises:
        ValueError: another word for `content`.
    """

    sizes: Tensor

    def __init__(
        self,
        dim: int,
        num_classes: int,
        num_angle_bins: int,
        num_heads: int = 4,
        ffn_dim: int = 256,
        depth: int = 8,
        num_queries: int = 1024,
        content: str = "random",
        mean_sizes: Sequence[Sequence[float]] | None = None,
        one_class: bool = True,
        key_positions: bool = False,
        dropout: float = 0.1,
        mlp_dropout: float = 0.3,
        **bias: float,
    ):
        super().__init__()
        if content not in CONTENTS:
            raise ValueError(f"content {content!r}: choose {', '.join(CONTENTS)}")
        self.num_queries, self.content = num_queries, content
        self.pointcls_heads = PointMLP([dim, dim, dim, num_classes], dropout=mlp_dropout)
        nn.init.constant_(list(self.pointcls_heads.parameters())[-1], -math.log(99))
        self.first_layer = FirstLayer(dim, ffn_dim, dropout)
        self.layers = nn.ModuleList(VertexLayer(dim, num_heads, ffn_dim, dropout, **bias) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)
        self.query_pos_projection = nn.ModuleList(Positions(6, dim) for _ in range(depth))
        self.key_pos_projection = nn.ModuleList(Positions(3, dim) for _ in range(depth)) if key_positions else ()
        self.query_embed = nn.Embedding(num_queries, dim) if content.startswith("random") else None
        classes = [1 if one_class else num_classes, *[num_classes] * depth]
        self.mlp_heads = nn.ModuleList(heads_of(dim, count, num_angle_bins, mlp_dropout) for count in classes)
        sizes = torch.ones(num_classes, 3) if mean_sizes is None else torch.tensor(mean_sizes)[:num_classes]
        self.register_buffer("sizes", sizes, persistent=False)

    def stage(self, i: int, x: Tensor, center: Tensor, size: Tensor) -> Boxes:
        """Predict boxes relative to anchors from queries (B, Q, D) behind layer i."""
        x, heads = self.norm(x), self.mlp_heads[i]
        return decode({name: head(x) for name, head in heads.named_children()}, center, size)

    def forward(self, memory: Tensor, points: Tensor) -> list[Boxes]:
        """Map memory (B, P, D) at points (B, P, 3) to the predictions of the proposals and of all layers.

        The proposals' dict also holds `point_logits` (B, P, C).
        """
        point_logits = self.pointcls_heads(memory)
        first = self.first_layer(memory)
        found = [self.stage(0, first, points, self.sizes[point_logits.argmax(-1)])]
        found[0]["point_logits"] = point_logits
        best = found[0]["objectness"].topk(min(self.num_queries, points.shape[1])).indices[..., None]  # (B, Q, 1)
        boxes = found[0]["boxes"].detach().gather(1, best.expand(-1, -1, 7))
        center, size = boxes[..., :3], boxes[..., 3:6]
        x = self.begin(first.gather(1, best.expand(-1, -1, first.shape[-1])))
        for i, (layer, positions) in enumerate(zip(self.layers, self.query_pos_projection, strict=True)):
            keys = memory
            if len(self.key_pos_projection):
                keys = memory + self.key_pos_projection[i](points)  # type: ignore[operator]
            x = layer(x, keys, positions(boxes[..., :6]), boxes, points)
            found.append(self.stage(i + 1, x, center, size))
            boxes = found[-1]["boxes"].detach()
        return found

    def begin(self, sampled: Tensor) -> Tensor:
        """Return what queries begin with, given the features of their points (B, Q, D)."""
        if self.query_embed is None:
            return sampled if self.content == "sample" else torch.zeros_like(sampled)
        learned = self.query_embed.weight[: sampled.shape[1]].expand(len(sampled), -1, -1)
        return sampled + learned if self.content == "random_add" else learned


class VertexBoxDecoder(nn.Module):
    """From encoded points to boxes, in the place of `box_decoder.BoxDecoder`.

    Args:
        in_dim: channels of the encoded points.
        num_classes: C.
        num_angle_bins: A.
        dim: width of the decoder.
        **options: of `VertexDecoder` and `VertexBias`.
    """

    def __init__(self, in_dim: int, num_classes: int, num_angle_bins: int = 1, dim: int = 256, **options: float):
        super().__init__()
        self.dim = dim
        self.encoder_to_decoder_projection = PointMLP([in_dim, dim], norm_output=True, output_bias=False)
        self.decoder = VertexDecoder(dim, num_classes, num_angle_bins, **options)  # type: ignore[arg-type]
        self.num_queries = self.decoder.num_queries

    def forward(self, xyz: Tensor, features: Tensor, low: Tensor, high: Tensor) -> tuple[list[Boxes], None]:
        """Predict boxes of encoded points (B, M, 3) with features (B, M, in_dim); the scene's extent is not used."""
        return self.decoder(self.encoder_to_decoder_projection(features), xyz), None
