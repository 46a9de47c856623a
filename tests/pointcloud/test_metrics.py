"""Definitions of the 3D metrics on cases small enough to count by hand."""

import numpy as np
import pytest
import torch

from pointcloud import metrics
from pointcloud.detection_ap import detections_of, evaluate_detections, select_boxes
from pointcloud.metrics import DetectionMetric, SegmentationMetric, SegmentationTally


def box(x, size=1.0):
    return np.array([[x, 0, 0, size, size, size, 0.0]])


def scene(*rows):
    """(x, label, score) rows."""
    return (
        np.concatenate([box(r[0]) for r in rows] or [np.zeros((0, 7))]),
        np.array([r[1] for r in rows], dtype=int),
        np.array([r[2] for r in rows], dtype=float),
    )


def test_segmentation_counts():
    tally = SegmentationTally(3, ignore_label=255)
    tally.add([0, 0, 1, 2], [0, 1, 1, 255])
    tally.add([0], [0])
    found = tally.compute()
    assert found["iou"] == pytest.approx([2 / 3, 1 / 2, 0])
    assert found["miou"] == pytest.approx((2 / 3 + 1 / 2) / 3)
    assert found["miou_present"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert found["oa"] == pytest.approx(3 / 4)
    with pytest.raises(ValueError, match="points to leave out carry 255"):
        tally.add([0], [7])
    with pytest.raises(ValueError, match="2 predictions for 1 labels"):
        tally.add([0, 1], [1])


def test_dropped_class_is_no_miss_of_another():
    tally = SegmentationTally(3, ignore_label=0, first_class=1)
    tally.add([0, 1, 1], [1, 1, 2])
    hit, union, target = tally.counts()
    assert hit.tolist() == [1, 0]
    assert target.tolist() == [1, 1]
    assert union.tolist() == [2, 1]


def test_strict_threshold():
    # IoU of unit cubes shifted by s is (1-s)/(1+s): exactly .25 at s=.6, .5 at s=1/3
    truth = [scene((0, 0, 1))[:2]]
    exact = evaluate_detections([scene((0.6, 0, 1))], truth, 1, (0.25, 0.2499))
    assert exact[0.25].ap[0] == 0
    assert exact[0.2499].ap[0] == 1


def test_no_second_best_box():
    truth = [scene((0, 0, 1), (0.5, 0, 1))[:2]]
    found = [scene((0.0, 0, 0.9), (0.05, 0, 0.8))]  # both prefer the first box
    result = evaluate_detections(found, truth, 1, (0.25,))[0.25]
    assert result.recall[0] == 0.5
    assert result.ap[0] == 0.5


def test_absent_classes():
    result = evaluate_detections([scene((0, 0, 1), (9, 1, 1))], [scene((0, 0, 1), (5, 2, 1))[:2]], 4, (0.25,))[0.25]
    assert result.ap[:3].tolist() == [1, 0, 0]  # right; never in truth; never predicted
    assert np.isnan(result.ap[3])
    assert result.mean_ap == pytest.approx(1 / 3)


def test_ties_keep_image_order():
    truth = [scene((0, 0, 1))[:2], scene((0, 0, 1))[:2]]
    good_first = evaluate_detections([scene((0, 0, 0.5)), scene((9, 0, 0.5))], truth, 1, (0.25,))[0.25].ap[0]
    good_last = evaluate_detections([scene((9, 0, 0.5)), scene((0, 0, 0.5))], truth, 1, (0.25,))[0.25].ap[0]
    assert (good_first, good_last) == (0.5, 0.25)


def test_nothing_at_all():
    result = evaluate_detections([scene()], [scene()[:2]], 2, (0.5,))[0.5]
    assert result.mean_ap == 0
    with pytest.raises(ValueError, match="different lengths"):
        evaluate_detections([(box(0), np.zeros(2), np.zeros(2))], [scene()[:2]], 2)


def test_selection_of_boxes():
    boxes = torch.tensor(np.concatenate([box(0), box(0.1), box(5)]))
    probs = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.5, 0.5]])
    objectness = torch.tensor([0.6, 0.7, 0.9])
    points = torch.zeros(5, 3, dtype=torch.float64)
    assert select_boxes(boxes, probs, objectness, points).tolist() == [False, True, False]
    assert select_boxes(boxes, probs, objectness, points + 50).tolist() == [False, False, True]
    assert select_boxes(boxes, probs, objectness, nms_iou=None).all()
    kept = torch.tensor([True, True, False])
    found = detections_of(boxes, probs, torch.tensor([0.5, 0.01, 0.9]), kept)
    assert found[0].shape == (2, 7)
    assert found[1].tolist() == [0, 1]
    assert found[2] == pytest.approx([0.45, 0.05])


