"""The set loss against the formula written out box by box in float64."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pointcloud import criterion as module
from pointcloud.criterion import Criterion, angle_bins

BINS = 3


def case(seed=0, queries=5, classes=4):
    """Two scenes with 3 and 1 true boxes of no yaw, and what a decoder layer might say."""
    g = torch.Generator().manual_seed(seed)
    rand = lambda *shape: torch.rand(*shape, generator=g, dtype=torch.float64)  # noqa: E731
    boxes = torch.cat([rand(2, 3, 3), rand(2, 3, 3) + 0.5, torch.zeros(2, 3, 1, dtype=torch.float64)], dim=-1)
    targets = {
        "boxes": boxes,
        "box_label": torch.tensor([[0, 3, 1], [2, 0, 0]]),
        "box_mask": torch.tensor([[True, True, True], [True, False, False]]),
        "angle_class": torch.tensor([[0, 2, 1], [1, 0, 0]]),
        "angle_residual": (rand(2, 3) - 0.5) * 2 * math.pi / BINS,
        "center_normalized": rand(2, 3, 3),
        "size_normalized": rand(2, 3, 3),
    }

    def layer():
        logits = (rand(2, queries, classes + 1) - 0.5) * 4
        probs = logits.softmax(-1)
        found = torch.cat([rand(2, queries, 3), rand(2, queries, 3) + 0.5, 0 * rand(2, queries, 1)], dim=-1)
        return {
            "logits": logits,
            "class_probs": probs[..., :-1],
            "objectness": 1 - probs[..., -1],
            "boxes": found,
            "center_normalized": rand(2, queries, 3),
            "size_normalized": rand(2, queries, 3),
            "angle_logits": rand(2, queries, BINS) * 3,
            "angle_raw": (rand(2, queries, BINS) - 0.5) * 5,
        }

    return [layer(), layer()], targets


def overlap(a, b):
    """GIoU of two boxes along the axes."""
    (low_a, high_a), (low_b, high_b) = ((x[:3] - x[3:6] / 2, x[:3] + x[3:6] / 2) for x in (a, b))
    common = np.prod(np.clip(np.minimum(high_a, high_b) - np.maximum(low_a, low_b), 0, None))
    around = np.prod(np.maximum(high_a, high_b) - np.minimum(low_a, low_b))
    union = np.prod(a[3:6]) + np.prod(b[3:6]) - common
    return common / union - 1 + union / around


def log_softmax(x):
    return x - x.max() - np.log(np.exp(x - x.max()).sum())


def by_hand(layer, targets, assigned, background=0.25, count=4, classes=4):
    """The unweighted terms, the objects found, summed over matched queries and divided by the number of true boxes."""
    p, t = ({k: np.asarray(v) for k, v in d.items()} for d in (layer, targets))
    above = below = 0.0
    terms = dict.fromkeys(("angle_cls", "angle_reg", "center", "size", "giou"), 0.0)
    for b in range(2):
        for q, n in enumerate(assigned[b]):
            label = classes if n < 0 else t["box_label"][b, n]
            weight = background if n < 0 else 1.0
            above -= weight * log_softmax(p["logits"][b, q])[label]
            below += weight
            if n < 0:
                continue
            k = t["angle_class"][b, n]
            terms["angle_cls"] -= log_softmax(p["angle_logits"][b, q])[k] / count
            off = abs(p["angle_raw"][b, q, k] - t["angle_residual"][b, n] * BINS / math.pi)
            terms["angle_reg"] += (0.5 * off**2 if off <= 1 else off - 0.5) / count
            for key in ("center", "size"):
                gap = p[f"{key}_normalized"][b, q] - t[f"{key}_normalized"][b, n]
                terms[key] += np.abs(gap).sum() / count
            terms["giou"] += (1 - overlap(p["boxes"][b, q], t["boxes"][b, n])) / count
    found = (p["logits"].argmax(-1) != classes).sum(1)
    return {"sem_cls": above / below, **terms}, np.abs(found - [3, 1]).mean()


# of 3DETR; a query in four is background
RELEASED = {"sem_cls": 1.0, "angle_cls": 0.1, "angle_reg": 0.5, "center": 5.0, "size": 1.0, "giou": 1.0}


@pytest.mark.parametrize("weights", [{}, {"giou": 0.0, "size": 3.0, "sem_cls": 2.0}])
@pytest.mark.parametrize("background", [None, 0.1])
def test_every_term_of_every_layer(weights, background):
    layers, targets = case()
    options = {} if background is None else {"no_object_weight": background}
    loss = Criterion(4, BINS, weights=weights, **options).double()
    total, terms = loss(layers, targets)
    want = 0.0
    for i, layer in enumerate(layers):
        assigned = loss.match(layer, targets)[1].tolist()
        assert [sorted(a) for a in assigned] == [[-1, -1, 0, 1, 2], [-1, -1, -1, -1, 0]]
        plain, off = by_hand(layer, targets, assigned, background or 0.25)
        suffix = "" if i == 1 else "_0"  # the last layer's terms have no number
        for name, value in plain.items():
            value *= {**RELEASED, **weights}[name]
            want += value
            assert terms[f"loss_{name}{suffix}"].item() == pytest.approx(value), name
        assert terms[f"loss_cardinality{suffix}"].item() == pytest.approx(off)
    assert total.item() == pytest.approx(want)  # all layers, and not the cardinality


def test_every_query_in_a_box_answers_and_counts():
    layers, targets = case(1)
    loss = Criterion(4, BINS, inside=0.05).double()
    boxes = targets["boxes"]
    for layer in layers:
        layer["query"] = torch.cat([boxes[:, :1, :3].expand(-1, 3, -1) + 0.01, boxes[:, :2, :3] + 50], dim=1)
    terms = loss(layers, targets)[1]
    assigned = loss.match(layers[1], targets)[1]
    held = int((assigned >= 0).sum())
    assert held == 6  # three queries stand in the first box of each scene
    plain, _ = by_hand(layers[1], targets, assigned.tolist(), count=held)
    for name, value in plain.items():
        assert terms[f"loss_{name}"].item() == pytest.approx(RELEASED[name] * value), name


def test_targets_are_shares_of_the_scene():
    box = torch.tensor([[[1.0, 2, 3, 1, 2, 4, 0.1]]])
    low, high = torch.tensor([[-1.0, 0, 1]]), torch.tensor([[3.0, 8, 5]])
    found = Criterion(2, 12).targets_of(box, torch.tensor([[1]]), torch.tensor([[True]]), low, high)
    assert found["center_normalized"].tolist() == [[[0.5, 0.25, 0.5]]]
    assert found["size_normalized"].tolist() == [[[0.25, 0.25, 1.0]]]
    assert found["angle_class"].item() == 0
    assert found["angle_residual"].item() == pytest.approx(0.1)


def test_angle_bins_by_hand():
    """Twelve bins of 30 degrees, bin i centered on 30 i degrees."""
    degrees = torch.tensor([0.0, 10, -10, 14, 16, 90, -90, 344, 346, -170])
    index, residual = angle_bins(torch.deg2rad(degrees), 12)
    assert index.tolist() == [0, 0, 0, 0, 1, 3, 9, 11, 0, 6]
    want = [0, 10, -10, 14, -14, 0, 0, 14, -14, 10]
    assert torch.rad2deg(residual).tolist() == pytest.approx(want, abs=1e-3)
    index, residual = angle_bins(torch.tensor([0.3]), 1)
    assert (index.item(), residual.item()) == (0, 0)


def test_the_number_of_boxes_is_a_mean_over_processes(monkeypatch):
    fake = SimpleNamespace(
        is_available=lambda: True, is_initialized=lambda: True, all_reduce=lambda value: value.add_(8),
        get_world_size=lambda: 2,
    )  # fmt: skip
    layers, targets = case()
    alone = Criterion(4, BINS).double()(layers, targets)[1]
    monkeypatch.setattr(module, "dist", fake)
    together = Criterion(4, BINS).double()(layers, targets)[1]
    # 4 boxes here and 8 there: 6 on average; the class loss is a mean over queries and does not change
    assert together["loss_center"].item() == pytest.approx(alone["loss_center"].item() * 4 / 6)
    assert together["loss_sem_cls"].item() == pytest.approx(alone["loss_sem_cls"].item())
