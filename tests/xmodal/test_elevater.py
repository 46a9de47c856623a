"""ELEVATER's procedures on cases made here, and its protocol end to end in its own layout."""

import json
import zipfile
from collections import Counter

import numpy as np
import pytest
import torch

from tools.elevater import main
from xmodal.elevater import metrics
from xmodal.elevater.benchmark import Job, Settings, run_job
from xmodal.elevater.catalogue import CARDS, DETECTION
from xmodal.elevater.datasets import ImageSet, check, check_detection, fit, read_dataset
from xmodal.elevater.models import ImageClassifier, Subject, encode, features
from xmodal.elevater.probe import LinearProbe, Samples, fit_probe
from xmodal.elevater.prompts import of_dataset, read_knowledge, read_prompts, sentences
from xmodal.elevater.report import efficiency, write_report
from xmodal.elevater.search import SearchSpace, hyperparameter_search
from xmodal.elevater.speed import search_speed
from xmodal.elevater.split import few_shot_subset, validation_split
from xmodal.elevater.worlds import write_digits, write_world
from xmodal.encoders.tiny import tiny_clip

# measures


def test_roc_auc_counts_pairs_and_ties_half():
    rng = np.random.default_rng(0)
    score, label = rng.integers(0, 6, 40) / 6, rng.integers(0, 2, 40)
    wins = [(p > n) + 0.5 * (p == n) for p in score[label == 1] for n in score[label == 0]]
    assert metrics.roc_auc(score, label) == pytest.approx(100 * np.mean(wins))
    assert metrics.roc_auc(np.stack([1 - score, score], 1), label) == pytest.approx(100 * np.mean(wins))
    with pytest.raises(ValueError, match="both classes"):
        metrics.roc_auc(score, np.ones(40))


def test_map11_by_hand():
    # ranked 1 0 1 0: precision 1, 1/2, 2/3, 1/2 at recall .5 .5 1 1; best precision at recall >= t: 1 to .5, then 2/3
    score, label = np.array([[4.0], [3.0], [2.0], [1.0]]), np.array([[1], [0], [1], [0]])
    assert metrics.map11(score, label) == pytest.approx(100 * (6 * 1 + 5 * 2 / 3) / 11)
    with pytest.raises(ValueError, match="positive"):
        metrics.map11(score, 0 * label)


def test_mean_per_class_weighs_classes_alike():
    scores = np.eye(3)[[0, 0, 0, 1, 0]]
    assert metrics.mean_per_class(scores, [0, 0, 0, 1, 1]) == pytest.approx(75)
    assert metrics.accuracy(scores, [0, 0, 0, 1, 1]) == pytest.approx(80)
    with pytest.raises(ValueError, match="did you mean 'accuracy'"):
        metrics.find_measure("acuracy")


# splits


def test_validation_split_takes_a_fifth_of_every_class_rounded_up():
    labels = [i % 3 for i in range(20)]
    train, val = validation_split(labels)
    assert sorted(train + val) == list(range(20))
    assert Counter(labels[i] for i in val) == {0: 2, 1: 2, 2: 2}
    assert val == [0, 1, 2, 3, 4, 5]


def test_few_shot_subsets_are_seeded_and_full():
    labels = [int(v) for v in np.random.default_rng(0).integers(0, 4, 100)]
    drawn = few_shot_subset(labels, 5, seed=1)
    assert drawn == few_shot_subset(labels, 5, seed=1) != few_shot_subset(labels, 5, seed=2)
    assert Counter(labels[i] for i in drawn) == dict.fromkeys(range(4), 5)
    with pytest.raises(ValueError, match="at least 1"):
        few_shot_subset(labels, 0, seed=0)


# search


def peak(lr, wd):
    return 100 - (np.log10(lr) + 3) ** 2 - (np.log10(wd) + 2.4) ** 2


def test_search_runs_at_most_fifteen_trials_a_rate_and_keeps_the_first_of_equals():
    result = hyperparameter_search(peak)
    assert len(result.trials) == 90
    assert result.learning_rate == pytest.approx(1e-3)
    assert np.log10(result.weight_decay) == pytest.approx(-2.375)
    flat = hyperparameter_search(lambda lr, wd: 50.0)
    assert (flat.learning_rate, flat.weight_decay) == (pytest.approx(1e-6), pytest.approx(1e-6))
    none = hyperparameter_search(lambda lr, wd: 0.0)
    assert (none.learning_rate, none.weight_decay, len(none.trials)) == (0.0, 0.0, 90)


