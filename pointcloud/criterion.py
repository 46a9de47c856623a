"""The set loss of 3DETR: match, then class, angle, center, size and overlap losses, for every decoder layer."""

import math
from collections.abc import Sequence

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from pointcloud.matcher import Matcher, Targets, assign, inside, pairwise_giou

WEIGHTS = {"sem_cls": 1.0, "angle_cls": 0.1, "angle_reg": 0.5, "center": 5.0, "size": 1.0, "giou": 1.0}


def mean_over_processes(value: Tensor) -> Tensor:
    """Average numbers over all processes."""
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(value)
        value = value / dist.get_world_size()
    return value


def with_a_row(targets: Targets) -> Targets:
    """Give scenes without any true box a row of padding, so that there is something to look up."""
    if targets["boxes"].shape[1]:
        return targets
    return {k: F.pad(v, (0, 0) * (v.ndim - 2) + (0, 1)) for k, v in targets.items()}


def pick(values: Tensor, assigned: Tensor) -> Tensor:
    """Values (B, N, ...) of each query's true box (B, Q, ...); those of box 0 where there is none."""
    index = assigned.clamp(min=0)
    index = index.view(*index.shape, *[1] * (values.ndim - 2)).expand(*index.shape, *values.shape[2:])
    return values.gather(1, index)


def angle_bins(angle: Tensor, bins: int) -> tuple[Tensor, Tensor]:
    """Bins (...) of angles in radians and the residuals to their centers, as VoteNet counts them.

    Bin i of A is centered on i * 2 pi / A. One bin: 0, residual 0.
    """
    if bins == 1:
        return torch.zeros_like(angle, dtype=torch.int64), torch.zeros_like(angle)
    width = 2 * math.pi / bins
    shifted = (angle % (2 * math.pi) + width / 2) % (2 * math.pi)
    index = (shifted / width).long().clamp(max=bins - 1)
    return index, shifted - (index * width + width / 2)


