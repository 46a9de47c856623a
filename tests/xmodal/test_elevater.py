"""ELEVATER's procedures on cases made here, and its protocol end to end in its own layout."""

import dataclasses
import json
import random
import zipfile
from collections import Counter

import numpy as np
import pytest
import torch

from tools.elevater import main, parser, read_plan
from xmodal.encoders.clip import class_weights
from xmodal.encoders.tiny import tiny_clip
from xmodal.evaluation import metrics
from xmodal.evaluation.bench import Bench
from xmodal.evaluation.elevater import ALL, Elevater, ImageClassifier, JobRun, elevater_grid
from xmodal.evaluation.elevater_catalog import CARDS, DETECTION
from xmodal.evaluation.elevater_data import (
    DataSet,
    ElevaterImages,
    Entry,
    Pictures,
    check,
    check_detection,
    elevater_source,
    find_folder,
    read_dataset,
)
from xmodal.evaluation.elevater_report import efficiency, submission, summarize, write_report
from xmodal.evaluation.probe import Fit, LabeledInputs, LinearProbe, batches, fit_probe, objective
from xmodal.evaluation.prompts import of_dataset, read_knowledge, read_prompts, sentences
from xmodal.evaluation.sampling import few_shot_subset, validation_split
from xmodal.evaluation.search import RateSpace, hyperparameter_search
from xmodal.evaluation.speed import search_speed
from xmodal.toys.elevater_worlds import write_digits, write_world

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
    # first right of three, then nothing: precision 1/3 at every recall, but the curve begins at recall 0, precision 1
    score, label = np.array([[3.0], [2.0], [1.0]]), np.array([[0], [0], [1]])
    assert metrics.map11(score, label) == pytest.approx(100 * (1 + 10 / 3) / 11)
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
        hyperparameter_search(peak, RateSpace(left_only=True, initial=(3,)), trace=trace)


# probe


def test_probe_starts_at_the_text_classifier_and_learns():
    torch.manual_seed(0)
    label = torch.arange(30) % 3
    train = LabeledInputs(torch.eye(3)[label] @ torch.randn(3, 8) + 0.1 * torch.randn(30, 8), label)
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
    images = Pictures(ElevaterImages(data, "test", 48), range(20))
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
    data.test = [type(data.test[0])(f"test.zip@none{i}.png", (0,)) for i in range(7)]
    images = ElevaterImages(data, "test", 48)
    assert (Pictures(images, range(7))[torch.arange(5)] == 127).all()
    assert "none3.png" in " ".join(images.broken)
    with pytest.raises(ValueError, match="6 images cannot be read"):
        images[5]


def test_views_are_torchvisions_resize_and_crop(root):
    from PIL import Image
    from torchvision.transforms import functional as tv

    pixels = np.random.default_rng(0).integers(0, 255, (61, 87, 3), dtype=np.uint8)
    picture = Image.fromarray(pixels)
    wanted = tv.center_crop(tv.resize(picture, 48, tv.InterpolationMode.BICUBIC), [48, 48])
    data = read_dataset(root, "drawn-colors")
    assert np.array_equal(np.asarray(ElevaterImages(data, "test", 48).view(picture)), np.asarray(wanted))
    squeezed = tv.resize(picture, [48, 48], tv.InterpolationMode.BICUBIC)
    data.card = dataclasses.replace(data.card, center_crop=False)
    assert np.array_equal(np.asarray(ElevaterImages(data, "test", 48).view(picture)), np.asarray(squeezed))


def test_catalog_is_the_benchmarks():
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
def clip():
    return tiny_clip()


def run_one(clip, root, out, dataset, method, shots=0, settings=None):
    """A run's details, its score and its trained weights."""
    grid = elevater_grid(clip, root, dataset, [method], out, settings)
    (cell,) = grid.cells([shots], [0])
    result = grid.cell(*cell)
    assert result["scores"] == {dataset: round(result["details"]["score"], 4)}
    return {**result["details"], "trained_parameters": result["trained_weights"], "stamp": result["stamp"]}


SHORT = RateSpace(learning_rates=(1e-3, 1e-2), initial=(0, 48), spans=(8,))


