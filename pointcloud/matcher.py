"""Match predicted boxes with true ones: the Hungarian assignment of DETR."""

from collections.abc import Sequence

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from pointcloud import boxes

Targets = dict[str, Tensor]


def pairwise_giou(predicted: Tensor, targets: Targets, rule: str) -> Tensor:
    """Generalized IoU (B, Q, N) of predicted boxes (B, Q, 7) with the true ones, 0 for rows that are padding.

    Args:
        predicted: (B, Q, 7).
        targets: see `Criterion`.
        rule: `exact`, or `released`: as 3DETR does, the overlap of turned footprints only when some true yaw of the
            batch is above 0, and then behind a test between two corners (`boxes.giou`).

    Raises:
        ValueError: an unknown rule.
    """
    if rule not in ("exact", "released"):
        raise ValueError(f"giou rule {rule!r}: choose exact or released")
    mask = targets["box_mask"].bool()
    oriented = rule == "exact" or bool((targets["boxes"][..., 6][mask] > 0).any())
    overlap = boxes.giou(predicted, targets["boxes"].to(predicted.dtype), oriented, pretest=rule == "released")
    return overlap * mask[:, None]


@torch.no_grad()
def assign(costs: Sequence[Tensor], masks: Sequence[Tensor]) -> list[Tensor]:
    """Solve the assignments of several layers, with one copy to the host for all of them.

    Args:
        costs: (B, Q, N) of each layer.
        masks: (B, N) of each layer, which true boxes are real.

    Returns:
        Index of the true box of each query (B, Q), -1 for none, of each layer.
    """
    flat = torch.cat([x.flatten().to(costs[0].dtype) for x in (*costs, *masks)]).nan_to_num(1e6).cpu()
    parts = [
        part.view(x.shape)
        for part, x in zip(flat.split([x.numel() for x in (*costs, *masks)]), (*costs, *masks), strict=True)
    ]
    found = [torch.full(cost.shape[:2], -1, dtype=torch.int64) for cost in costs]
    for assigned, table, mask in zip(found, parts, parts[len(costs) :], strict=False):
        for row, cost, there in zip(assigned, table, mask.bool(), strict=True):
            queries, columns = linear_sum_assignment(cost[:, there].numpy())
            row[queries] = there.nonzero()[:, 0][columns]
    sent = torch.cat([x.flatten() for x in found]).to(costs[0].device, non_blocking=True)
    return [part.view(x.shape) for part, x in zip(sent.split([x.numel() for x in found]), found, strict=True)]


class Matcher(nn.Module):
    """Match each true box with one prediction.

    Args:
        class_cost: weight of minus the probability of the true class.
        giou_cost: weight of minus the generalized IoU.
        center_cost: weight of the L1 distance of centers, as shares of the scene.
        objectness_cost: weight of minus the objectness.
    """

    def __init__(
        self,
        class_cost: float = 1.0,
        giou_cost: float = 2.0,
        center_cost: float = 0.0,
        objectness_cost: float = 0.0,
    ):
        super().__init__()
        self.class_cost, self.giou_cost = class_cost, giou_cost
        self.center_cost, self.objectness_cost = center_cost, objectness_cost

    def forward(self, predicted: dict[str, Tensor], targets: Targets, giou: Tensor) -> Tensor:
        """Index of the true box of each query (B, Q), -1 for none; see `cost`."""
        return assign([self.cost(predicted, targets, giou)], [targets["box_mask"]])[0]

    @torch.no_grad()
    def cost(self, predicted: dict[str, Tensor], targets: Targets, giou: Tensor) -> Tensor:
        """Add up the costs of every pair.

        Args:
            predicted: see `box_decoder.decode`.
            targets: see `Criterion`.
            giou: (B, Q, N).

        Returns:
            (B, Q, N).
        """
        label = targets["box_label"][:, None].expand(-1, predicted["boxes"].shape[1], -1)  # (B, Q, N)
        cost = -self.class_cost * predicted["class_probs"].gather(2, label.clamp(min=0))
        cost = cost - self.giou_cost * giou - self.objectness_cost * predicted["objectness"][..., None]
        if self.center_cost:
            apart = torch.cdist(predicted["center_normalized"], targets["center_normalized"], p=1)
            cost = cost + self.center_cost * apart
        return cost


@torch.no_grad()
def inside(query: Tensor, targets: Targets, slack: float) -> Tensor:
    """Index of the true box that each query (B, Q, 3) stands in, grown by `slack` meters; -1 for none: (B, Q)."""
    rows = []
    for points, true, mask in zip(query, targets["boxes"], targets["box_mask"].bool(), strict=True):
        held = boxes.contains(true, points, slack) & mask[:, None]  # (N, Q)
        first = held.int().argmax(0) if len(held) else held.new_zeros(held.shape[1], dtype=torch.int64)
        rows.append(first.masked_fill(~held.any(0), -1))
    return torch.stack(rows)