def test_metrics_of_the_engine():
    metric = SegmentationMetric(["a", "b"])
    metric.process({"skipped": [{"sample_id": "x", "reason": "torn"}]}, [dict(segment=[0, 1], target=[0, 0])])
    found = metric.evaluate(2)
    assert found["oa"] == pytest.approx(50)
    assert found["skipped"][0]["sample_id"] == "x"
    metric = DetectionMetric(["a", "b"])
    right = dict(boxes=box(0), box_label=np.array([0]), scores=np.array([0.5]))
    metric.process(None, [dict(sample_id="s", target_boxes=box(0), target_label=np.array([0]), **right)])
    found = metric.evaluate(1)
    assert found["map25"] == found["map50"] == 100
    assert found["ap50"] == {"a": 100.0, "b": None}


def test_predictions_outside_the_classes_are_misses_of_the_true_class_only():
    tally = SegmentationTally(3)
    tally.add([0, 3, -1, 99, 1], [0, 0, 0, 0, 1])
    found = tally.compute()
    assert found["iou"] == pytest.approx([1 / 4, 1, 0])
    assert found["acc"] == pytest.approx([1 / 4, 1, 0])
    assert found["oa"] == pytest.approx(2 / 5)


def test_means_of_classes():
    """Class 2 is predicted but never true, class 3 is seen nowhere: both count 0, unless only present ones do."""
    tally = SegmentationTally(4)
    tally.add([0, 0, 0, 2, 1, 1], [0, 0, 0, 0, 1, 0])
    found = tally.compute()
    assert found["iou"] == pytest.approx([3 / 5, 1 / 2, 0, 0])
    assert found["acc"] == pytest.approx([3 / 5, 1, 0, 0])
    assert found["miou"] == pytest.approx((3 / 5 + 1 / 2) / 4)
    assert found["macc"] == pytest.approx((3 / 5 + 1) / 4)
    assert found["oa"] == pytest.approx(4 / 6)
    assert found["miou_present"] == pytest.approx((3 / 5 + 1 / 2) / 2)


def test_envelope_of_precision():
    """Wrong, right, right: precision 0, 1/2, 2/3 at recall 0, 1/2, 1; the envelope is 2/3 throughout."""
    truth = [scene((0, 0, 1), (5, 0, 1))[:2]]
    result = evaluate_detections([scene((9, 0, 0.9), (0, 0, 0.8), (5, 0, 0.7))], truth, 1, (0.5,))[0.5]
    assert result.ap[0] == pytest.approx(2 / 3)
    result = evaluate_detections([scene((0, 0, 0.9), (9, 0, 0.8), (5, 0, 0.7))], truth, 1, (0.5,))[0.5]
    assert result.ap[0] == pytest.approx(1 / 2 + 1 / 2 * 2 / 3)


def test_recalls_and_their_mean():
    """Half of class 0, nothing of class 1, class 2 in predictions only: 1/2, 0, 0; class 3 is not counted."""
    truth = [scene((0, 0, 1), (5, 0, 1), (7, 1, 1))[:2]]
    result = evaluate_detections([scene((0, 0, 0.9), (9, 2, 0.8))], truth, 4, (0.5,))[0.5]
    assert result.recall[:3].tolist() == [0.5, 0, 0]
    assert np.isnan(result.recall[3])
    assert result.mean_recall == pytest.approx(1 / 6)
    assert result.has_truth.tolist() == [True, True, False, False]


def test_other_classes_take_no_ground_truth():
    truth = [scene((0, 0, 1), (0.1, 1, 1))[:2]]
    result = evaluate_detections([scene((0.1, 0, 0.9), (0, 1, 0.8))], truth, 2, (0.5,))[0.5]
    assert result.ap.tolist() == [1, 1]


def test_selection_of_boxes_counts_points_and_lets_kinds_compete():
    boxes = torch.tensor(np.concatenate([box(0), box(0.1), box(5)]))
    points = torch.tensor([[0.0, 0, 0]] * 5 + [[5.0, 0, 0]] * 4, dtype=torch.float64)
    probs = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]])
    # two kinds at one place both stay; five points are enough, four are not
    assert select_boxes(boxes, probs, torch.tensor([0.6, 0.7, 0.9]), points).tolist() == [True, True, False]
    assert select_boxes(boxes, probs, torch.tensor([0.6, 0.7, 0.9]), points, min_points=4).all()
    # among one kind the most object-like stays, not the one surest of its class
    probs = torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.5, 0.5]])
    assert select_boxes(boxes, probs, torch.tensor([0.6, 0.7, 0.9]), points).tolist() == [False, True, False]
    # what is empty suppresses nothing
    full = torch.tensor([[-0.45, 0, 0]] * 5, dtype=torch.float64)
    assert select_boxes(boxes, probs, torch.tensor([0.6, 0.7, 0.9]), full).tolist() == [True, False, False]