def test_jobs_run_resume_and_are_reported(root, clip, tmp_path):
    settings = Elevater(epochs=2, extra_epochs=1, space=SHORT)
    for method in ("zero-shot", "linear-probe"):
        found = run_one(clip, root, tmp_path, "drawn-scenes", method, 2, settings)
        assert 0 < found["score"] <= found.get("best_epoch_on_test", 100) <= 100
    assert found["trials"] == len((tmp_path / "traces").glob("*.jsonl").__next__().read_text().splitlines())
    assert found["trained_parameters"] == 96 * 8 + 8
    kept = tmp_path / "drawn-scenes" / "linear-probe" / "shots2_seed0" / "result.json"
    before = kept.stat().st_mtime_ns
    assert run_one(clip, root, tmp_path, "drawn-scenes", "linear-probe", 2, settings)["score"] == found["score"]
    assert kept.stat().st_mtime_ns == before
    text = write_report(tmp_path)
    assert "linear-probe" in text
    made = json.loads((tmp_path / "report/submissions/tiny-clip-shapes.drawn-scenes.linear-probe.2.json").read_text())
    assert np.allclose(np.sum(made["predictions"][0], 1), 1, atol=1e-4)
    assert made["n_shot"] == 2


def test_frozen_features_are_computed_once_for_all_runs(root, clip, tmp_path):
    seen = []
    handle = clip.visual.blocks[0].register_forward_hook(lambda module, inputs, out: seen.append(len(inputs[0])))
    try:
        settings = Elevater(epochs=2, extra_epochs=0, space=SHORT)
        found = run_one(clip, root, tmp_path, "drawn-colors", "linear-probe", 3, settings)
    finally:
        handle.remove()
    assert found["trials"] >= 6
    assert sum(seen) == 3 * 8 + 30  # every training and test image once


def test_zero_shot_knows_the_colors_it_was_trained_on(root, clip, tmp_path):
    plain = run_one(clip, root, tmp_path, "drawn-colors", "zero-shot")
    assert plain["score"] > 80
    merged = run_one(clip, root, tmp_path, "drawn-colors", "zero-shot", settings=Elevater(merge_projection=True))
    assert merged["score"] == plain["score"], "it needs the projection, wherever the head of a probe stands"


def test_a_seed_gives_the_first_weights_whatever_ran_before(root, clip, tmp_path):
    settings, scores = Elevater(epochs=1, extra_epochs=0, rate=(1e-2, 1e-4)), []
    for name in ("a", "b"):
        torch.rand(7 if name == "a" else 3)
        run_one(clip, root, tmp_path / name, "drawn-colors", "lora", 1, settings)
        with np.load(tmp_path / name / "drawn-colors/lora/shots1_seed0/arrays.npz") as arrays:
            scores.append(arrays["probabilities"])
    assert np.array_equal(*scores)


def test_an_image_tower_without_text_is_probed_and_has_no_zero_shot(root, clip, tmp_path):
    settings = Elevater(epochs=1, extra_epochs=0, rate=(1e-2, 1e-4))
    assert run_one(clip.visual, root, tmp_path, "drawn-colors", "linear-probe", 2, settings)["score"] > 12.5
    with pytest.raises(ValueError, match="has no text tower"):
        run_one(clip.visual, root, tmp_path, "drawn-colors", "zero-shot")


def test_adapters_train_in_the_probes_place(root, clip, tmp_path):
    before = {k: v.clone() for k, v in clip.visual.state_dict().items()}
    settings = Elevater(epochs=1, extra_epochs=0, rate=(1e-2, 1e-4))
    found = run_one(clip, root, tmp_path, "drawn-colors", "lora", 1, settings)
    assert found["trained_parameters"] > 96 * 8 + 8
    assert found["trials"] == 0
    assert all(torch.equal(before[k], v) for k, v in clip.visual.state_dict().items())


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("linear-probe", dict(merge_projection=True)),
        ("fine-tune", dict(normalize=True, logit_scale_init="pretrained", channel_bn=False)),
    ],
)
def test_a_text_initialized_start_keeps_what_zero_shot_knows(root, clip, tmp_path, method, options):
    settings = Elevater(epochs=1, extra_epochs=0, rate=(1e-5, 0.0), **options)
    found = run_one(clip, root, tmp_path, "drawn-colors", method, 1, settings)
    assert found["score"] > 60
    inside = {"linear-probe": 128, "fine-tune": 96}[method]
    assert found["trained_parameters"] >= inside * 8 + 8