def test_failed_runs_are_no_result_but_not_all_may_fail():
    def fragile(lr, wd):
        if lr > 1e-4:
            raise RuntimeError("diverged")
        return peak(lr, wd)

    result = hyperparameter_search(fragile)
    assert result.learning_rate == pytest.approx(1e-4)
    assert sum(t.score is None for t in result.trials) > 0
    with pytest.raises(RuntimeError, match="diverged"):
        hyperparameter_search(lambda lr, wd: fragile(1, wd))


def test_search_resumes_from_its_trace(tmp_path):
    calls = []

    def run(lr, wd):
        calls.append((lr, wd))
        if len(calls) == 23:
            raise KeyboardInterrupt
        return peak(lr, wd)

    trace = tmp_path / "trace.jsonl"
    with pytest.raises(KeyboardInterrupt):
        hyperparameter_search(run, trace=trace)
    trace.write_text(trace.read_text() + '{"learning_rate": 1e-')  # a line cut off by the crash
    resumed = hyperparameter_search(run, trace=trace)
    assert len(calls) == 23 + 90 - 22
    plain = hyperparameter_search(peak)
    assert [(t.learning_rate, t.index, t.score) for t in resumed.trials] == [
        (t.learning_rate, t.index, t.score) for t in plain.trials
    ]
    with pytest.raises(ValueError, match="delete the file"):
        hyperparameter_search(peak, SearchSpace(left_only=True, initial=(3,)), trace=trace)


# probe


def test_probe_starts_at_the_text_classifier_and_learns():
    torch.manual_seed(0)
    label = torch.arange(30) % 3
    train = Samples(torch.eye(3)[label] @ torch.randn(3, 8) + 0.1 * torch.randn(30, 8), label)
    probe = LinearProbe(8, 3, channel_bn=False, text_weights=torch.eye(3, 8), logit_scale_init="clip")
    assert torch.allclose(probe(torch.eye(8)[:3]), torch.eye(3) / 0.07, atol=1e-4)
    before = probe.fc.weight.clone()
    found = fit_probe(LinearProbe(8, 3), train, train, 0.1, 1e-4, epochs=5, batch_size=8)
    assert found.best >= found.last > 60
    fit_probe(probe, train, train, 0.1, 0.0, epochs=1)
    assert torch.equal(probe.fc.weight, before)  # the start is copied
    with pytest.raises(ValueError, match="classes, feature width"):
        LinearProbe(8, 3, text_weights=torch.zeros(8, 3))
    with pytest.raises(ValueError, match="no logit_scale"):
        LinearProbe(8, 3, logit_scale_init="pretrained")


# data sets


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("elevater")
    write_world(folder, "drawn-colors", train=60, test=30)
    write_world(folder, "drawn-scenes", train=40, test=20)
    return folder


def test_reader_and_check(root, tmp_path):
    data = read_dataset(root, "drawn-scenes")
    assert (data.num_classes, len(data.train), len(data.test)) == (8, 40, 20)
    assert data.targets(data.test).shape == (20, 8)
    images = ImageSet(data.folder, data.test, 48)
    assert images[torch.tensor([3, 1])].shape == (2, 3, 48, 48)
    assert check(root, "drawn-scenes")["problems"] == []
    assert "no folder" in check(root, "mnist")["problems"][0]
    with pytest.raises(FileNotFoundError, match="drawn-scenes"):
        read_dataset(root, "drawn-scenery")
    folder = tmp_path / "classification" / "mnist_20211008"
    folder.mkdir(parents=True)
    (folder / "labels.txt").write_text("zero\none\n")
    (folder / "train.txt").write_text("train.zip@a b.png 1\n")
    (folder / "test.txt").write_text("test.zip@c.png 0\n")
    with zipfile.ZipFile(folder / "train.zip", "w") as archive:
        archive.writestr("other.png", b"")
    problems = check(tmp_path, "mnist")["problems"]
    assert any("2 classes" in p for p in problems)
    assert any("archive test.zip" in p for p in problems)
    assert any("a b.png" in p for p in problems)
    (folder / "test.txt").write_text("test.zip@c.png 7\n")
    with pytest.raises(ValueError, match=r"test.txt:1: classes \(7,\)"):
        read_dataset(tmp_path, "mnist")


