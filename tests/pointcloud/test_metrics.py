"""Definitions of the 3D metrics on cases small enough to count by hand."""

import numpy as np
import pytest
import torch

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
