"""Protocols: samples, splits, rates, views, and what each plan lets train, validate and test."""

import json
import math
import random

import numpy as np
import pytest
import torch
from PIL import Image

from xmodal.data.pictures import center_crop, crop_box, random_crop
from xmodal.evaluation.coop_data import COOP11, IMAGENET_TEMPLATES, coop_source, read_coop
from xmodal.evaluation.fit import BestSoFar, learning_rates
from xmodal.evaluation.folders import DOMAINBED, read_domain, read_folder, read_shift
from xmodal.evaluation.images import ListedImages
from xmodal.evaluation.plans import (
    BaseToNew,
    Coop11,
    CrossDataset,
    DomainBed,
    DomainShift,
    Labeled,
    MultiTask,
    Tip,
    ZeroShot,
    join_parts,
)
from xmodal.evaluation.sampling import draw_coop, draw_tip, harmonic_mean, holdout_split
from xmodal.evaluation.splits import Item, Splits, read_split_file, split_hash
from xmodal.toys.shape_images import ShapeImages

LABELS = [2, 0, 1, 2, 0, 1, 1, 2, 0, 0, 1, 3]


def labeled(name="toy", classes=("a", "b", "c", "d"), labels=LABELS):
    return Labeled(name, classes, labels, labels[::-1], labels)


def test_coop_sample_is_pythons_own_stream():
    rng = random.Random(2)
    groups = {}
    for i, y in enumerate(LABELS):
        groups.setdefault(y, []).append(i)
    want = [i for items in groups.values() for i in (rng.sample(items, 2) if len(items) >= 2 else items)]
    random.seed(5)
    before = random.getstate()
    train, val = draw_coop(LABELS, LABELS, 2, 2)
    assert train == want
    assert random.getstate() == before, "the global stream is not touched"
    assert sorted(LABELS[i] for i in val) == [0, 0, 1, 1, 2, 2, 3]


def test_short_classes_repeat_under_tip_only():
    assert [LABELS[i] for i in draw_tip(LABELS, 3)].count(3) == 3
    assert [LABELS[i] for i in draw_coop(LABELS, [], 3, 1)[0]].count(3) == 1
    with pytest.raises(ValueError, match="shots=0"):
        draw_tip(LABELS, 0)


def test_base_and_new_share_no_class_and_the_sample_is_coops():
    plan, whole = BaseToNew().plan(labeled(), 2, 1), Coop11().plan(labeled(), 2, 1)
    base, new = plan.tests["base"], plan.tests["new"]
    assert (base.classes, new.classes) == (["a", "b"], ["c", "d"])
    assert set(new.labels) == {0, 1}
    assert set(plan.train[0].indices) < set(whole.train[0].indices)
    assert BaseToNew().summary({"base": 80.0, "new": 60.0})["harmonic_mean"] == pytest.approx(2 / (1 / 80 + 1 / 60))
    assert harmonic_mean(0.0, 5.0) == 0.0


def test_odd_class_counts_give_base_the_larger_half():
    plan = BaseToNew().plan(labeled(classes="abc", labels=[0, 1, 2] * 3), 1, 1)
    assert plan.tests["base"].classes == ["a", "b"]


def test_validation_differs_between_protocols():
    assert len(Coop11().plan(labeled(), 1, 1).val[0].indices) == 4
    assert len(Tip().plan(labeled(), 1, 1).val[0].indices) == len(LABELS)
    searched = Tip(search_on="test").plan(labeled(), 1, 1).val[0]
    assert searched.split == "test"
    with pytest.raises(ValueError, match="search_on"):
        Tip(search_on="train").plan(labeled(), 1, 1)
    assert ZeroShot().plan(labeled()).train == []


def test_targets_keep_their_own_classes():
    other = labeled("other", ("x", "y"), [0, 1, 0])
    plan = CrossDataset().plan(labeled(), 1, 1, [other])
    assert plan.tests["other"].classes == ["x", "y"]
    assert CrossDataset().summary({"toy": 90.0, "other": 50.0, "third": 70.0})["target_mean"] == 60.0
    with pytest.raises(ValueError, match="'x' is not among those of toy"):
        DomainShift().plan(labeled(), 1, 1, [other])
    some = labeled("some", ("b", "a"), [0, 1])
    assert DomainShift().plan(labeled(), 1, 1, [some]).tests["some"].classes == ["b", "a"]


def test_domainbed_leaves_one_out_and_splits_the_rest():
    domains = [labeled(n) for n in "ACPS"]
    plan = DomainBed(held_out="P").plan(domains[0], -1, 0, domains[1:])
    assert [p.source for p in plan.train] == ["A", "C", "S"]
    for inside, outside in zip(plan.train, plan.val, strict=True):
        assert sorted(inside.indices + outside.indices) == list(range(len(LABELS)))
        assert len(outside.indices) == int(0.2 * len(LABELS))
    assert list(plan.tests) == ["P"]
    again, other = holdout_split(50, 0, 1)[1], holdout_split(50, 1, 1)[1]
    assert np.array_equal(again, holdout_split(50, 0, 1)[1])
    assert not np.array_equal(again, other)
    with pytest.raises(ValueError, match="the domains are"):
        DomainBed(held_out="X").plan(domains[0], -1, 0)


