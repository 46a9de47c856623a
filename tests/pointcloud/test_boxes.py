"""Upright boxes against an independent polygon clip."""

import math

import pytest
import torch

from pointcloud import boxes


def random_boxes(count, seed=0, spread=1.0, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    center = torch.randn(count, 3, generator=g, dtype=dtype) * spread
    size = torch.rand(count, 3, generator=g, dtype=dtype) * 1.5 + 0.2
    yaw = (torch.rand(count, 1, generator=g, dtype=dtype) - 0.5) * 4 * math.pi
    return torch.cat([center, size, yaw], dim=1)


def clip(subject, window):
    """Sutherland-Hodgman on lists of points, window counter-clockwise."""
    for (ax, ay), (bx, by) in zip(window, window[1:] + window[:1], strict=True):
        side = lambda p: (bx - ax) * (p[1] - ay) - (by - ay) * (p[0] - ax)  # noqa: B023, E731
        out = []
        for p, q in zip(subject, subject[1:] + subject[:1], strict=True):
            sp, sq = side(p), side(q)
            if sp >= 0:
                out.append(p)
            if sp * sq < 0:
                t = sp / (sp - sq)
                out.append((p[0] + t * (q[0] - p[0]), p[1] + t * (q[1] - p[1])))
        subject = out
        if not subject:
            return 0.0
    return abs(sum(p[0] * q[1] - p[1] * q[0] for p, q in zip(subject, subject[1:] + subject[:1], strict=True))) / 2


def slow_iou(a, b):
    rings = [[tuple(p) for p in boxes.corners(x)[:4, :2].tolist()][::-1] for x in (a, b)]
    area = clip(*rings)
    top = min(a[2] + a[5] / 2, b[2] + b[5] / 2)
    bottom = max(a[2] - a[5] / 2, b[2] - b[5] / 2)
    common = area * max(float(top - bottom), 0.0)
    return common / float(boxes.volume(a) + boxes.volume(b) - common)


def test_iou_agrees_with_a_polygon_clip():
    one, two = random_boxes(24, spread=0.5), random_boxes(13, seed=1, spread=0.5)
    slow = torch.tensor([[slow_iou(a, b) for b in two] for a in one], dtype=torch.float64)
    assert (slow > 0.02).sum() > 10
    assert torch.allclose(boxes.iou(one, two), slow, atol=1e-8)
    assert torch.allclose(boxes.iou(one.float(), two.float()), slow.float(), atol=1e-5)


@pytest.mark.parametrize("far", [0.0, 1e3])
def test_coinciding_boxes_have_iou_one(far):
    same = random_boxes(200, seed=2)
    same[:, :2] += far
    assert torch.allclose(boxes.iou(same[:, None], same[:, None]).flatten(), torch.ones(200).double(), atol=1e-9)
    turned = same.clone()
    turned[:, 6] += math.pi
    assert torch.allclose(boxes.iou(same[:, None], turned[:, None]).flatten(), torch.ones(200).double(), atol=1e-6)
    noisy = same + 1e-9 * torch.randn(200, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.allclose(boxes.iou(same[:, None], noisy[:, None]).flatten(), torch.ones(200).double(), atol=1e-6)


def test_shared_faces():
    cube = torch.tensor([[0.0, 0, 0, 1, 1, 1, 0.3]])
    side = torch.tensor([math.cos(0.3), -math.sin(0.3)])
    for shift, want in ((0.0, 1.0), (0.5, 1 / 3), (1.0, 0.0)):
        moved = cube.clone()
        moved[0, :2] = shift * side
        assert boxes.iou(cube, moved).item() == pytest.approx(want, abs=1e-6)
    inside = cube.clone()
    inside[0, 3] = 0.5
    inside[0, :2] = 0.25 * side  # one face lies on the cube's
    assert boxes.iou(cube, inside).item() == pytest.approx(0.5, abs=1e-6)


def test_yaw_turns_clockwise_from_above():
    box = torch.tensor([0.0, 0, 0, 2, 0.2, 1, math.pi / 4])
    tip = torch.tensor([[0.6, -0.6, 0.0], [0.6, 0.6, 0.0]])
    assert boxes.contains(box[None], tip).tolist() == [[True, False]]


def test_corners_lie_where_the_axes_of_the_box_say():
    some = random_boxes(9)
    points = boxes.corners(some)
    own = boxes.into_axes(points - some[:, None, :3], some[:, 6:7])
    assert torch.allclose(own.abs(), some[:, None, 3:6].expand(-1, 8, -1) / 2)
    assert (points[:, :4, 2] < points[:, 4:, 2]).all()


def test_giou_is_iou_less_the_empty_share():
    one, two = random_boxes(6), random_boxes(5, seed=3)
    value = boxes.giou(one, two)
    assert (value <= boxes.iou(one, two) + 1e-12).all()
    assert (value > -1).all()
    flat = one.clone()
    flat[:, 6] = 0
    assert torch.allclose(boxes.giou(flat, flat), boxes.giou(flat, flat, oriented=False))
    empty = torch.zeros(1, 7)
    assert boxes.giou(empty, empty).item() == 0


@pytest.mark.parametrize("function", [boxes.iou, boxes.giou, boxes.intersection])
def test_gradcheck(function):
    one, two = random_boxes(3).requires_grad_(), random_boxes(2, seed=1, spread=0.3).requires_grad_()
    assert torch.autograd.gradcheck(function, (one, two))
    same = random_boxes(2)
    assert torch.autograd.grad(function(same.requires_grad_(), random_boxes(2)).sum(), same)[0].isfinite().all()


def test_batches_and_cardinality():
    one, two = random_boxes(6).view(2, 3, 7), random_boxes(8).view(2, 4, 7)
    assert boxes.iou(one, two).shape == (2, 3, 4)
    assert torch.equal(boxes.iou(one, two)[1], boxes.iou(one[1], two[1]))
    assert boxes.iou(one[0], two[0, :0]).shape == (3, 0)


def test_compiles():
    one, two = random_boxes(3), random_boxes(2)
    assert torch.compile(boxes.iou, backend="eager", fullgraph=True)(one, two).equal(boxes.iou(one, two))


def test_exception():
    with pytest.raises(ValueError, match="center, size, yaw"):
        boxes.iou(torch.zeros(2, 6), torch.zeros(2, 7))


def test_nms():
    some = torch.tensor([[0.0, 0, 0, 1, 1, 1, 0], [0.1, 0, 0, 1, 1, 1, 0], [5, 0, 0, 1, 1, 1, 0]])
    scores = torch.tensor([0.5, 0.9, 0.1])
    assert boxes.nms(some, scores, 0.25).tolist() == [1, 2]
    assert boxes.nms(some, scores, 0.25, labels=torch.tensor([0, 1, 0])).tolist() == [1, 0, 2]
    assert boxes.nms(some[:0], scores[:0], 0.25).tolist() == []
    thin = torch.tensor([[0.0, 0, 0, 4, 0.1, 1, 0.8], [0.0, 1.0, 0, 4, 0.1, 1, 0.8]])
    assert boxes.nms(thin, scores[:2], 0.25).tolist() == [1]  # their hulls overlap
    assert boxes.nms(thin, scores[:2], 0.25, oriented=True).tolist() == [1, 0]  # they do not


def test_corners_by_hand():
    """3DETR's order: around the lower face from (+x, +y), then the upper one; a quarter turn takes x to -y."""
    box = torch.tensor([10.0, 20, 30, 2, 4, 6, 0])
    lower = [[11, 22, 27], [11, 18, 27], [9, 18, 27], [9, 22, 27]]
    assert boxes.corners(box).tolist() == lower + [[x, y, 33] for x, y, _ in lower]
    box[6] = math.pi / 2
    turned = [[12, 19, 27], [8, 19, 27], [8, 21, 27], [12, 21, 27]]
    assert torch.allclose(boxes.corners(box)[:4], torch.tensor(turned).float(), atol=1e-5)
    low, high = boxes.hull(box)
    assert torch.allclose(low, torch.tensor([8.0, 19, 27]), atol=1e-5)
    assert torch.allclose(high, torch.tensor([12.0, 21, 33]), atol=1e-5)
    assert boxes.volume(box).item() == 48


def test_hull_of_a_turned_box():
    low, high = boxes.hull(torch.tensor([0.0, 0, 0, 2, 1, 1, math.pi / 6]))
    half = [math.cos(math.pi / 6) + 0.25, 0.5 + math.cos(math.pi / 6) / 2, 0.5]
    assert torch.allclose(high, torch.tensor(half), atol=1e-6)
    assert torch.allclose(low, -torch.tensor(half), atol=1e-6)


def test_surface_and_slack_count_as_inside():
    box = torch.tensor([[1.0, 0, 0, 2, 2, 2, 0]])
    points = torch.tensor([[2.0, 1, 1], [2.125, 0, 0], [2.25, 0, 0], [0, 0, -1], [1, 0, 1.0625]])
    assert boxes.contains(box, points).tolist() == [[True, False, False, True, False]]
    assert boxes.contains(box, points, slack=0.125).tolist() == [[True, True, False, True, True]]


@pytest.mark.parametrize("oriented", [False, True])
def test_giou_by_hand(oriented):
    cube = torch.tensor([[0.0, 0, 0, 1, 1, 1, 0]])
    others = torch.tensor(
        [[2.0, 0, 0, 1, 1, 1, 0], [0.5, 0.5, 0, 1, 1, 1, 0], [0, 0, 0, 2, 2, 2, 0], [0, 0.25, 3, 1, 1, 1, 0]]
    )
    # 0 of 2 in a hull of 3; 1/4 of 7/4 in 9/4; 1 of 8 in 8; 0 of 2 in 5
    want = [-1 / 3, 1 / 7 - 2 / 9, 1 / 8, -3 / 5]
    assert boxes.giou(cube, others, oriented)[0].tolist() == pytest.approx(want)


def test_giou_encloses_along_the_axes():
    """A square turned by an eighth: its hull has twice its area, so that the half of the hull stays empty."""
    turned = torch.tensor([[0.0, 0, 0, 1, 1, 1, math.pi / 4]])
    assert boxes.giou(turned, turned).item() == pytest.approx(1 - 0.5)
    # 3DETR's shortcut takes corner 2 for the lowest and corner 0 for the highest: on one axis they then coincide
    assert boxes.giou(turned, turned, oriented=False).item() == pytest.approx(0 / 2 - (1 - 2 / 2), abs=1e-5)


def test_hull_iou_by_hand():
    one = torch.tensor([[0.0, 0, 0, 2, 2, 2, 0]])
    two = torch.tensor([[1.0, 0, 0, 2, 2, 2, 0], [0, 0, 0, 1, 1, 1, 0], [5, 0, 0, 1, 1, 1, 0]])
    assert boxes.hull_iou(one, two)[0].tolist() == pytest.approx([4 / 12, 1 / 8, 0])


def test_nms_takes_the_later_of_equal_scores():
    """As numpy's ascending sort read from its end, which VoteNet and 3DETR do."""
    same = torch.tensor([[0.0, 0, 0, 1, 1, 1, 0]]).repeat(3, 1)
    assert boxes.nms(same, torch.tensor([0.5, 0.5, 0.5]), 0.25).tolist() == [2]
    assert boxes.nms(same, torch.tensor([0.5, 0.7, 0.5]), 0.25).tolist() == [1]
    apart = same + torch.arange(3)[:, None] * torch.tensor([5.0, 0, 0, 0, 0, 0, 0])
    assert boxes.nms(apart, torch.tensor([0.5, 0.5, 0.5]), 0.25).tolist() == [2, 1, 0]
    assert boxes.nms(apart, torch.tensor([0.1, 0.9, 0.5]), 0.25).tolist() == [1, 2, 0]


def test_nms_threshold_is_strict_and_what_is_gone_suppresses_nothing():
    row = torch.tensor([[0.0, 0, 0, 3, 1, 1, 0], [1, 0, 0, 3, 1, 1, 0], [2, 0, 0, 3, 1, 1, 0]])  # IoU 1/2, 1/5
    scores = torch.tensor([0.9, 0.8, 0.7])
    assert boxes.nms(row, scores, 0.5).tolist() == [0, 1, 2]
    assert boxes.nms(row, scores, 0.49).tolist() == [0, 2]
    assert boxes.nms(row, scores, 0.19).tolist() == [0]


def test_the_released_rule_overlaps_nothing_with_a_square_turned_by_more_than_45_degrees():
    still, turned = torch.tensor([[0.0, 0, 0, 2, 2, 1, 0]]), torch.tensor([[0.0, 0, 0, 2, 2, 1, 1.0]])
    exact = boxes.giou(still, turned).item()
    half = math.cos(1.0) + math.sin(1.0)  # of the turned square's hull
    assert boxes.giou(still, turned, pretest=True).item() == pytest.approx(8 / (4 * half**2) - 1)
    assert exact > 0.3
    slightly = torch.tensor([[0.0, 0, 0, 2, 2, 1, 0.5]])
    assert boxes.giou(still, slightly, pretest=True).item() == pytest.approx(boxes.giou(still, slightly).item())
