"""The assignment of DETR against every possible assignment, its costs one by one."""

from itertools import permutations

import numpy as np
import pytest
import torch

from pointcloud.matcher import Matcher, inside, pairwise_giou


def one_box(queries, **columns):
    """Predictions that are alike but for what is given, and one true box of class 1 besides a row of padding."""
    predicted = {
        "boxes": torch.zeros(1, queries, 7),
        "class_probs": torch.full((1, queries, 3), 0.5),
        "objectness": torch.full((1, queries), 0.5),
        "center_normalized": torch.zeros(1, queries, 3),
    }
    targets = {
        "box_label": torch.tensor([[1, 0]]),
        "box_mask": torch.tensor([[True, False]]),
        "center_normalized": torch.zeros(1, 2, 3),
    }
    return predicted | {k: torch.tensor([v]) for k, v in columns.items()}, targets


NONE = dict(class_cost=0.0, giou_cost=0.0, center_cost=0.0, objectness_cost=0.0)


@pytest.mark.parametrize(
    ("cost", "columns", "giou", "chosen"),
    [
        ("objectness_cost", {"objectness": [0.1, 0.9, 0.5]}, [0, 0, 0], 1),
        ("class_cost", {"class_probs": [[0.9, 0.1, 0.9], [0.1, 0.2, 0.7], [0.6, 0.4, 0.1]]}, [0, 0, 0], 2),
        ("giou_cost", {}, [0.2, -0.5, 0.4], 2),
        # by the sum of absolute differences .6 < .8; by the square root of squares it would be the second
        ("center_cost", {"center_normalized": [[0.6, 0, 0], [0.4, 0.4, 0], [0, 0, -0.9]]}, [0, 0, 0], 0),
    ],
)
def test_every_cost_by_itself(cost, columns, giou, chosen):
    predicted, targets = one_box(3, **columns)
    table = torch.tensor(giou)[None, :, None].float().expand(-1, -1, 2)
    assigned = Matcher(**{**NONE, cost: 1.0})(predicted, targets, table)
    assert assigned.tolist() == [[0 if i == chosen else -1 for i in range(3)]]


@pytest.mark.parametrize("weights", [{}, dict(class_cost=1.0, giou_cost=3.0, center_cost=5.0, objectness_cost=5.0)])
@pytest.mark.parametrize("seed", range(4))
def test_no_other_assignment_is_cheaper(weights, seed):
    """3DETR's weights: of ScanNet (class 1, GIoU 2, the default) and of SUN RGB-D."""
    rng = np.random.default_rng(seed)
    probs, objectness = rng.random((2, 6, 3)), rng.random((2, 6))
    giou, queries, centers = rng.uniform(-1, 1, (2, 6, 4)), rng.random((2, 6, 3)), rng.random((2, 4, 3))
    label, counts = rng.integers(0, 3, (2, 4)), (4, 2)
    assigned = Matcher(**weights)(
        {
            "boxes": torch.zeros(2, 6, 7),
            "class_probs": torch.from_numpy(probs),
            "objectness": torch.from_numpy(objectness),
            "center_normalized": torch.from_numpy(queries),
        },
        {
            "box_label": torch.from_numpy(label),
            "box_mask": torch.tensor([[True] * 4, [True, True, False, False]]),
            "center_normalized": torch.from_numpy(centers),
        },
        torch.from_numpy(giou),
    )
    w = {"class_cost": 1.0, "giou_cost": 2.0, "center_cost": 0.0, "objectness_cost": 0.0, **weights}
    for b, count in enumerate(counts):
        cost = lambda q, n: (  # noqa: E731
            -w["class_cost"] * probs[b, q, label[b, n]]  # noqa: B023
            - w["giou_cost"] * giou[b, q, n]  # noqa: B023
            - w["objectness_cost"] * objectness[b, q]  # noqa: B023
            + w["center_cost"] * np.abs(queries[b, q] - centers[b, n]).sum()  # noqa: B023
        )
        best = min(permutations(range(6), count), key=lambda p: sum(cost(q, n) for n, q in enumerate(p)))
        want = [-1] * 6
        for n, q in enumerate(best):
            want[q] = n
        assert assigned[b].tolist() == want


def test_padding_has_no_overlap_and_holds_no_query():
    cube = [0.0, 0, 0, 1, 1, 1, 0]
    boxes = torch.tensor([[cube, cube, [5.0, 0, 0, 1, 1, 1, 0]]])
    targets = {"boxes": boxes, "box_mask": torch.tensor([[False, True, False]])}
    assert pairwise_giou(boxes, targets, "exact")[0, 0].tolist() == [0, 1, 0]
    query = torch.tensor([[[0.1, 0, 0], [5, 0, 0]]])
    assert inside(query, targets, 0.0).tolist() == [[1, -1]]
    assert inside(torch.tensor([[[0.5, 0, 0], [0.7, 0, 0]]]), targets, 0.1).tolist() == [[1, -1]]
