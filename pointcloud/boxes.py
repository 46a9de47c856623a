"""Upright boxes: (..., 7) = center x, y, z, full sizes along the box's own x, y, z, yaw.

z points up. Yaw is in radians and turns CLOCKWISE seen from above, as in VoteNet, 3DETR and SUN RGB-D. Volumes and
overlaps are exact for any yaw, computed in float64 and differentiable.
"""

import torch
from torch import Tensor

# Overlaps of edges closer than this (meters) count as coinciding.
SLACK = 1e-9


def check_boxes(*boxes: Tensor) -> None:
    """Refuse tensors that are not boxes (..., 7).

    Raises:
        ValueError: the last axis is not 7.
    """
    for b in boxes:
        if b.shape[-1] != 7:
            raise ValueError(f"boxes are (..., 7) = center, size, yaw; got shape {tuple(b.shape)}")


def signs(boxes: Tensor) -> Tensor:
    """Return the signs (3, 8) of a box's corners along its own axes, in the type of `boxes` and on their device.

    Corners 0 to 3 are the lower face, 4 to 7 the upper one, in 3DETR's order: x = + + - -, y = + - - + on each face.
    They are computed where they are used: a copy from the host would make a GPU wait.
    """
    corner = torch.arange(8, device=boxes.device)
    x, y = 1 - 2 * (corner // 2 % 2), 1 - 2 * ((corner + 1) // 2 % 2)
    return torch.stack([x, y, 2 * (corner // 4) - 1]).to(boxes.dtype)


def corners(boxes: Tensor) -> Tensor:
    """Corners (..., 8, 3) of boxes (..., 7), lower face first."""
    check_boxes(boxes)
    x, y, z = (boxes[..., 3:6, None] / 2 * signs(boxes)).unbind(-2)  # (..., 8) each
    cos, sin = boxes[..., 6:7].cos(), boxes[..., 6:7].sin()
    turned = torch.stack([cos * x + sin * y, cos * y - sin * x, z], dim=-1)  # (..., 8, 3)
    return turned + boxes[..., None, :3]


def into_axes(offset: Tensor, yaw: Tensor) -> Tensor:
    """Turn offsets (..., 3) into the axes of boxes with yaw (...)."""
    cos, sin = yaw.cos(), yaw.sin()
    x, y, z = offset.unbind(-1)
    return torch.stack([cos * x - sin * y, sin * x + cos * y, z], dim=-1)


def volume(boxes: Tensor) -> Tensor:
    """Volumes (...) of boxes (..., 7)."""
    check_boxes(boxes)
    return boxes[..., 3:6].prod(-1)


def hull(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Lowest and highest corner (..., 3) of the axis-aligned box around each box."""
    points = corners(boxes)
    return points.amin(-2), points.amax(-2)


def contains(boxes: Tensor, points: Tensor, slack: float = 0.0) -> Tensor:
    """Return whether points (P, 3) lie in boxes (K, 7), surface included, as (K, P)."""
    own = into_axes(points[None] - boxes[:, None, :3], boxes[:, 6:7])  # (K, P, 3)
    return (own.abs() <= boxes[:, None, 3:6] / 2 + slack).all(-1)


def footprint_in(boxes: Tensor, frame: Tensor) -> Tensor:
    """Footprint corners (..., 4, 2), counter-clockwise, of boxes in the own axes of `frame`; both (..., 7)."""
    y, x = signs(boxes)[:2, :4]  # the other way around than `corners`
    half_x, half_y = boxes[..., 3:4] / 2 * x, boxes[..., 4:5] / 2 * y  # (..., 4)
    turn = (boxes[..., 6] - frame[..., 6])[..., None]
    offset = boxes[..., :2] - frame[..., :2]
    cos, sin = frame[..., 6].cos(), frame[..., 6].sin()
    own_x = cos * offset[..., 0] - sin * offset[..., 1]
    own_y = sin * offset[..., 0] + cos * offset[..., 1]
    return torch.stack(
        [
            own_x[..., None] + turn.cos() * half_x + turn.sin() * half_y,
            own_y[..., None] + turn.cos() * half_y - turn.sin() * half_x,
        ],
        dim=-1,
    )


def clip_edges(polygon: Tensor, half: Tensor, slack: float) -> tuple[Tensor, Tensor]:
    """Clip edges to a rectangle around the origin.

    Args:
        polygon: (..., 4, 2).
        half: half sizes of the rectangle (..., 2).
        slack: the rectangle is grown (or, negative, shrunk) by this.

    Returns:
        Start and end of that part in 0..1 along each edge, (..., 4); start = end where there is none.
    """
    step = polygon.roll(-1, dims=-2) - polygon  # (..., 4, 2)
    bound = half[..., None, :] + slack
    flat = step.abs() < 1e-15
    safe = torch.where(flat, torch.ones_like(step), step)
    one, two = (-bound - polygon) / safe, (bound - polygon) / safe
    enter = torch.where(flat, torch.zeros_like(one), torch.minimum(one, two)).amax(-1).clamp(min=0)
    leave = torch.where(flat, torch.ones_like(one), torch.maximum(one, two)).amin(-1).clamp(max=1)
    missed = (flat & (polygon.abs() > bound)).any(-1) | (leave <= enter)
    return enter, torch.where(missed, enter, leave)


def swept_area(polygon: Tensor, enter: Tensor, leave: Tensor) -> Tensor:
    """Area (...) that the parts enter..leave of a polygon's edges sweep, seen from the origin."""
    step = polygon.roll(-1, dims=-2) - polygon
    a = polygon + enter[..., None] * step
    b = polygon + leave[..., None] * step
    return (a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]).sum(-1) / 2


def footprint_overlap(a: Tensor, b: Tensor) -> Tensor:
    """Area (...) common to the footprints of boxes a and b (..., 7), float64.

    The border of the common region is what of a's edges lies in b and what of b's edges lies in a; its area follows
    from Green's theorem. Coinciding edges belong to a, so that they count once.
    """
    a, b = torch.broadcast_tensors(a, b)
    a_in_b = footprint_in(a, b)
    area = swept_area(a_in_b, *clip_edges(a_in_b, b[..., 3:5] / 2, SLACK))
    return (area + swept_area(footprint_in(b, b), *clip_edges(footprint_in(b, a), a[..., 3:5] / 2, -SLACK))).clamp(
        min=0
    )


def height_overlap(a: Tensor, b: Tensor) -> Tensor:
    """Common height (...) of boxes (..., 7)."""
    top = torch.minimum(a[..., 2] + a[..., 5] / 2, b[..., 2] + b[..., 5] / 2)
    bottom = torch.maximum(a[..., 2] - a[..., 5] / 2, b[..., 2] - b[..., 5] / 2)
    return (top - bottom).clamp(min=0)


def pairs(boxes1: Tensor, boxes2: Tensor) -> tuple[Tensor, Tensor]:
    """Boxes (..., N, 7) and (..., M, 7) as float64 (..., N, 1, 7) and (..., 1, M, 7)."""
    check_boxes(boxes1, boxes2)
    return boxes1.double()[..., :, None, :], boxes2.double()[..., None, :, :]


def intersection(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Common volumes (..., N, M) of boxes (..., N, 7) and (..., M, 7)."""
    a, b = pairs(boxes1, boxes2)
    return (footprint_overlap(a, b) * height_overlap(a, b)).to(boxes1.dtype)


def iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Intersection over union (..., N, M) of upright boxes, exact for any yaw and for coinciding boxes.

    Args:
        boxes1: (..., N, 7).
        boxes2: (..., M, 7).

    Returns:
        (..., N, M) in the type of `boxes1`; 0 where both boxes are empty.
    """
    a, b = pairs(boxes1, boxes2)
    common = footprint_overlap(a, b) * height_overlap(a, b)
    union = volume(a) + volume(b) - common
    return (common / union.clamp(min=1e-12)).to(boxes1.dtype)


def giou(boxes1: Tensor, boxes2: Tensor, oriented: bool = True, pretest: bool = False) -> Tensor:
    """Generalized IoU (..., N, M): IoU minus the share of the enclosing box that neither covers.

    Paper: arXiv 1902.09630; the enclosing box is axis-aligned, as in 3DETR (arXiv 2109.08141).

    Args:
        boxes1: (..., N, 7).
        boxes2: (..., M, 7).
        oriented: False measures footprints between corners 2 and 0 and so ignores what yaw does beyond moving them, as
            3DETR does on data without yaw.
        pretest: with `oriented`, boxes whose footprints do not overlap between corners 2 and 0 have no common volume,
            as in 3DETR on data with yaw; a square that is turned by more than 45 degrees then overlaps nothing.

    Returns:
        (..., N, M) in the type of `boxes1`, 0 for malformed boxes.
    """
    a, b = pairs(boxes1, boxes2)
    area = footprint_overlap(a, b) if oriented else diagonal_overlap(a, b)
    if oriented and pretest:
        area = torch.where(diagonal_overlap(a, b) > 0, area, torch.zeros_like(area))
    common = area * height_overlap(a, b)
    total = volume(a).clamp(min=1e-8) + volume(b).clamp(min=1e-8)
    union = (total - common).clamp(min=1e-8)
    (low_a, high_a), (low_b, high_b) = hull(a), hull(b)
    around = (torch.maximum(high_a, high_b) - torch.minimum(low_a, low_b)).clamp(min=0).prod(-1)
    good = (around > 2e-8) & (total > 4e-8)
    value = common / union - (1 - union / around.clamp(min=1e-12))
    return torch.where(good, value, torch.zeros_like(value)).to(boxes1.dtype)


def diagonal_overlap(a: Tensor, b: Tensor) -> Tensor:
    """Common area of the rectangles spanned by corners 2 (lowest) and 0 (highest) of each footprint."""
    points_a, points_b = corners(a), corners(b)
    high = torch.minimum(points_a[..., 0, :2], points_b[..., 0, :2])
    low = torch.maximum(points_a[..., 2, :2], points_b[..., 2, :2])
    return (high - low).clamp(min=0).prod(-1)


def hull_iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """IoU (N, M) of the axis-aligned hulls of boxes (N, 7) and (M, 7)."""
    low1, high1 = (x[:, None] for x in hull(boxes1))
    low2, high2 = (x[None] for x in hull(boxes2))
    common = (torch.minimum(high1, high2) - torch.maximum(low1, low2)).clamp(min=0).prod(-1)
    total = (high1 - low1).prod(-1) + (high2 - low2).prod(-1)
    return common / (total - common).clamp(min=1e-12)


def nms(
    boxes: Tensor, scores: Tensor, threshold: float, labels: Tensor | None = None, oriented: bool = False
) -> Tensor:
    """Keep the best of overlapping boxes.

    Args:
        boxes: (N, 7).
        scores: (N,); among equal ones the later box comes first, as in 3DETR.
        threshold: a box goes when its IoU with a kept one is above this.
        labels: (N,); only boxes of one label compete. None: all do.
        oriented: exact IoU; default that of the axis-aligned hulls, as in VoteNet and 3DETR.

    Returns:
        Indices of the kept boxes, best first.
    """
    check_boxes(boxes)
    overlap = (iou if oriented else hull_iou)(boxes, boxes) > threshold
    if labels is not None:
        overlap &= labels[:, None] == labels[None]
    order = scores.argsort(stable=True).flip(0).tolist()
    overlap, gone, kept = overlap.cpu(), torch.zeros(len(boxes), dtype=torch.bool), []
    for i in order:
        if not gone[i]:
            kept.append(i)
            gone |= overlap[i]
    return torch.tensor(kept, dtype=torch.int64, device=boxes.device)
