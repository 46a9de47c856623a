"""Detection: boxes from EPCL tokens (or from 3DETR's own encoder) through 3DETR's decoder.

The released EPCL detection stands on a sparse U-Net (`sparse_detection.py`). The 3DETR decoder on EPCL tokens is this
project's own combination.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pointcloud import boxes as box_ops
from pointcloud import task
from pointcloud.box_decoder import BoxDecoder
from pointcloud.criterion import Criterion
from pointcloud.datasets.base import Cloud
from pointcloud.detection_ap import detections_of, select_boxes
from pointcloud.detr_encoder import DETREncoder
from pointcloud.epcl import EPCL
from pointcloud.formats.frame import Frame
from pointcloud.formats.write import class_color, write_boxes_ply
from pointcloud.neighbors import valid_rows
from pointcloud.task_token import Tower
from pointcloud.tokenizer import PointTokenizer
from pointcloud.votes import QueryPoints, VoteHead
from xmodal.engine.classes import name_of
from xmodal.registry import check_arguments, method
from xmodal.structures import Encoder


class EPCLBackbone(nn.Module):
    """Point tokens of a scene through the frozen blocks.

    Args:
        encoder: a frozen `Encoder`.
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
        self.keep_tokens, self.feat_dim = keep_tokens, feat_dim
        self.out_dim = encoder.dim * (1 + keep_tokens)

    def forward(
        self, coord: Tensor, feat: Tensor | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Map points (B, P, 3) with features (B, P, C) to points (B, M, 3) with features (B, M, D')."""
        tokens, centers = self.tokenizer(coord, feat, lengths)
        x = self.epcl(tokens, centers - centers.mean(dim=1, keepdim=True))
        x = self.norm(self.epcl.points_of(x, tokens.shape[1]))
        return centers, torch.cat([x, tokens], dim=-1) if self.keep_tokens else x


class Detector(task.TaskNetwork):
    """A backbone, 3DETR's decoder and its losses.

    Paper: 3DETR (arXiv 2109.08141); EPCL (arXiv 2212.04098).

    Args:
        backbone: maps (coord, feat, lengths) to points (B, M, 3) and features (B, M, `out_dim`).
        num_classes: C.
        num_angle_bins: A; 1 for boxes without yaw.
        decoder: further arguments of `BoxDecoder`.
        criterion: further arguments of `Criterion`.
        min_score: predictions with less objectness are dropped.
        show_score: boxes of single files with a lower score are not reported; None for 0.3, or 0 where `min_score` is.
        min_points: predictions with fewer points inside are dropped.
        nms_iou: see `detection_ap.select_boxes`; None for no suppression.
        votes: place queries where encoded points vote for centers (see `VoteHead`), instead of on far points.
        query_points: queries begin with what a small PointNet sees of the raw points around them: arguments of
            `QueryPoints`; None lets them begin at zero, as 3DETR does.

    Raises:
        ValueError: `query_points` without `votes`.
    """

    targets = ("boxes", "box_label", "box_mask")
    decoder_type: Any = BoxDecoder
    criterion_type: Any = Criterion

    def __init__(
        self,
        backbone: Any,
        num_classes: int,
        num_angle_bins: int = 1,
        decoder: dict[str, Any] | None = None,
        criterion: dict[str, Any] | None = None,
        min_score: float = 0.05,
        show_score: float | None = None,
        min_points: int = 5,
        nms_iou: float | None = 0.25,
        votes: bool = False,
        query_points: dict[str, Any] | None = None,
    ):
        super().__init__()
        if query_points is not None and not votes:
            raise ValueError("query_points needs votes=True: without votes queries stand on surfaces, not in objects")
        self.backbone, self.feat_dim = backbone, getattr(backbone, "feat_dim", 0)
        self.official = "3detr" if isinstance(backbone, DETREncoder) else ""
        self.votes = VoteHead(backbone.out_dim) if votes else None
        self.decoder = self.decoder_type(backbone.out_dim, num_classes, num_angle_bins, **(decoder or {}))
        self.look = None if query_points is None else QueryPoints(self.decoder.dim, **query_points)
        self.criterion = self.criterion_type(num_classes, num_angle_bins, **(criterion or {}))
        self.min_score, self.min_points, self.nms_iou = min_score, min_points, nms_iou
        self.show_score = (0.3 if min_score else 0.0) if show_score is None else show_score

    @staticmethod
    def extent(coord: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
        """Lowest and highest coordinates (B, 3) of padded clouds."""
        if lengths is None:
            return coord.amin(1), coord.amax(1)
        behind = ~valid_rows(lengths, coord.shape[0], coord.shape[1], coord.device)[..., None]
        low = coord.masked_fill(behind, float("inf")).amin(1)
        return low, coord.masked_fill(behind, float("-inf")).amax(1)

    def forward(
        self, coord: Tensor, feat: Tensor | None = None, lengths: Tensor | None = None
    ) -> list[dict[str, Tensor]]:
        """Return the outputs of all decoder layers in order (see `box_decoder.decode`).

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

    def truth(self, batch: dict[str, Any], index: int) -> dict[str, Any]:
        """Return `target_boxes` (K, 7) and `target_label` (K,) of a scene, without padding."""
        if batch.get("boxes") is None:
            return {}
        real = batch["box_mask"][index].bool()
        boxes, label = (batch[key][index][real].cpu().numpy() for key in ("boxes", "box_label"))
        return {"target_boxes": boxes, "target_label": label}

    def place(self, found: dict[str, Any], cloud: Cloud, scale: float, shift: np.ndarray) -> dict[str, Any]:
        """Move boxes back to the cloud, offset included (float64), and add `corners` in the file's own coordinates."""
        task.check_scores(found["scores"], found["boxes"])
        boxes = np.asarray(found["boxes"], np.float64).reshape(-1, 7).copy()
        boxes[:, :6] *= scale
        boxes[:, :3] += shift
        frame = cloud.get("frame", Frame())
        corners = frame.to_file(box_ops.corners(torch.from_numpy(boxes)).numpy())
        boxes[:, :3] += frame.offset
        return {**found, "boxes": boxes, "corners": corners}

    def show(
        self, found: dict[str, Any], names: Sequence[str], stem: Path | None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the likely `boxes`, best first, and what the page draws; with `stem`, writes `<stem>_boxes.ply`."""
        kept = best_class(found, self.show_score)
        rows = []
        for i, (box, label, score) in enumerate(zip(kept["boxes"], kept["box_label"], kept["scores"], strict=True)):
            row = {"name": name_of(int(label), names), "score": round(float(score), 4)}
            row["box"] = [round(float(v), 6) for v in box]
            if "corners" in kept:
                row["corners"] = kept["corners"][i].round(6).tolist()
            rows.append(row)
        hidden = len(best_class(found, 0.0)["scores"]) - len(rows)
        report: dict[str, Any] = {"boxes": rows, "min_score": self.show_score, "hidden": hidden}
        if "corners" in kept and stem is not None:
            colors = [class_color(int(label)) for label in kept["box_label"]]
            report["mesh"] = str(write_boxes_ply(f"{stem}_boxes.ply", kept["corners"], colors))
        return report, {"found": kept}


def best_class(found: dict[str, Any], min_score: float = 0.3) -> dict[str, Any]:
    """Keep each box once, under its best class, if its score is high enough.

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
    return {k: found[k][kept] for k in ("boxes", "box_label", "scores", "corners") if k in found}


def with_options(kind: type, options: dict[str, Any], **given: Any) -> Any:
    """Build `kind`; a misspelt option is a ValueError with the nearest name."""
    check_arguments(kind, options)
    return kind(**options, **given)


@method(
    task.NETWORKS,
    "detection3d",
    params="tokenizer, task tokens, 3DETR's decoder",
    parity=("epcl_dense",),
    **task.EPCL,
)
def detection3d(encoder: Encoder, num_classes: int, backbone: dict | None = None, **options: Any) -> Detector:
    """3DETR's decoder on EPCL tokens; options are those of `Detector`, `backbone` those of `EPCLBackbone`."""
    tokens = with_options(EPCLBackbone, {"num_task_tokens": num_classes + 1, **(backbone or {})}, encoder=encoder)
    return with_options(Detector, options, backbone=tokens, num_classes=num_classes)


@method(
    task.NETWORKS,
    "detr3d",
    slot="encoder+head",
    paper="3DETR: An End-to-End Transformer Model for 3D Object Detection, arXiv 2109.08141",
    params="all",
    parity=("detr3d",),
    families=("none",),
)
def detr3d(encoder: None, num_classes: int, backbone: dict | None = None, **options: Any) -> Detector:
    """3DETR as published; options are those of `Detector`, `backbone` those of `DETREncoder`."""
    points = with_options(DETREncoder, backbone or {})
    hidden = 1 if points.interim is not None else 2
    options["decoder"] = {"hidden_projections": hidden, **(options.get("decoder") or {})}
    return with_options(Detector, options, backbone=points, num_classes=num_classes)