def test_features_equal_the_encoder_and_are_kept(root, clip, tmp_path):
    run = job_run(root, clip, tmp_path, merge_projection=True)
    (test,) = run.plan.tests.values()
    first, raw = run.bench.features(test), run.samples(test).feature
    assert len(list((tmp_path / "features").glob("*.pt"))) == 2, "with the projection and without"
    again = job_run(root, clip, tmp_path).bench
    again.run = None  # nothing is left to compute
    assert torch.equal(first, again.features(test))
    images = Pictures(run.source.test, range(30))
    assert torch.allclose(first, encode(clip, images[torch.arange(30)]), atol=1e-5)
    assert torch.allclose(raw @ clip.visual.proj.weight.t(), first, atol=1e-4)
    assert (first.shape[1], raw.shape[1]) == (96, 128)
    classifier = ImageClassifier(clip.visual, [], LinearProbe(96, 8)).eval()
    assert torch.allclose(classifier(images[torch.arange(4)]), classifier.head(first[:4]), atol=1e-4)


def test_digits_of_scikit_learn_are_written_in_the_layout(tmp_path):
    pytest.importorskip("sklearn")
    write_digits(tmp_path, 30, 20)
    data = read_dataset(tmp_path, "sklearn-digits")
    assert (data.num_classes, len(data.train), len(data.test)) == (10, 30, 20)
    assert [e.classes[0] for e in data.train[:12]] == [*range(10), 0, 1]
    image = ElevaterImages(data, "train", 8)[0]["image"]
    assert image[0, 0, 3] == round(13 * 255 / 16)  # of the first digit's first row
    with pytest.raises(ValueError, match="1797"):
        write_digits(tmp_path, 1700, 100)


@pytest.mark.slow
def test_a_search_on_kept_features_encodes_every_image_once(root, clip, tmp_path):
    """However many trials there are; the reported ratio is that of the times beside it."""
    rows = []
    hook = clip.visual.blocks[0].register_forward_hook(lambda module, inputs, output: rows.append(len(inputs[0])))
    job = job_run(root, clip, tmp_path, shots=5, epochs=1)
    pools = job.pools()
    found = job.search(job.fitter(job.classifier()), pools)
    hook.remove()
    assert len(found.trials) >= 60
    assert sum(rows) == sum(len(part.label) for part in (pools.train, pools.val, pools.test))
    told = search_speed(clip, root, "drawn-colors", shots=5, trials=1)
    assert told["encoder_search"] == pytest.approx(told["trials"] * told["encoder_trial"])
    assert told["ratio"] == pytest.approx(told["encoder_search"] / told["kept_search"])


def test_efficiency_discounts_trained_weights():
    assert efficiency(80, 0) == 80
    assert efficiency(80, 10**8) == pytest.approx(80 * np.exp(-np.log10(2)))


def test_command_line(root, tmp_path, capsys):
    assert main(["check", str(root)]) == 1
    out = capsys.readouterr().out
    assert "0 of 20" in out
    assert "not evaluated (detection) Aquarium" in out
    assert main(["run", str(root), str(tmp_path), "--datasets", "nothing"]) == 2
    assert "no folder of 'nothing'" in capsys.readouterr().err
    short = ["--methods", "linear-probe", "--shots", "2", "--seeds", "0", "--epochs", "1", "--rate", "0.01", "0"]
    assert main(["run", str(root), str(tmp_path), "--datasets", "drawn-colors", *short, "--extra-epochs", "0"]) == 0
    assert "| linear-probe | 2 x 1 seeds |" in capsys.readouterr().out
    config = tmp_path / "plan.py"
    config.write_text("method = ['zero-shot']\n")
    assert main(["run", str(root), str(tmp_path), "--config", str(config)]) == 2
    assert "did you mean 'methods'" in capsys.readouterr().err


def test_a_run_that_fails_leaves_the_others_their_turn(root, tmp_path, capsys):
    words = ["run", str(root), str(tmp_path), "--datasets", "drawn-colors", "drawn-scenes", "--methods", "no-such"]
    short = ["zero-shot", "--shots", "1", "--seeds", "0", "--rate", "0.01", "0", "--epochs", "1"]
    assert main([*words, *short]) == 2
    found = capsys.readouterr()
    assert "drawn-colors, no-such, 1 shots, seed 0: FAILED" in found.err
    assert "2 of 4 runs failed" in found.err
    assert "| zero-shot | 0 |" in found.out