def test_domainbed_split_is_the_releases():
    """md5 of the text of (trial, env) seeds a RandomState, whose shuffle puts the out-split first."""
    import hashlib

    seed = int(hashlib.md5(str((3, 2)).encode()).hexdigest(), 16) % 2**31
    keys = list(range(10))
    np.random.RandomState(seed).shuffle(keys)
    inside, outside = holdout_split(10, 3, 2)
    assert outside.tolist() == keys[:2]
    assert inside.tolist() == keys[2:]


def test_tasks_stand_one_behind_the_other():
    plan = MultiTask().plan(labeled("one", "ab", [0, 1]), 1, 1, [labeled("two", "xyz", [2, 0, 1])])
    joined = join_parts(plan.train)
    assert joined.classes == list("abxyz")
    assert joined.labels == [0, 1, 4, 2, 3]
    with pytest.raises(ValueError, match="nothing to train on"):
        join_parts([])


def test_best_so_far_keeps_the_first_of_equals():
    best = BestSoFar()
    assert [best.offer(s, k) for s, k in ((1.0, "a"), (3.0, "b"), (3.0, "c"))] == [True, True, False]
    assert (best.kept, best.at) == ("b", 1)


def test_rates():
    rates = learning_rates(1.0, 10, warmup_epochs=2, warmup_lr=1e-5)
    assert rates[:3] == [1e-5, 1e-5, 1.0]
    assert rates[-1] > 0.1, "the cosine starts from its own epoch 0 and does not reach 0"
    assert learning_rates(1.0, 10, 4, "linear")[:4] == [1e-5, 0.25, 0.5, 0.75]
    assert learning_rates(1.0, 10, 2, recount=False)[-1] < 0.1
    with pytest.raises(ValueError, match="choose one of constant, linear"):
        learning_rates(1.0, 10, warmup_type="lineal")


def make_splits(tmp_path):
    items = []
    for i in range(4):
        size = (40, 30) if i % 2 else (30, 50)
        Image.fromarray(np.full((*size[::-1], 3), 60 * i, np.uint8)).save(tmp_path / f"{i}.png")
        items.append(Item(f"{i}.png", i % 2, ("a_cat", "dog")[i % 2]))
    return Splits("toy", items[:2], items[2:3], items[3:], tmp_path)


def write_split_file(splits, path):
    content = {s: [[i.path, i.label, i.name] for i in getattr(splits, s)] for s in ("train", "val", "test")}
    path.write_text(json.dumps(content))


def test_split_files_are_read(tmp_path):
    splits = make_splits(tmp_path)
    write_split_file(splits, tmp_path / "split.json")
    again = read_split_file(tmp_path / "split.json", "toy", tmp_path)
    assert again == splits
    assert again.class_names == ["a cat", "dog"]
    assert again.counts() == (2, 2, 1, 1)
    (tmp_path / "bad.json").write_text(json.dumps({"train": [["x.png", 0]], "val": [], "test": []}))
    with pytest.raises(ValueError, match=r"is not \[path, label, class name\]"):
        read_split_file(tmp_path / "bad.json")
    (tmp_path / "half.json").write_text(json.dumps({"train": []}))
    with pytest.raises(ValueError, match="no split 'val'"):
        read_split_file(tmp_path / "half.json")
    with pytest.raises(ValueError, match="CoOp repository"):
        read_split_file(tmp_path / "none.json")


def test_a_hash_sees_order_and_labels():
    one = {"train": [("a", 0), ("b", 1)]}
    assert split_hash(one) == split_hash(dict(one))
    assert (
        len({split_hash(one), split_hash({"train": one["train"][::-1]}), split_hash({"train": [("a", 0), ("b", 0)]})})
        == 3
    )


def test_views_of_files(tmp_path):
    splits = make_splits(tmp_path)
    plain, augmented = (ListedImages(splits, "train", size=16, augment=a) for a in (False, True))
    item = plain[0]
    assert item["image"].shape == (3, 16, 16)
    assert item["image"].dtype == torch.uint8
    assert (item["label"], item["sample_id"]) == (0, "0.png")
    assert torch.equal(augmented[3, 1]["image"], augmented[3, 1]["image"])
    (tmp_path / "0.png").write_bytes(b"no image")
    assert plain[0]["skipped"] == "0.png"
    with pytest.raises(ValueError, match="did you mean 'train'"):
        ListedImages(splits, "trian")


