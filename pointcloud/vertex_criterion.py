"""V-DETR's losses: focal classes, offsets in units of anchors, several queries for each true box.

Paper: V-DETR (arXiv 2308.04409).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from pointcloud import boxes as box_ops
from pointcloud.criterion import Criterion, mean_over_processes, pick, with_a_row
from pointcloud.matcher import Targets

WEIGHTS = {"sem_cls": 3.0, "angle_cls": 0.1, "angle_reg": 0.5, "center": 1.0, "size": 0.5, "giou": 2.0}
COSTS = {"class": 3.0, "center": 1.0, "size": 0.5, "giou": 2.0}
ALPHA, NEAR = 0.25, 1e-5
Boxes = dict[str, Tensor]


def focal(logits: Tensor, target: Tensor) -> Tensor:
    """Sum of the focal loss (arXiv 1708.02002) with alpha 0.25 and gamma 2."""
    p = logits.sigmoid()
    missed = p * (1 - target) + (1 - p) * target
    alpha = ALPHA * target + (1 - ALPHA) * (1 - target)
    return (alpha * missed**2 * F.binary_cross_entropy_with_logits(logits, target, reduction="none")).sum()


def repeated(targets: Targets, times: int) -> Targets:
    """Return the true boxes `times` times: g1..gn, g1..gn, ..., with what is padding behind them."""
    if times <= 1:
        return targets
    mask = targets["box_mask"].bool()
    counts, width = mask.sum(1), mask.shape[1] * times
    place = torch.arange(width, device=mask.device).expand(len(mask), -1)
    order = torch.argsort(~mask, dim=1, stable=True)  # rows that are there first
    rows = order.gather(1, place % counts.clamp(min=1)[:, None])
    there = place < (counts * times)[:, None]
    return {k: pick(v, rows) if k != "box_mask" else there for k, v in targets.items()}


class VertexCriterion(Criterion):
    """Loss of what `VertexDecoder` gives: the proposals first, then all layers.

    Args:
        num_classes: C.
        num_angle_bins: A.
        weights: of the terms, keys of `WEIGHTS`; what is left out keeps its default.
        costs: of the matcher, keys of `COSTS`; what is left out keeps its default.
        giou_rule: see `matcher.pairwise_giou`.
        repeats: queries for each true box, in all stages but proposals that only tell objects from none.
        point_weight: of the class loss of the points; a point belongs to the smallest true box around it.

    Raises:
        ValueError: an unknown term or cost.
    """

    def __init__(
        self,
        num_classes: int,
        num_angle_bins: int = 1,
        weights: dict[str, float] | None = None,
        costs: dict[str, float] | None = None,
        giou_rule: str = "exact",
        repeats: int = 5,
        point_weight: float = 0.05,
    ):
        super().__init__(num_classes, num_angle_bins, None, weights={**WEIGHTS, **(weights or {})}, giou_rule=giou_rule)
        unknown = set(costs or {}) - set(COSTS)
        if unknown:
            raise ValueError(f"no cost is called {sorted(unknown)}; there are {sorted(COSTS)}")
        self.costs, self.repeats, self.point_weight = {**COSTS, **(costs or {})}, repeats, point_weight

    def forward(self, layers: list[Boxes], targets: Targets) -> tuple[Tensor, dict[str, Tensor]]:
        """See `Criterion.forward`; the class loss of the points is `loss_points`."""
        total, terms = super().forward(layers, targets)
        if self.point_weight:
            count = mean_over_processes(targets["box_mask"].sum().float()).clamp(min=1)
            label = self.point_labels(layers[0]["query"], targets)
            terms["loss_points"] = self.point_weight * focal(layers[0]["point_logits"], label) / count
            total = total + terms["loss_points"]
        return total, terms

    def targets_for(self, predicted: Boxes, targets: Targets) -> Targets:
        """Return the true boxes as a stage is taught them: repeated, or with one class."""
        if "point_logits" in predicted and predicted["logits"].shape[-1] == 1:  # proposals: object or none
            return {**targets, "box_label": torch.zeros_like(targets["box_label"])}
        return repeated(targets, self.repeats)

    @torch.no_grad()
    def cost(self, predicted: Boxes, targets: Targets, giou: Tensor) -> Tensor:
        """Return the matching cost of each query with each true box (B, Q, N)."""
        label = targets["box_label"][:, None].expand(-1, predicted["logits"].shape[1], -1)
        p = predicted["class_probs"].gather(2, label.clamp(min=0))  # (B, Q, N)
        found = -ALPHA * (1 - p) ** 2 * (p + 1e-8).log() + (1 - ALPHA) * p**2 * (1 - p + 1e-8).log()
        offset, size = self.wanted(predicted, targets["boxes"][:, None])
        cost = self.costs["class"] * found - self.costs["giou"] * giou
        cost = cost + self.costs["center"] * (predicted["center_offset"][:, :, None] - offset).abs().sum(-1)
        return cost + self.costs["size"] * (predicted["size_log"][:, :, None] - size).abs().sum(-1)

    @staticmethod
    def wanted(predicted: Boxes, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Return the true offsets and log sizes of boxes (B, Q, 7), or (B, 1, N, 7) for all pairs."""
        center, size = predicted["anchor_center"], predicted["anchor_size"] + NEAR
        if boxes.ndim == 4:
            center, size = center[:, :, None], size[:, :, None]
        return (boxes[..., :3] - center) / size, ((boxes[..., 3:6] + NEAR) / size).log()

    def gaps(self, predicted: Boxes, targets: Targets, assigned: Tensor) -> tuple[Tensor, Tensor]:
        """Return how far offsets and log sizes (B, Q, 3) are off those of the true boxes."""
        offset, size = self.wanted(predicted, pick(targets["boxes"], assigned))
        return predicted["center_offset"] - offset, predicted["size_log"] - size

    def class_loss(self, logits: Tensor, label: Tensor, matched: Tensor, count: Tensor) -> Tensor:
        """Return the focal loss of the classes, divided by `count`."""
        logits = logits.float()  # half precision where autocast is on
        classes = torch.zeros_like(logits).scatter(2, label[..., None].clamp(min=0), matched[..., None])
        return focal(logits, classes) / count

    @torch.no_grad()
    def point_labels(self, points: Tensor, targets: Targets) -> Tensor:
        """One-hot class (B, P, C) of the smallest true box around each point (B, P, 3), zeros for none."""
        found = points.new_zeros(*points.shape[:2], self.num_classes)
        true = with_a_row(targets)
        for b, (boxes, label) in enumerate(zip(true["boxes"], true["box_label"], strict=True)):
            held = box_ops.contains(boxes, points[b]) & true["box_mask"][b].bool()[:, None]  # (N, P)
            volume = box_ops.volume(boxes)[:, None].masked_fill(~held, float("inf"))
            best = label[volume.argmin(0)][:, None]
            found[b].scatter_(1, best, held.any(0)[:, None].to(found.dtype))
        return found
