"""Detection: boxes from EPCL tokens (or from 3DETR's own encoder) through 3DETR's decoder.

The released EPCL detection is a sparse-convolution network with a two-stage head and needs MinkowskiEngine; it is not
built here. The 3DETR decoder on EPCL tokens is this project's own combination.
"""

from typing import Any

import torch
from torch import Tensor, nn

from pointcloud import boxes as box_ops
from pointcloud.box_decoder import BoxDecoder
from pointcloud.criterion import Criterion
from pointcloud.detection_ap import detections_of, select_boxes
from pointcloud.epcl import EPCL
from pointcloud.task_token import Tower
from pointcloud.tokenizer import PointTokenizer
from pointcloud.votes import QueryPoints, VoteHead


class EPCLBackbone(nn.Module):
    """Point tokens of a scene through the frozen blocks.

    Args:
        encoder: a frozen tower of the suite.
        num_task_tokens: T (one per class and one more in the released code).
        num_groups: point tokens M.
        group_size: members of a group.
        feat_dim: channels of the point features.
        scale: offsets within a group are divided by this many meters.
        width: see `MiniPointNet`.
        keep_tokens: hand on the tokenizer's own tokens beside what the blocks made of them.
    """

    def __init__(
        self,
        encoder: Tower,
        num_task_tokens: int,
        num_groups: int = 512,
        group_size: int = 32,
        feat_dim: int = 0,
        scale: float = 0.2,
        width: int = 128,
        keep_tokens: bool = True,
    ):
        super().__init__()
        self.tokenizer = PointTokenizer(num_groups, group_size, encoder.dim, feat_dim, scale=scale, width=width)
        self.epcl = EPCL(encoder, num_task_tokens)
        self.norm = nn.LayerNorm(encoder.dim)
        self.keep_tokens = keep_tokens
        self.out_dim = encoder.dim * (1 + keep_tokens)

    def forward(
        self, coord: Tensor, feat: Tensor | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Map points (B, P, 3) with features (B, P, C) to points (B, M, 3) with features (B, M, D')."""
        tokens, centers = self.tokenizer(coord, feat, lengths)
        x = self.epcl(tokens, centers - centers.mean(dim=1, keepdim=True))
        x = self.norm(self.epcl.points_of(x, tokens.shape[1]))
        return centers, torch.cat([x, tokens], dim=-1) if self.keep_tokens else x


class Detector(nn.Module):
    """A backbone, 3DETR's decoder and its losses.

    Paper: 3DETR (arXiv 2109.08141); EPCL (arXiv 2212.04098).

    Args:
        backbone: maps (coord, feat, lengths) to points (B, M, 3) and features (B, M, `out_dim`).
        num_classes: C.
        num_angle_bins: A; 1 for boxes without yaw.
        decoder: further arguments of `BoxDecoder`.
        criterion: further arguments of `Criterion`.
        min_score: predictions with less objectness are dropped.
        min_points: predictions with fewer points inside are dropped.
        nms_iou: see `detection_ap.select_boxes`; None for no suppression.
        votes: place queries where encoded points vote for centers (see `VoteHead`), instead of on far points.
        query_points: queries begin with what a small PointNet sees of the raw points around them: arguments of
            `QueryPoints`; None lets them begin at zero, as 3DETR does.

    Raises:
        ValueError: `query_points` without `votes`.
    """

    def __init__(
        self,
        backbone: Any,
        num_classes: int,
        num_angle_bins: int = 1,
        decoder: dict[str, Any] | None = None,
        criterion: dict[str, Any] | None = None,
        min_score: float = 0.05,
        min_points: int = 5,
        nms_iou: float | None = 0.25,
        votes: bool = False,
        query_points: dict[str, Any] | None = None,
    ):
        super().__init__()
        if query_points is not None and not votes:
            raise ValueError("query_points needs votes=True: without votes queries stand on surfaces, not in objects")
        self.backbone = backbone
        self.votes = VoteHead(backbone.out_dim) if votes else None
        self.decoder = BoxDecoder(backbone.out_dim, num_classes, num_angle_bins, **(decoder or {}))
        self.look = None if query_points is None else QueryPoints(self.decoder.dim, **query_points)
        self.criterion = Criterion(num_classes, num_angle_bins, **(criterion or {}))
        self.min_score, self.min_points, self.nms_iou = min_score, min_points, nms_iou

    @staticmethod
    def extent(coord: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
        """Lowest and highest coordinates (B, 3) of padded clouds."""
        if lengths is None:
            return coord.amin(1), coord.amax(1)
        behind = (torch.arange(coord.shape[1], device=coord.device) >= lengths[:, None])[..., None]
        low = coord.masked_fill(behind, float("inf")).amin(1)
        return low, coord.masked_fill(behind, float("-inf")).amax(1)

    def forward(
        self, coord: Tensor, feat: Tensor | None = None, lengths: Tensor | None = None
    ) -> list[dict[str, Tensor]]:
        """Outputs of all decoder layers, the last one last (see `box_decoder.decode`).

        Args:
            coord: (B, P, 3), meters, z up.
            feat: (B, P, C).
            lengths: points of each scene (B,).
        """
        return self.run(coord, feat, lengths)[0]

    def run(
        self, coord: Tensor, feat: Tensor | None, lengths: Tensor | None
    ) -> tuple[list[dict[str, Tensor]], tuple[Tensor, Tensor, Tensor] | None]:
        """Outputs of all decoder layers, and encoded points, votes and logits where there are votes."""
        low, high = self.extent(coord, lengths)
        xyz, features = self.backbone(coord, feat, lengths)
        if self.votes is None:
            return self.decoder(xyz, features, low, high)[0], None
        votes, logits = self.votes(xyz, features)
        query_xyz = VoteHead.queries(votes, logits, self.decoder.num_queries)
        query = None if self.look is None else self.look(query_xyz, coord, feat, lengths)
        return self.decoder(xyz, features, low, high, query_xyz, query)[0], (xyz, votes, logits)

    def loss(
        self,
        boxes: Tensor,
        box_label: Tensor,
        box_mask: Tensor,
        coord: Tensor,
        feat: Tensor | None = None,
        lengths: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """The set loss, its terms (of the last layer under `last_<term>`) for the log.

        Args:
            boxes: (B, N, 7), true ones first.
            box_label: (B, N).
            box_mask: (B, N).
            coord: (B, P, 3).
            feat: (B, P, C).
            lengths: (B,).
        """
        targets = self.criterion.targets_of(boxes, box_label, box_mask, *self.extent(coord, lengths))
        layers, voted = self.run(coord, feat, lengths)
        total, terms = self.criterion(layers, targets)
        shown = {k.replace("loss_", "last_"): v.detach() for k, v in terms.items() if not k[-1].isdigit()}
        extra = {} if voted is None else VoteHead.loss(*voted, boxes, box_mask)
        return {"loss": total, **extra, **shown}

    def predict(self, coord: Tensor, feat: Tensor | None = None, lengths: Tensor | None = None) -> list[dict[str, Any]]:
        """One dict a scene with `boxes` (N, 7), `box_label` (N,), `scores` (N,): every class for every kept box."""
        last = {k: v.float() for k, v in self(coord, feat, lengths)[-1].items()}
        found = []
        for b in range(len(coord)):
            points = coord[b] if lengths is None else coord[b, : lengths[b]]
            scene = last["boxes"][b], last["class_probs"][b], last["objectness"][b]
            kept = select_boxes(*scene, points, self.min_points, self.nms_iou)
            boxes, label, scores = detections_of(*scene, kept, self.min_score)
            found.append({"boxes": boxes, "box_label": label, "scores": scores})
        return found


def best_class(found: dict[str, Any], min_score: float = 0.3) -> dict[str, Any]:
    """For people: each box once, under its best class, if its score is high enough.

    Args:
        found: one entry of `Detector.predict`, or of what the model makes of it.
        min_score: of a box that is kept.

    Returns:
        `boxes`, `box_label` and `scores`, best first.
    """
    order = found["scores"].argsort(kind="stable")[::-1]
    kept: list[int] = []
    seen: set[bytes] = set()
    for i in order:
        key = found["boxes"][i].tobytes()
        if found["scores"][i] >= min_score and key not in seen:
            seen.add(key)
            kept.append(int(i))
    return {k: found[k][kept] for k in ("boxes", "box_label", "scores")}


def points_in_boxes(points: Tensor, boxes: Tensor) -> Tensor:
    """How many points (P, 3) lie in each box (K, 7)."""
    return box_ops.contains(boxes, points).sum(1)