def test_epochs_move_training_views_only():
    augmented, plain = (ShapeImages(per_class=1, augment=a) for a in (True, False))
    assert not torch.equal(augmented[0, 3]["image"], augmented[1, 3]["image"])
    assert torch.equal(plain[0, 3]["image"], plain[1, 3]["image"])
    other = ShapeImages("test", per_class=1)
    assert not torch.equal(plain[3]["image"], other[3]["image"])


def test_styles_are_other_pixels_of_the_same_pictures():
    plain, negative = ShapeImages(per_class=1), ShapeImages(per_class=1, style="negative")
    assert torch.equal(255 - plain[2]["image"], negative[2]["image"])
    gray = ShapeImages(per_class=1, style="gray")[2]["image"]
    assert torch.equal(gray[0], gray[1])
    with pytest.raises(ValueError, match="did you mean 'negative'"):
        ShapeImages(style="negativ")


def test_test_view_scales_the_short_side():
    ramp = Image.fromarray(np.tile(np.arange(60, dtype=np.uint8)[None, :, None], (30, 1, 3)))
    view = np.array(center_crop(ramp, 30))
    assert view.shape == (30, 30, 3)
    assert view[0, 0, 0] == 15
    assert np.array(center_crop(ramp, 10)).shape == (10, 10, 3)


def test_crop_boxes_stay_inside_and_have_the_area():
    rng = np.random.default_rng(0)
    for _ in range(50):
        left, top, right, bottom = crop_box(50, 40, (0.3, 0.6), rng)
        assert 0 <= left < right <= 50
        assert 0 <= top < bottom <= 40
        assert 0.25 < (right - left) * (bottom - top) / 2000 < 0.65


def test_the_table_of_data_sets():
    assert len(COOP11) == 11
    assert len(IMAGENET_TEMPLATES) == 7
    assert all(t.count("{}") == 1 for t in (*IMAGENET_TEMPLATES, *(d.template for d in COOP11.values())))
    assert COOP11["eurosat"].counts == (10, 13500, 5400, 8100)


def test_the_sentences_of_a_source_are_its_own_or_the_ensemble(tmp_path):
    (tmp_path / "eurosat").mkdir()
    write_split_file(make_splits(tmp_path), tmp_path / "eurosat" / "split_zhou_EuroSAT.json")
    assert coop_source("eurosat", tmp_path).templates == ("a centered satellite photo of {}.",)
    assert coop_source("eurosat", tmp_path, ensemble=True).templates == IMAGENET_TEMPLATES


def test_aircraft_and_imagenet_lists(tmp_path):
    folder = tmp_path / "fgvc_aircraft"
    folder.mkdir()
    (folder / "variants.txt").write_text("707-320\nA300B4\n")
    for split in ("train", "val", "test"):
        (folder / f"images_variant_{split}.txt").write_text("001 A300B4\n002 707-320\n")
    splits = read_coop(tmp_path, "fgvc_aircraft")
    assert [(i.path, i.label) for i in splits.val] == [("001.jpg", 1), ("002.jpg", 0)]
    images = tmp_path / "imagenet" / "images"
    for part in ("train", "val"):
        for wnid in ("n01", "n02"):
            (images / part / wnid).mkdir(parents=True)
            (images / part / wnid / "x.JPEG").write_bytes(b"")
    (tmp_path / "imagenet" / "classnames.txt").write_text("n01 tench\nn02 gold fish\n")
    splits = read_coop(tmp_path, "imagenet")
    assert splits.class_names == ["tench", "gold fish"]
    assert splits.val == splits.test
    with pytest.raises(ValueError, match="did you mean 'imagenet'"):
        read_coop(tmp_path, "imagnet")


