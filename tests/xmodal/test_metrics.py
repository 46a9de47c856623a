"""Accuracies against a slow count, over parts, with gaps."""

import json

import numpy as np
import pytest
import torch

from xmodal.metrics import Accuracy, Tally, one_line


def slow(scores, label, k):
    return 100 * np.mean([y in np.argsort(-s)[:k] for s, y in zip(scores, label, strict=True)])


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    label = rng.integers(0, 9, 50)  # class 9 never occurs
    scores = rng.normal(size=(50, 10))
    scores[np.arange(50), label] += 1
    return torch.from_numpy(scores), torch.from_numpy(label)


def test_counts(data):
    scores, label = data
    tally = Tally()
    tally.add(scores, label)
    found = tally.compute()
    assert found["top1"] == pytest.approx(slow(scores.numpy(), label.numpy(), 1))
    assert found["top5"] == pytest.approx(slow(scores.numpy(), label.numpy(), 5))
    per_class = [float((scores.argmax(1) == c)[label == c].float().mean() * 100) for c in range(9)]
    assert found["per_class"][:9] == pytest.approx(per_class)
    assert found["per_class"][9] is None
    assert found["mean_class"] == pytest.approx(np.mean(per_class))
    assert tally.confusion.sum() == 50


def test_uneven_parts_add_up_to_the_whole(data):
    scores, label = data
    whole, total = Tally(), Tally()
    whole.add(scores, label)
    for start, stop in ((0, 7), (7, 7), (7, 40), (40, 50)):
        part = Tally()
        if stop > start:
            part.add(scores[start:stop], label[start:stop])
        total += part
    assert total.compute() == whole.compute()


def test_few_classes_have_no_top5():
    tally = Tally()
    tally.add(torch.eye(3), torch.arange(3))
    assert "top5" not in tally.compute()
    assert Tally().compute() == {}


def test_wrong_labels_are_named():
    with pytest.raises(ValueError, match=r"labels 0\.\.7 do not fit a head of 3"):
        Tally().add(torch.zeros(2, 3), torch.tensor([0, 7]))
    tally = Tally()
    tally.add(torch.zeros(1, 3), torch.tensor([0]))
    with pytest.raises(ValueError, match="scores for 4 classes after"):
        tally.add(torch.zeros(1, 4), torch.tensor([0]))


def predictions(scores, labels):
    return [
        {"sample_id": f"s{i}", "scores": s, "label": y} for i, (s, y) in enumerate(zip(scores, labels, strict=True))
    ]


@pytest.mark.parametrize("suffix", [".npz", ".json"])
def test_adapter_says_over_how_many_and_dumps(tmp_path, suffix):
    metric = Accuracy(dump=str(tmp_path / f"out/p{suffix}"))
    metric.process({"skipped": [{"sample_id": "bad", "reason": "r"}]}, predictions(torch.eye(3), [0, 1, 0]))
    metric.process({}, [{"sample_id": "t", "scores": torch.ones(3), "label": -1}])
    metric.process({"skipped": [{"sample_id": "worse", "reason": "r"}]}, [])
    found = metric.evaluate(6)
    assert found["top1"] == pytest.approx(200 / 3)
    assert (found["evaluated"], found["of"], len(found["skipped"]), found["unlabelled"]) == (3, 6, 2, 1)
    assert found["confusion"] == [[1, 0, 1], [0, 1, 0], [0, 0, 0]]
    assert "top1 66.67" in one_line(found)
    assert "over 3 of 6 (2 skipped, 1 without a label)" in one_line(found)
    path = tmp_path / f"out/p{suffix}"
    if suffix == ".npz":
        stored = np.load(path)
        names, labels = stored["sample_id"].tolist(), stored["label"].tolist()
    else:
        stored = json.loads(path.read_text())
        names, labels = [r["sample_id"] for r in stored], [-1 if r["label"] is None else r["label"] for r in stored]
    assert (names, labels) == (["s0", "s1", "s2", "t"], [0, 1, 0, -1])
    assert metric.evaluate(6)["evaluated"] == 0  # starts anew


def test_dump_refuses_other_endings():
    with pytest.raises(ValueError, match=r"\.npz or \.json"):
        Accuracy(dump="x.txt")