@pytest.mark.parametrize(
    ("line", "words", "option"),
    [
        ("methods = ['zero-shot']", ["--methods", "lora"], "--methods"),
        ("seeds = [4]", ["--seeds", "0"], "--seeds"),
        ("sources = ['drawn-colors']", ["--datasets", "drawn-scenes"], "--datasets"),
        ("encoder = dict(type='tiny_clip')", ["--encoder-options", "{}"], "--encoder-options"),
        ("protocol = dict(epochs=1)", ["--epochs", "3"], "--epochs"),
        ("protocol = dict(text_init=True)", ["--no-text-init"], "--no-text-init"),
    ],
)
def test_an_option_that_the_config_sets_too_is_refused(root, tmp_path, capsys, line, words, option):
    config = tmp_path / "plan.py"
    config.write_text(line + "\n")
    assert main(["run", str(root), str(tmp_path), "--config", str(config), *words]) == 2
    assert f"already: leave out {option}" in capsys.readouterr().err


def test_options_fill_what_the_config_leaves_open(root, tmp_path):
    config = tmp_path / "plan.py"
    config.write_text("sources = ['drawn-colors']\nprotocol = dict(epochs=7)\n")
    words = ["run", str(root), str(tmp_path), "--config", str(config), "--shots", "full", "2", "--rate", "0.1", "0"]
    encoder, names, methods, shots, seeds, settings = read_plan(parser().parse_args(words))
    assert encoder == {"type": "tiny_clip"}
    assert (names, methods) == (["drawn-colors"], ["zero-shot", "linear-probe"])
    assert elevater_grid(tiny_clip(), root, names[0], methods, tmp_path).cells(shots, seeds) == [
        ("zero-shot", 0, 0),
        ("linear-probe", ALL, 0),  # nothing to draw: one seed
        *(("linear-probe", 2, seed) for seed in (0, 1, 2)),
    ]
    assert (settings.epochs, settings.extra_epochs, settings.rate, settings.text_init) == (7, 40, (0.1, 0.0), True)


# rules at their borders


def test_map11_leaves_out_classes_without_a_positive():
    score, label = np.array([[4.0, 1.0], [3.0, 2.0]]), np.array([[1, 0], [0, 0]])
    assert metrics.map11(score, label) == pytest.approx(100)


def in_seeded_order(labels, seed=0):
    """Labels placed so that the seeded shuffle looks at them in the order given."""
    order = list(range(len(labels)))
    random.Random(seed).shuffle(order)
    placed = [None] * len(labels)
    for at, label in zip(order, labels, strict=True):
        placed[at] = label
    return placed, order


@pytest.mark.parametrize(
    ("shots", "before", "sample", "taken"),
    [
        (4, [0, 0, 1, 1, 1, 1, 1, 1, 1], [0, 1], True),  # rarest 2 = half of the shots, though 1 has 7 > 6
        (4, [0, 0, 0, 1, 1, 1, 1, 1, 1], [0, 1], True),  # rarest 3, commonest 6 = one and a half of the shots
        (4, [0, 0, 0, 1, 1, 1, 1, 1, 1, 1], [0, 1], False),  # rarest 3, commonest 7
        (4, [0, 0, 0, 0, 1, 1, 1], [0], False),  # the class is full
        (4, [0, 0, 0, 0, 1], [0, 1], True),  # one class is full, the other is not
        (2, [0, 1, 1, 1, 1], [0, 1], True),  # rarest 1 = half of the shots
        (3, [0, 0, 1, 1, 1, 1, 1], [0, 1], False),  # rarest 2 > 1.5, commonest 5 > 4.5
    ],
)
def test_the_few_shot_rule_at_its_borders(shots, before, sample, taken):
    """A third class keeps the draw going; samples of class 1 alone are taken beside a rare class 3."""
    # class 1 grows beyond the shots because each of its samples also shows a class of its own that has none yet
    rare = iter(range(3, 50))
    counts = {0: 0, 1: 0}
    labels = []
    for label in before:
        counts[label] += 1
        labels.append([label] if counts[label] <= shots and label == 0 else [label, next(rare)])
    placed, order = in_seeded_order([*labels, sample])
    drawn = few_shot_subset(placed, shots, 0, num_classes=60)
    assert drawn[: len(before)] == order[: len(before)]
    assert (order[len(before)] in drawn) == taken