def test_every_class_of_every_kept_box_is_emitted():
    boxes, kept = torch.tensor(np.concatenate([box(0), box(5)])), torch.tensor([True, True])
    found = detections_of(boxes, torch.tensor([[0.5, 0.25], [0.0, 1.0]]), torch.tensor([0.5, 0.05]), kept)
    assert found[0][:, 0].tolist() == [0, 0]  # the second has no more than the least objectness
    assert found[1].tolist() == [0, 1]
    assert found[2].tolist() == pytest.approx([0.25, 0.125])
    found = detections_of(boxes, torch.tensor([[0.5, 0.25], [0.0, 1.0]]), torch.tensor([0.5, 0.06]), kept)
    assert found[0][:, 0].tolist() == [0, 0, 5, 5]
    assert found[2].tolist() == pytest.approx([0.25, 0.125, 0.0, 0.06])


def sample(name, right, score=0.5):
    """A scene with one true box, and one found of equal score that is right or wrong."""
    return dict(
        sample_id=name, boxes=box(0 if right else 9), box_label=np.array([0]), scores=np.array([score]),
        target_boxes=box(0), target_label=np.array([0]),
    )  # fmt: skip


@pytest.mark.parametrize(("first", "ap"), [(True, 50.0), (False, 25.0)])
def test_ties_depend_neither_on_the_order_of_scenes_nor_on_the_number_of_processes(first, ap, monkeypatch):
    scenes = [sample("a", first), sample("b", not first)]
    for order in (scenes, scenes[::-1]):
        metric = DetectionMetric(["x"])
        metric.process(None, order)
        assert metric.evaluate(2)["map50"] == ap
    parts = []
    for one in scenes[::-1]:
        other = DetectionMetric(["x"])
        other.process({"skipped": [{"sample_id": one["sample_id"] + "2"}]}, [one])
        parts.append((other.found, other.skipped))
    monkeypatch.setattr(metrics, "gather", lambda mine: parts)
    found = DetectionMetric(["x"]).evaluate(2)
    assert (found["map50"], found["evaluated"]) == (ap, 2)
    assert [s["sample_id"] for s in found["skipped"]] == ["b2", "a2"]


def test_figures_of_detection():
    """Of two true boxes one is found, behind a wrong one: AP 1/2 * 1/2, recall 1/2."""
    metric = DetectionMetric(["x", "y"])
    found = {"boxes": np.concatenate([box(9), box(0)]), "box_label": np.array([0, 0]), "scores": np.array([0.9, 0.5])}
    truth = {"target_boxes": np.concatenate([box(0), box(4)]), "target_label": np.array([0, 0])}
    metric.process(None, [{"sample_id": "a", **found, **truth}])
    got = metric.evaluate(3)
    assert {k for k in got if k[:2] in ("ma", "ar", "ap")} == {"map25", "ar25", "ap25", "map50", "ar50", "ap50"}
    assert (got["map25"], got["ar25"], got["of"], got["evaluated"]) == (25, 50, 3, 1)
    assert got["ap25"] == {"x": 25.0, "y": None}
    assert metric.evaluate(3)["evaluated"] == 0  # counted anew
    metric.process(None, [{**sample("b", True), "box_label": np.array([1])}])
    assert metric.evaluate(1)["ar25"] == 0


def test_figures_of_segmentation_add_up_over_processes_and_start_anew(monkeypatch):
    make = lambda: SegmentationMetric(["none", "a", "b"], ignore_label=0, first_class=1)  # noqa: E731
    one, two = make(), make()
    one.process({"skipped": [{"sample_id": "x"}]}, [dict(segment=[1, 1, 0], target=[1, 2, 0])])
    two.process(None, [dict(segment=[2, 2, 2], target=[2, 2, 1])])
    with monkeypatch.context() as patch:
        patch.setattr(metrics, "gather", lambda mine: [(one.tally, one.skipped), (two.tally, two.skipped)])
        found = one.evaluate(2)
    # class a: 1 right of 2 true, 1 wrong; class b: 2 right of 3 true, 1 wrong
    assert found["iou"] == {"a": pytest.approx(100 / 3, abs=1e-3), "b": pytest.approx(50)}
    assert found["miou"] == pytest.approx(100 * (1 / 3 + 1 / 2) / 2)
    assert found["oa"] == pytest.approx(60)
    assert found["macc"] == pytest.approx(100 * (1 / 2 + 2 / 3) / 2)
    assert found["skipped"] == [{"sample_id": "x"}]
    anew = one.evaluate(0)
    assert (anew["oa"], anew["skipped"]) == (0, [])
