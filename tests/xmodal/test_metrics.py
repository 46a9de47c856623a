"""Accuracies against a slow count, over parts, with gaps."""

import json

import numpy as np
import pytest
import torch

from xmodal.metrics import Accuracy, Tally, one_line, write_predictions
from xmodal.shown import Shown


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
    assert (found["evaluated"], found["of"], len(found["skipped"]), found["unlabeled"]) == (3, 6, 2, 1)
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


@pytest.mark.parametrize(("classes", "told"), [(4, False), (5, False), (6, True)])
def test_top5_needs_more_than_five_classes(classes, told):
    """Of five classes every answer is among the best five."""
    tally = Tally()
    tally.add(torch.arange(classes).float()[None].repeat(2, 1), torch.tensor([0, classes - 1]))
    found = tally.compute()
    assert ("top5" in found) == told
    assert found["top1"] == 50
    if told:
        assert found["top5"] == 50  # the lowest of six scores is the sixth


def test_counts_of_all_processes_add_up(monkeypatch, tmp_path):
    """Another process has seen three more samples of two classes, one of them unreadable and one without a label."""
    other = Tally()
    other.add(torch.eye(3), torch.tensor([0, 0, 2]))
    seen = Shown()
    seen.add("s1", 0, torch.tensor([0.0, 1.0, 0.0]))
    theirs = (other, [{"sample_id": "z", "reason": "r"}], 1, predictions(torch.eye(3), [0, 0, 2]), seen)
    monkeypatch.setattr("xmodal.metrics.gather", lambda mine: [mine, theirs])
    metric = Accuracy(dump=str(tmp_path / "p.npz"))
    mine = [{"sample_id": "m", "scores": torch.tensor([0.0, 1.0, 0.0]), "label": 1}]
    metric.process({"skipped": [{"sample_id": "y", "reason": "r"}]}, mine)
    metric.process({}, [{"sample_id": "n", "scores": torch.ones(3), "label": None}])
    found = metric.evaluate(7)
    assert found["top1"] == pytest.approx(100 * 3 / 4)
    assert found["confusion"] == [[1, 1, 0], [0, 1, 0], [0, 0, 1]]
    assert (found["evaluated"], found["of"], found["unlabeled"]) == (4, 7, 2)
    assert [s["sample_id"] for s in found["skipped"]] == ["y", "z"]
    assert [(s["sample_id"], s["label"], s["predicted"]) for s in found["shown"]] == [("s1", 0, 1), ("m", 1, 1)]
    assert np.load(tmp_path / "p.npz")["sample_id"].tolist() == ["m", "n", "s0", "s1", "s2"]


def test_the_most_confident_samples_are_kept_whatever_their_order():
    """60 samples of 20 classes; every third is right. Scores fall with the number of the sample."""
    rows = [(f"s{i:02d}", i % 20, i % 20 if i % 3 == 0 else (i + 1) % 20, 1 - i / 100) for i in range(60)]
    wrong = [name for name, label, guess, _ in rows if label != guess][:24]
    right = {label: name for name, label, guess, _ in reversed(rows) if label == guess}
    for order in (rows, rows[::-1]):
        parts = [Shown(), Shown()]
        for i, (name, label, guess, score) in enumerate(order):
            parts[i % 2].add(name, label, score * torch.eye(20)[guess])
        parts[0] += parts[1]
        found = parts[0].rows()
        assert [row["sample_id"] for row in found] == wrong + [right[label] for label in sorted(right)[:16]]
        assert found[0] == {"sample_id": "s01", "label": 1, "predicted": 2, "score": 0.99}


def test_predictions_are_written_by_name(tmp_path):
    rows = [{"sample_id": name, "scores": torch.tensor([float(i)]), "label": i} for i, name in enumerate("cab")]
    write_predictions(tmp_path / "p.npz", rows)
    stored = np.load(tmp_path / "p.npz")
    assert stored["sample_id"].tolist() == ["a", "b", "c"]
    assert stored["label"].tolist() == stored["scores"][:, 0].tolist() == [1, 2, 0]


@pytest.mark.parametrize(("up_to", "told"), [(2, False), (3, True)])
def test_the_confusion_matrix_is_told_up_to_a_size(up_to, told):
    metric = Accuracy(confusion_up_to=up_to)
    metric.process({}, predictions(torch.eye(3), [0, 1, 0]))
    assert ("confusion" in metric.evaluate(3)) == told