def test_validation_of_several_labels_serves_the_lowest_class_first():
    """Class 0 takes its first sample, which shows class 2 too; class 2 is then served, class 1 takes its own first."""
    labels = [[2], [1, 2], [0, 2], [0], [1], [2]]
    train, val = validation_split(labels, share=0.2)
    assert (train, val) == ([0, 3, 4, 5], [1, 2])  # 0: number 2; 1: number 1; 2: served twice over
    with pytest.raises(ValueError, match="between 0 and 1"):
        validation_split(labels, 1.0)


def test_the_grids_are_the_benchmarks():
    space = RateSpace()
    assert space.learning_rates == pytest.approx([1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1])
    assert np.log10(space.weight_decays).tolist() == pytest.approx([-6 + i / 8 for i in range(97)], abs=1e-9)
    assert space.initial == (0, 16, 32, 48, 64, 80, 96)
    assert space.spans == (8, 4, 2, 1)


def test_the_default_settings_are_the_benchmarks():
    s = Elevater()
    assert (s.epochs, s.epochs + s.extra_epochs, s.batch_size) == (10, 50, 64)
    assert (s.channel_bn, s.merge_val, s.rate) == (True, True, None)


# the probe, written out


@pytest.mark.parametrize(
    ("kind", "factor"), [("none", 1.0), ("clip", 1 / 0.07), ("ln_cls", np.log(10)), ("pretrained", np.exp(2.5))]
)
def test_factors_on_the_logits(kind, factor):
    probe = LinearProbe(4, 10, channel_bn=False, logit_scale_init=kind, pretrained_scale=2.5)
    x = torch.randn(3, 4)
    want = factor * (x @ probe.fc.weight.t() + probe.fc.bias)
    assert torch.allclose(probe(x), want, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="did you mean 'clip'"):
        LinearProbe(4, 10, logit_scale_init="clipp")


def test_features_are_normalized_behind_the_batch_norm():
    probe, x = LinearProbe(4, 3, normalize=True).train(), 5 * torch.randn(6, 4) + 2
    y = (x - x.mean(0)) / (x.var(0, correction=0) + 1e-5).sqrt()
    y = y / y.norm(dim=1, keepdim=True)
    assert torch.allclose(probe(x), y @ probe.fc.weight.t() + probe.fc.bias, atol=1e-5)
    assert [n for n, p in probe.named_parameters() if p.requires_grad] == ["fc.weight", "fc.bias"]


def test_the_probe_trains_as_torch_written_out():
    """SGD with momentum 0.9 and decay on weight and bias: v = 0.9 v + g + d w, w = w - r v."""
    x, label = torch.randn(8, 4, generator=torch.Generator().manual_seed(2)), torch.arange(8) % 3
    probe = LinearProbe(4, 3, channel_bn=False)
    found = fit_probe(probe, LabeledInputs(x, label), LabeledInputs(x, label), 0.1, 0.05, epochs=4).probe
    w, b = probe.fc.weight.detach().double(), probe.fc.bias.detach().double()
    speed = [torch.zeros_like(w), torch.zeros_like(b)]
    for _ in range(4):
        error = (x.double() @ w.t() + b).softmax(1) - torch.eye(3, dtype=torch.float64)[label]
        grads = error.t() @ x.double() / 8, error.mean(0)
        speed = [0.9 * v + g + 0.05 * p for v, g, p in zip(speed, grads, (w, b), strict=True)]
        w, b = w - 0.1 * speed[0], b - 0.1 * speed[1]
    assert torch.allclose(found.fc.weight.double(), w, atol=1e-5)
    assert torch.allclose(found.fc.bias.double(), b, atol=1e-5)


def test_several_labels_have_a_binary_loss():
    logits, label = torch.randn(3, 4), torch.tensor([[1.0, 0, 1, 0], [0, 0, 0, 1], [1, 1, 1, 1]])
    p = logits.double().sigmoid()
    want = -(label * p.log() + (1 - label) * (1 - p).log()).mean().item()
    assert objective(logits, label).item() == pytest.approx(want, abs=1e-5)
    hard = torch.tensor([0, 3, 1])
    want = -logits.double().log_softmax(1)[torch.arange(3), hard].mean().item()
    assert objective(logits, hard).item() == pytest.approx(want, abs=1e-5)