def test_unreadable_images_are_named_and_stop_the_run_when_many(root):
    data = read_dataset(root, "drawn-colors")
    entries = [type(data.test[0])(f"test.zip@none{i}.png", (0,)) for i in range(7)]
    images = ImageSet(data.folder, entries, 48)
    assert (images[torch.arange(5)] == 127).all()
    assert "none3.png" in " ".join(images.broken)
    with pytest.raises(ValueError, match="6 images cannot be read"):
        images.image(5)


def test_fit_is_torchvisions_resize_and_crop():
    from PIL import Image
    from torchvision.transforms import functional as tv

    pixels = np.random.default_rng(0).integers(0, 255, (61, 87, 3), dtype=np.uint8)
    picture = Image.fromarray(pixels)
    wanted = tv.center_crop(tv.resize(picture, 48, tv.InterpolationMode.BICUBIC), [48, 48])
    assert np.array_equal(np.asarray(fit(picture, 48, True)), np.asarray(wanted))
    assert fit(picture, 48, False).size == (48, 48)


def test_catalogue_is_the_benchmarks():
    assert len(CARDS) == 20
    assert len(DETECTION) == 35
    assert CARDS["voc-2007-classification"].multilabel
    assert sum(c.classes for c in CARDS.values()) == 1151
    assert check_detection("/nowhere", "Aquarium") == {
        "name": "Aquarium",
        "folder": None,
        "splits": {},
        "evaluated": False,
    }


def test_prompts_and_knowledge_are_read_without_running_them(root, tmp_path):
    source = tmp_path / "prompts.py"
    source.write_text(
        "import os\nos.abort()\ncolors = ['r', 'g', 'b', 'y', 'p', 'o', 'c', 'w']\n"
        "class_map = {'drawn_colors': colors}\ntemplate_map = {}\ntemplate_map['drawn-colors'] = ['a {} thing.']\n"
    )
    data = read_dataset(root, "drawn-colors")
    names, templates = of_dataset(read_prompts(source), data)
    assert (names[0], templates) == ("r", ["a {} thing."])
    (tmp_path / "drawn-colors.tsv").write_text(
        json.dumps([{"classname": "r", "gpt3": ["hot", "x"]}, {"classname": "g"}])
    )
    known = read_knowledge(tmp_path, "drawn-colors", "gpt3")
    assert sentences(names[:2], templates, known) == [["a r thing. ; r , hot"], ["a g thing."]]
    with pytest.raises(FileNotFoundError, match="wiki"):
        read_knowledge(tmp_path, "drawn-colors", "wiki")


# the protocol


@pytest.fixture(scope="module")
def subject():
    return Subject(tiny_clip())


SHORT = SearchSpace(learning_rates=(1e-3, 1e-2), initial=(0, 48), spans=(8,))


def test_jobs_run_resume_and_are_reported(root, subject, tmp_path):
    settings = Settings(epochs=2, extra_epochs=1, space=SHORT)
    for method in ("zero-shot", "linear-probe"):
        found = run_job(subject, Job("drawn-scenes", method, 2), root, tmp_path, settings)
        assert 0 < found["score"] <= found.get("best_epoch_on_test", 100) <= 100
    assert found["trials"] == len((tmp_path / "traces").glob("*.jsonl").__next__().read_text().splitlines())
    assert found["trained_parameters"] == 96 * 8 + 8
    before = (tmp_path / "drawn-scenes.linear-probe.2shot-seed0.json").stat().st_mtime_ns
    again = run_job(subject, Job("drawn-scenes", "linear-probe", 2), root, tmp_path, settings)
    assert again["score"] == found["score"]
    assert (tmp_path / "drawn-scenes.linear-probe.2shot-seed0.json").stat().st_mtime_ns == before
    text = write_report(tmp_path)
    assert "linear-probe" in text
    made = json.loads((tmp_path / "report/submissions/tiny-clip-shapes.drawn-scenes.linear-probe.2.json").read_text())
    assert np.allclose(np.sum(made["predictions"][0], 1), 1, atol=1e-4)
    assert made["n_shot"] == 2


def test_frozen_features_are_computed_once_for_all_runs(root, subject, tmp_path):
    seen = []
    handle = subject.visual.register_forward_hook(lambda module, inputs, out: seen.append(len(inputs[0])))
    try:
        settings = Settings(epochs=2, extra_epochs=0, space=SHORT)
        found = run_job(subject, Job("drawn-colors", "linear-probe", 3), root, tmp_path, settings)
    finally:
        handle.remove()
    assert found["trials"] >= 6
    assert sum(seen) == 3 * 8 + 30  # every training and test image once