def draw_folder(folder, classes, count=2):
    for number, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            pixels = np.full((20, 20, 3), 40 * number + i, np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")


def test_folders_of_classes(tmp_path):
    draw_folder(tmp_path / "made", ["a_dog", "cat"])
    splits = read_folder(tmp_path / "made")
    assert splits.class_names == ["a dog", "cat"]
    assert [(i.path, i.label) for i in splits.train] == [
        ("a_dog/0.png", 0),
        ("a_dog/1.png", 0),
        ("cat/0.png", 1),
        ("cat/1.png", 1),
    ]
    assert ListedImages(splits, "train", size=16)[2]["sample_id"] == "cat/0.png"
    with pytest.raises(ValueError, match="does not exist"):
        read_folder(tmp_path / "none")


def test_shifted_sets_take_their_names_from_imagenet(tmp_path):
    (tmp_path / "imagenet").mkdir()
    (tmp_path / "imagenet" / "classnames.txt").write_text("n01 tench\nn02 gold fish\nn03 shark\n")
    draw_folder(tmp_path / "imagenet-adversarial" / "imagenet-a", ["n01", "n03"])
    splits = read_shift(tmp_path, "imagenet_a")
    assert splits.class_names == ["tench", "shark"]
    draw_folder(tmp_path / "imagenetv2" / "imagenetv2-matched-frequency-format-val", ["0", "1", "2"])
    assert read_shift(tmp_path, "imagenetv2").class_names == ["tench", "gold fish", "shark"]
    (tmp_path / "imagenet-adversarial" / "imagenet-a" / "n09").mkdir()
    with pytest.raises(ValueError, match="n09: no class is called so"):
        read_shift(tmp_path, "imagenet_a")
    with pytest.raises(ValueError, match="did you mean 'imagenet_sketch'"):
        read_shift(tmp_path, "imagenet_skech")


def test_domains_are_the_folders_in_alphabetical_order(tmp_path):
    for number, domain in enumerate(("art_painting", "cartoon", "photo", "sketch")):
        draw_folder(tmp_path / "PACS" / domain, ["dog", "horse"], number + 1)
    photo = read_domain(tmp_path, "PACS", "P")
    assert (photo.dataset, len(photo.train)) == ("PACS/P", 6)
    with pytest.raises(ValueError, match="no domain 'X'; it has A, C, P, S"):
        read_domain(tmp_path, "PACS", "X")
    with pytest.raises(ValueError, match="should hold 4 domains, found 0"):
        read_domain(tmp_path, "VLCS", "C")
    assert {len(about.domains) for about in DOMAINBED.values()} == {4}


def test_validation_has_at_most_four_shots_from_the_same_stream():
    """Train, then validation, from one stream of Python's `random`."""
    train, val = [i % 3 for i in range(60)], [i % 3 for i in range(30)]
    for shots, checked in ((1, 1), (2, 2), (4, 4), (8, 4), (16, 4)):
        rng, want = random.Random(3), []
        for labels, count in ((train, shots), (val, checked)):
            groups = [[i for i, y in enumerate(labels) if y == k] for k in range(3)]
            want.append([i for items in groups for i in rng.sample(items, count)])
        assert list(draw_coop(train, val, shots, 3)) == want


def test_rates_by_the_formula():
    """After the warm-up half a cosine as long as the whole run, from its own epoch 0."""
    found = learning_rates(0.002, 50)
    assert found == pytest.approx([1e-5, *(0.002 * (1 + math.cos(math.pi * e / 50)) / 2 for e in range(49))])
    half = learning_rates(1.0, 10, 2, cosine_epochs=20)
    assert half[2:] == pytest.approx([(1 + math.cos(math.pi * e / 20)) / 2 for e in range(8)])
    counted = learning_rates(1.0, 10, 2, recount=False)
    assert counted[2:] == pytest.approx([(1 + math.cos(math.pi * e / 10)) / 2 for e in range(2, 10)])


def test_the_mean_over_tasks():
    assert MultiTask().summary({"one": 80.0, "two": 60.0, "three": 10.0}) == {"mean": 50.0}
    assert CrossDataset().summary({"toy": 90.0}) == {}


def test_domainbed_tests_on_the_in_split():
    """The held-out domain's own 80 %, split as if it trained; each environment has a stream of its own."""
    domains = [labeled(n, labels=[0, 1] * 10) for n in "ACPS"]
    plan = DomainBed(held_out="P").plan(domains[0], -1, 1, domains[1:])
    inside, outside = holdout_split(20, 1, 2)
    assert plan.tests["P"].indices == inside.tolist()
    assert [p.indices for p in plan.val] == [holdout_split(20, 1, env)[1].tolist() for env in (0, 1, 3)]
    assert (len(inside), len(outside)) == (16, 4)
    assert len({tuple(p.indices) for p in plan.val}) == 3


def test_half_of_the_training_views_are_mirrored():
    ramp = Image.fromarray(np.tile(np.arange(32, dtype=np.uint8)[None, :, None] * 8, (32, 1, 3)))
    rising = [
        np.asarray(random_crop(ramp, 8, np.random.default_rng(i), (0.5, 1.0), True))[4, :, 0].astype(int)
        for i in range(100)
    ]
    assert 30 < sum(row[-1] > row[0] for row in rising) < 70
    for i in range(10):
        row = np.asarray(random_crop(ramp, 8, np.random.default_rng(i), (0.5, 1.0), False))[4, :, 0].astype(int)
        assert row[-1] > row[0]


@pytest.mark.parametrize("size", [(61, 87), (87, 61), (48, 48), (50, 49)])
def test_test_views_are_torchvisions(size):
    from torchvision.transforms import functional as tv

    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8))
    want = tv.center_crop(tv.resize(picture, 48, tv.InterpolationMode.BICUBIC), [48, 48])
    assert np.array_equal(np.asarray(center_crop(picture, 48)), np.asarray(want))