def test_the_first_best_epoch_and_the_last_are_told_apart():
    """Scores 60, 80, 70, 80: the best is the second epoch's, and each probability table goes with its score."""
    scores, seen = [60.0, 80.0, 70.0, 80.0], []

    def measure(probabilities, label):
        seen.append(probabilities)
        return scores[len(seen) - 1]

    x = LabeledInputs(torch.randn(6, 4), torch.arange(6) % 2)
    found = fit_probe(LinearProbe(4, 2), x, x, 0.5, 0.0, epochs=4, measure=measure)
    assert (found.best, found.last) == (80.0, 80.0)
    assert np.array_equal(found.best_probabilities, seen[1])
    assert np.array_equal(found.last_probabilities, seen[3])
    assert not np.allclose(seen[1], seen[3])
    assert seen[0].sum(1) == pytest.approx(np.ones(6), abs=1e-5)


def test_a_last_single_sample_joins_the_batch_before():
    data = LabeledInputs(torch.arange(9.0)[:, None], torch.arange(9))
    sizes = lambda size: [len(y) for _, y in batches(data, size, torch.Generator().manual_seed(0))]  # noqa: E731
    assert sizes(4) == [4, 5]
    assert sizes(5) == [5, 4]
    assert sizes(9) == [9]
    seen = torch.cat([y for _, y in batches(data, 4, torch.Generator().manual_seed(0))])
    assert sorted(seen.tolist()) == list(range(9))


# what a job does


def job_run(root, clip, tmp_path, dataset="drawn-colors", method="linear-probe", shots=ALL, **settings):
    grid = elevater_grid(clip, root, dataset, [method], tmp_path, Elevater(**settings))
    return JobRun(grid.bench, grid.plan(grid.methods[method], shots, 0), method, grid.protocol)