class Criterion(nn.Module):
    """Loss of a list of decoder outputs.

    Targets are a dict of padded tensors: `boxes` (B, N, 7), `box_label` (B, N), `box_mask` (B, N) with the true boxes
    in the first rows; `angle_class`, `angle_residual` (B, N); `center_normalized`, `size_normalized` (B, N, 3) as
    shares of the scene. `targets_of` makes it from boxes and labels.

    Args:
        num_classes: C; the background is class C.
        num_angle_bins: A.
        matcher: a `Matcher`, or its arguments.
        no_object_weight: weight of the background in the class loss.
        weights: of the terms, keys of `WEIGHTS`; what is left out keeps its default.
        giou_rule: `exact` or `released`, see `matcher.pairwise_giou`.
        inside: instead of one query for each true box, every query that stands in one answers for it, the box grown by
            this many meters; duplicates are left to the suppression. For queries placed by votes and short schedules.

    Raises:
        ValueError: an unknown term.
    """

    class_weight: Tensor

    def __init__(
        self,
        num_classes: int,
        num_angle_bins: int = 1,
        matcher: Matcher | dict | None = None,
        no_object_weight: float = 0.25,
        weights: dict[str, float] | None = None,
        giou_rule: str = "exact",
        inside: float | None = None,
    ):
        super().__init__()
        self.inside = inside
        unknown = set(weights or {}) - set(WEIGHTS)
        if unknown:
            raise ValueError(f"no loss term is called {sorted(unknown)}; there are {sorted(WEIGHTS)}")
        self.num_classes, self.num_angle_bins, self.giou_rule = num_classes, num_angle_bins, giou_rule
        self.matcher = Matcher(**matcher) if isinstance(matcher, dict) else matcher or Matcher()
        self.weights = {**WEIGHTS, **(weights or {})}
        class_weight = torch.ones(num_classes + 1)
        class_weight[-1] = no_object_weight
        self.register_buffer("class_weight", class_weight, persistent=False)

    def targets_of(self, boxes: Tensor, box_label: Tensor, box_mask: Tensor, low: Tensor, high: Tensor) -> Targets:
        """Targets of boxes (B, N, 7), labels (B, N), mask (B, N) in scenes from low to high (B, 3)."""
        extent = (high - low).clamp(min=1e-6)[:, None]
        angle_class, angle_residual = angle_bins(boxes[..., 6], self.num_angle_bins)
        return {
            "boxes": boxes,
            "box_label": box_label,
            "box_mask": box_mask,
            "angle_class": angle_class,
            "angle_residual": angle_residual,
            "center_normalized": (boxes[..., :3] - low[:, None]) / extent,
            "size_normalized": boxes[..., 3:6] / extent,
        }

    def forward(self, layers: list[dict[str, Tensor]], targets: Targets) -> tuple[Tensor, dict[str, Tensor]]:
        """Total loss of all layers, and every weighted term: `loss_<term>` of the last, `loss_<term>_<i>` of others.

        `loss_cardinality` (how far the number of found objects is off) is reported and not part of the total.
        """
        targets = with_a_row(targets)
        true = [self.targets_for(layer, targets) for layer in layers]
        counts = mean_over_processes(torch.stack([each["box_mask"].sum().float() for each in true])).clamp(min=1)
        pairs = self.match_all(layers, true)
        total = layers[-1]["logits"].new_zeros(())
        terms: dict[str, Tensor] = {}
        order = [len(layers) - 1, *range(len(layers) - 1)]
        for i in order:
            found = self.layer(layers[i], true[i], counts[i], *pairs[i])
            total = total + sum(v for k, v in found.items() if k != "loss_cardinality")
            terms |= found if i == len(layers) - 1 else {f"{k}_{i}": v for k, v in found.items()}
        return total, terms

    def targets_for(self, predicted: dict[str, Tensor], targets: Targets) -> Targets:
        """Return the true boxes as a layer is taught them."""
        return targets

    def match(self, predicted: dict[str, Tensor], targets: Targets) -> tuple[Tensor, Tensor]:
        """Generalized IoU (B, Q, N) and the index of each query's true box (B, Q), -1 for none."""
        return self.match_all([predicted], [targets])[0]

    def match_all(self, layers: Sequence[dict[str, Tensor]], targets: Sequence[Targets]) -> list[tuple[Tensor, Tensor]]:
        """Match every layer with its targets, as `match` does one; the host waits once for all of them."""
        giou = [pairwise_giou(p["boxes"], true, self.giou_rule) for p, true in zip(layers, targets, strict=True)]
        if self.inside is not None:
            found = [inside(p["query"], true, self.inside) for p, true in zip(layers, targets, strict=True)]
        else:
            costs = [self.cost(*each) for each in zip(layers, targets, [g.detach() for g in giou], strict=True)]
            found = assign(costs, [true["box_mask"] for true in targets])
        return list(zip(giou, found, strict=True))

    def cost(self, predicted: dict[str, Tensor], targets: Targets, giou: Tensor) -> Tensor:
        """Return the matching cost of each query with each true box (B, Q, N)."""
        return self.matcher.cost(predicted, targets, giou)

    def layer(
        self, predicted: dict[str, Tensor], targets: Targets, count: Tensor, giou: Tensor, assigned: Tensor
    ) -> dict[str, Tensor]:
        """The weighted terms of one layer; sums over matched boxes are divided by `count`."""
        matched = (assigned >= 0).float()  # (B, Q)
        if self.inside is not None:
            count = mean_over_processes(matched.sum()).clamp(min=1)
        center, size = (gap.abs().sum(-1) * matched for gap in self.gaps(predicted, targets, assigned))
        logits = predicted["logits"]
        terms = {
            "sem_cls": self.class_loss(logits, pick(targets["box_label"], assigned), matched, count),
            **self.angle_terms(predicted, targets, assigned, matched, count),
            "center": center.sum() / count,
            "size": size.sum() / count,
            "giou": ((1 - giou.gather(2, assigned.clamp(min=0)[..., None])[..., 0]) * matched).sum() / count,
        }
        found = {f"loss_{k}": self.weights[k] * v for k, v in terms.items()}
        objects = (logits.argmax(-1) != logits.shape[-1] - 1).sum(1)
        off = (objects - targets["box_mask"].sum(1)).abs().float().mean()
        return {**found, "loss_cardinality": off.detach()}

    def class_loss(self, logits: Tensor, label: Tensor, matched: Tensor, count: Tensor) -> Tensor:
        """Return the loss of the classes of queries with the true box's class each (B, Q), where one is matched."""
        label = torch.where(matched.bool(), label, self.num_classes)
        return F.cross_entropy(logits.transpose(1, 2), label, self.class_weight)

    def gaps(self, predicted: dict[str, Tensor], targets: Targets, assigned: Tensor) -> tuple[Tensor, Tensor]:
        """Return how far centers and sizes (B, Q, 3) are off those of the true boxes."""
        keys = "center_normalized", "size_normalized"
        center, size = (predicted[key] - pick(targets[key], assigned) for key in keys)
        return center, size

    def angle_terms(
        self, predicted: dict[str, Tensor], targets: Targets, assigned: Tensor, matched: Tensor, count: Tensor
    ) -> dict[str, Tensor]:
        """Cross-entropy of the bin, Huber loss of the residual in half bins."""
        label = pick(targets["angle_class"], assigned)
        bin_loss = F.cross_entropy(predicted["angle_logits"].transpose(1, 2), label, reduction="none")
        wanted = pick(targets["angle_residual"], assigned) * (self.num_angle_bins / math.pi)
        got = predicted["angle_raw"].gather(2, label[..., None])[..., 0]
        residual_loss = F.huber_loss(got, wanted, reduction="none", delta=1.0)
        return {
            "angle_cls": (bin_loss * matched).sum() / count,
            "angle_reg": (residual_loss * matched).sum() / count,
        }