def test_zero_shot_knows_the_colors_it_was_trained_on(root, subject, tmp_path):
    assert run_job(subject, Job("drawn-colors", "zero-shot"), root, tmp_path)["score"] > 80


def test_adapters_train_in_the_probes_place(root, subject, tmp_path):
    before = {k: v.clone() for k, v in subject.visual.state_dict().items()}
    settings = Settings(epochs=1, extra_epochs=0, rate=(1e-2, 1e-4))
    found = run_job(subject, Job("drawn-colors", "lora", 1), root, tmp_path, settings)
    assert found["trained_parameters"] > 96 * 8 + 8
    assert found["trials"] == 0
    assert all(torch.equal(before[k], v) for k, v in subject.visual.state_dict().items())


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("linear-probe", dict(merge_projection=True)),
        ("fine-tune", dict(normalize=True, logit_scale_init="pretrained", channel_bn=False)),
    ],
)
def test_a_text_initialised_start_keeps_what_zero_shot_knows(root, subject, tmp_path, method, options):
    settings = Settings(epochs=1, extra_epochs=0, rate=(1e-5, 0.0), **options)
    found = run_job(subject, Job("drawn-colors", method, 1), root, tmp_path, settings)
    assert found["score"] > 60
    inside = {"linear-probe": 128, "fine-tune": 96}[method]
    assert found["trained_parameters"] >= inside * 8 + 8


def test_features_equal_the_encoder_and_are_kept(root, subject, tmp_path):
    data = read_dataset(root, "drawn-colors")
    images = ImageSet(data.folder, data.test, 48)
    first = features(subject, images, tmp_path)
    assert len(list(tmp_path.glob("*.npy"))) == 1
    assert torch.equal(first, features(subject, images, tmp_path))
    assert torch.allclose(first, encode(subject.visual, images[torch.arange(30)]), atol=1e-5)
    raw = features(subject, images, raw=True)
    assert torch.allclose(raw @ subject.visual.proj.weight.t(), first, atol=1e-4)
    classifier = ImageClassifier(subject.visual, [], LinearProbe(96, 8)).eval()
    assert torch.allclose(classifier(images[torch.arange(4)]), classifier.head(first[:4]), atol=1e-4)


def test_digits_of_scikit_learn_are_written_in_the_layout(tmp_path):
    pytest.importorskip("sklearn")
    write_digits(tmp_path, 30, 20)
    data = read_dataset(tmp_path, "sklearn-digits")
    assert (data.num_classes, len(data.train), len(data.test)) == (10, 30, 20)
    assert [e.classes[0] for e in data.train[:12]] == [*range(10), 0, 1]
    image = ImageSet(data.folder, data.train, 8).image(0)
    assert image[0, 0, 3] == round(13 * 255 / 16)  # of the first digit's first row
    with pytest.raises(ValueError, match="1797"):
        write_digits(tmp_path, 1700, 100)


@pytest.mark.slow
def test_kept_features_make_the_search_far_faster(root, subject):
    found = search_speed(subject, root, "drawn-colors", shots=5, trials=1)
    assert found["trials"] >= 60
    assert found["ratio"] > 20


def test_efficiency_discounts_trained_weights():
    assert efficiency(80, 0) == 80
    assert efficiency(80, 10**8) == pytest.approx(80 * np.exp(-np.log10(2)))


def test_command_line(root, tmp_path, capsys):
    assert main(["check", str(root)]) == 1
    out = capsys.readouterr().out
    assert "0 of 20" in out
    assert "not evaluated (detection) Aquarium" in out
    assert main(["run", str(root), str(tmp_path), "--datasets", "nothing"]) == 1
    assert "no folder of 'nothing'" in capsys.readouterr().err
    short = ["--methods", "linear-probe", "--shots", "2", "--seeds", "0", "--epochs", "1", "--rate", "0.01", "0"]
    assert main(["run", str(root), str(tmp_path), "--datasets", "drawn-colors", *short, "--extra-epochs", "0"]) == 0
    assert "| linear-probe | 2 x 1 seeds |" in capsys.readouterr().out
    config = tmp_path / "plan.py"
    config.write_text("method = ['zero-shot']\n")
    assert main(["run", str(root), str(tmp_path), "--config", str(config)]) == 1
    assert "did you mean 'methods'" in capsys.readouterr().err