def test_pools_of_one_shot_few_shots_and_all(root, clip, tmp_path):
    """One shot is one sample a class to train and one to validate; of five, one; of all, a fifth of each class."""
    for shots, train, val in ((1, 1, 1), (5, 4, 1)):
        pools = job_run(root, clip, tmp_path, shots=shots).pools()
        labels = read_dataset(root, "drawn-colors").labels(read_dataset(root, "drawn-colors").train)
        have = Counter(labels)
        assert Counter(pools.train.label.tolist()) == {c: min(train, n - 1) for c, n in have.items()}
        assert Counter(pools.val.label.tolist()) == dict.fromkeys(have, val)
    pools = job_run(root, clip, tmp_path).pools()
    assert Counter(pools.val.label.tolist()) == {c: -(-n // 5) for c, n in have.items()}
    assert len(pools.train) + len(pools.val) == 60
    assert len(pools.test) == 30
    assert pools.search_train is pools.train


def test_a_full_run_of_a_large_set_searches_on_a_few_shots(root, clip, tmp_path, monkeypatch):
    monkeypatch.setitem(CARDS, "drawn-colors", dataclasses.replace(CARDS["mnist"], search_shots=2))
    monkeypatch.setattr("xmodal.evaluation.elevater_data.CARDS", {})
    pools = job_run(root, clip, tmp_path).pools()
    assert len(pools.train) + len(pools.val) == 60
    assert Counter(torch.cat([pools.search_train.label, pools.search_val.label]).tolist()) == dict.fromkeys(range(8), 2)
    pools = job_run(root, clip, tmp_path, shots=3).pools()
    assert pools.search_train is pools.train


@pytest.mark.parametrize(
    ("shots", "merge", "merged"), [(1, True, False), (2, True, True), (2, False, False), (ALL, True, True)]
)
def test_the_final_run_trains_on_validation_samples_too_but_for_one_shot(root, clip, tmp_path, shots, merge, merged):
    """Its score is that of the last epoch; the best one on the test set is told apart."""
    run = job_run(root, clip, tmp_path, shots=shots, merge_val=merge, rate=(0.1, 0.0), epochs=3, extra_epochs=4)
    calls, table = [], np.full((30, 8), 1 / 8)

    def fit(train, test, rate, decay, epochs):
        calls.append((len(train), len(test), rate, decay, epochs))
        return Fit(90.0, 70.0, table, table, None)

    run.fitter = lambda model: fit
    found, pools = run.train(), run.pools()
    assert calls == [(len(pools.train) + len(pools.val) * merged, 30, 0.1, 0.0, 7)]
    assert (found["score"], found["best_epoch_on_test"]) == (70.0, 90.0)


def test_the_search_takes_the_best_epoch_on_validation_samples(root, clip, tmp_path):
    space = RateSpace(learning_rates=(1e-3, 1e-2), initial=(0, 48), spans=())
    run = job_run(root, clip, tmp_path, shots=2, epochs=3, extra_epochs=0, space=space)
    calls, table = [], np.full((30, 8), 1 / 8)

    def fit(train, test, rate, decay, epochs):
        calls.append(len(test))
        return Fit(100 * rate + (decay == 1.0), 0.0, table, table, None)

    run.fitter = lambda model: fit
    found = run.train()
    assert (found["learning_rate"], found["weight_decay"]) == (0.01, pytest.approx(1.0))
    assert found["val_score"] == pytest.approx(2.0)
    assert (found["trials"], calls) == (4, [8] * 4 + [30])


def encode(clip, images):
    """Features of u8 images, written out."""
    mean, std = (torch.tensor(v)[:, None, None] for v in (clip.visual.pixel_mean, clip.visual.pixel_std))
    with torch.no_grad():
        return clip.visual((images / 255 - mean) / std)


def test_zero_shot_probabilities_by_the_formula(root, clip, tmp_path):
    run = job_run(root, clip, tmp_path, method="zero-shot")
    found, data = run.zero_shot(), run.data
    images = encode(clip, Pictures(run.source.test, range(30))[torch.arange(30)]).double()
    words = [[t.format(name) for t in data.templates] for name in data.class_names]
    text = class_weights(clip.encode_sentences, words).double()
    cosine = images / images.norm(dim=1, keepdim=True) @ text.t()
    assert np.allclose(found["probabilities"], (100 * cosine).softmax(1).numpy(), atol=1e-4)


def test_text_weights_are_mean_unit_features(clip):
    sentences = [["a photo of a red circle", "a blue square"], ["a star"]]
    want = []
    for own in sentences:
        each = [clip.encode_text(clip.tokenize([s]))[0].double() for s in own]
        mean = sum(e / e.norm() for e in each) / len(each)
        want.append(mean / mean.norm())
    assert torch.allclose(class_weights(clip.encode_sentences, sentences).double(), torch.stack(want), atol=1e-5)


def test_targets_of_one_and_of_several_labels():
    card = CARDS["voc-2007-classification"]
    entries = [Entry("a", (0, 2)), Entry("b", (1,))]
    several = DataSet(card, None, ["x", "y", "z"])
    assert several.targets(entries).tolist() == [[1, 0, 1], [0, 1, 0]]
    assert several.labels(entries) == [[0, 2], [1]]
    one = DataSet(CARDS["mnist"], None, ["x", "y", "z"])
    assert one.targets(entries[1:]).tolist() == one.labels(entries[1:]) == [1]


def test_the_newest_folder_is_read(tmp_path):
    for date in ("20210101", "20220303", "20211231"):
        (tmp_path / "classification" / f"mnist_{date}").mkdir(parents=True)
    (tmp_path / "classification" / "fmnist_20250101").mkdir()
    assert find_folder(tmp_path, CARDS["mnist"]).name == "mnist_20220303"


# the report


def result(dataset, seed, score, best, trained=1000, method="linear-probe", shots=5):
    return dict(model="m", dataset=dataset, method=method, shots=shots, seed=seed, score=score,
                best_epoch_on_test=best, trained_parameters=trained)  # fmt: skip


def test_the_summary_is_a_mean_over_seeds_then_over_sets():
    """Set a has three seeds with mean 60, set b one with 90: the mean is 75."""
    rows = summarize(
        [
            *(result("mnist", seed, score, score + 6) for seed, score in enumerate((50.0, 60.0, 70.0))),
            result("gtsrb", 0, 90.0, 93.0, trained=3000),
            {**result("mnist", 0, 76.0, 0.0, 0, "zero-shot", None), "best_epoch_on_test": 76.0},
            result("mnist", 0, 80.0, 80.0, 10**8, "fine-tune", 5),
        ]
    )
    assert [r["method"] for r in rows] == ["zero-shot", "linear-probe", "fine-tune"]
    row = rows[1]
    assert row["scores"] == {"mnist": 60.0, "gtsrb": 90.0}
    assert (row["mean"], row["mean_best_epoch_on_test"]) == (75.0, 79.5)
    assert (row["seeds"], row["trained_parameters"], row["of_benchmark"]) == ([0, 1, 2], 2000, 2)
    assert row["efficiency"] == pytest.approx(75 * np.exp(-np.log10(2000 / 1e8 + 1)))
    assert rows[0]["efficiency"] == 76.0
    assert rows[2]["efficiency"] == pytest.approx(80 * np.exp(-np.log10(2)))


@pytest.mark.parametrize(
    ("method", "shots", "said"), [("linear-probe", 5, 5), ("linear-probe", None, -1), ("zero-shot", None, 0)]
)
def test_a_submission_holds_millions_and_the_seeds_in_order(tmp_path, method, shots, said):
    results = []
    for seed in (2, 0, 1):
        own = {
            **result("mnist", seed, 50.0, 50.0, 772, method, shots),
            "total_parameters": 5_000_000,
            "visual_parameters": 2_000_000,
        }
        folder = tmp_path / str(seed)
        folder.mkdir()
        np.savez(folder / "arrays.npz", probabilities=np.full((2, 2), (seed + 1) / 7))
        results.append({**own, "folder": str(folder)})
    results = results[:1] if method == "zero-shot" or shots is None else results
    found = submission(results)
    assert found["num_trainable_params"] == pytest.approx(772e-6)
    assert found["num_params"] == pytest.approx(5.000772)
    assert (found["num_visual_params"], found["num_backbone_params"]) == (2.0, 5.0)
    assert (found["n_shot"], found["rnd_seeds"]) == (said, sorted(r["seed"] for r in results))
    if len(results) == 3:
        assert [p[0][0] for p in found["predictions"]] == [0.142857, 0.285714, 0.428571]  # six decimals
    with pytest.raises(ValueError, match="seeds of one model"):
        submission([results[0], {**results[0], "dataset": "gtsrb"}])


def test_kept_features_are_of_one_set_of_images_and_one_view(root, clip):
    """Of other images, another size or squeezed ones: each is a file of its own."""

    def key(size=48, crop=True, drop=0):
        source = elevater_source(root, "drawn-colors", size)
        if drop or not crop:
            data = source.train.data
            data.test, data.card = data.test[drop:], dataclasses.replace(data.card, center_crop=crop)
            source = dataclasses.replace(source, test=ElevaterImages(data, "test", size))
        return Bench(clip, [source]).name(("clip", "drawn-colors", "test", "plain"))

    assert key() == key()
    assert len({key(), key(size=32), key(crop=False), key(drop=1)}) == 4


def test_gray_stand_ins_are_not_kept_on_disk(root, clip, tmp_path):
    run = job_run(root, clip, tmp_path)
    run.source.test.ids[3] = "test.zip@none.png"
    run.samples(next(iter(run.plan.tests.values())))
    assert not list((tmp_path / "features").glob("*.pt"))
    assert list(run.about()["unreadable"]) == ["test.zip@none.png"]


def test_a_result_of_other_settings_is_run_again(root, clip, tmp_path):
    score, run = {}, lambda **s: run_one(clip, root, tmp_path, "drawn-colors", "zero-shot", settings=Elevater(**s))
    for name, options in (("a", {}), ("b", {"prompts": {"template_map": {"drawn-colors": ["{}"]}}}), ("c", {})):
        score[name] = run(**options)
    assert score["a"]["stamp"] == score["c"]["stamp"] != score["b"]["stamp"]
    path = tmp_path / "drawn-colors" / "zero-shot" / "shots0_seed0" / "result.json"
    there = json.loads(path.read_text())
    there["details"]["score"] = there["scores"]["drawn-colors"] = -1.0
    path.write_text(json.dumps(there))
    assert run()["score"] == -1, "of equal settings it is read"
    assert run(epochs=3)["score"] >= 0


def test_sizes_on_disk_are_compared_with_the_benchmarks(tmp_path):
    """A training list may hold the validation images too; nothing else."""
    folder = tmp_path / "classification" / "kitti-distance_20210923"
    folder.mkdir(parents=True)
    (folder / "labels.txt").write_text("a\nb\nc\nd\n")
    (folder / "test.txt").write_text("x.png 0\n" * 711)

    def problems(train):
        (folder / "train.txt").write_text("x.png 0\n" * train)
        return check(tmp_path, "kitti-distance", archives=False)["problems"]

    assert problems(6347) == problems(6347 + 423) == []
    assert problems(6348) == ["6348 images in train.txt, the benchmark has 6347"]
    (folder / "test.txt").write_text("x.png 0\n" * (711 + 423))
    assert problems(6347) == ["1134 images in test.txt, the benchmark has 711"]
