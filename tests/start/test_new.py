"""A folder or list of own files becomes a config that loads, builds and trains."""

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.tools.test_train_tools import tool
from tests.xmodal.test_own_formats import frames, picture
from xmodal.data.annotations import Sample
from xmodal.data.collate import collate
from xmodal.data.loader import build_dataset
from xmodal.engine.config import load_config
from xmodal.engine.sizes import check_input, input_size, sized
from xmodal.registry import MODELS, build
from xmodal.start import found, look, recipes
from xmodal.start.groups import group_of
from xmodal.start.split import split
from xmodal.start.write import Wish, write


def new(folder, source, **wish):
    said = []
    wish = {"encoder": "tiny-clip", "out": str(folder / "mine.py"), **wish}
    write(Wish(str(source), **wish), said.append)
    return load_config(wish["out"]), "\n".join(said)


def step(cfg):
    """Build model and data as a run does, and return the loss of a batch."""
    model = build(cfg.model, MODELS)
    data = build_dataset(sized(cfg.train_dataloader.dataset, input_size(model)))
    check_input(model, data, "train")
    test = build_dataset(sized(cfg.test_dataloader.dataset, input_size(model)))
    check_input(model, test, "test", data)
    batch = model.data_preprocessor(collate([data[0, i] for i in range(2)]), True)
    loss = sum(v for k, v in model(**batch, mode="loss").items() if "loss" in k)
    assert torch.isfinite(loss)
    return model, data, test


def clips(folder, classes=("walk", "jump"), count=6, length=9):
    for number, name in enumerate(classes):
        for i in range(count):
            frames(folder / name / f"clip {i}", length, size=(20 + number + i, 26))
    return folder


def photos(folder, classes=("cat", "dog"), count=6):
    for number, name in enumerate(classes):
        for i in range(count):
            picture(folder / name / f"{name}{i}.png", 40 * number + i, (60, 70))
    return folder


def test_a_folder_of_classes(tmp_path, monkeypatch):
    data = photos(tmp_path / "my photos")
    (data / "cat" / "torn.png").write_bytes(b"torn")
    shutil.copy(data / "cat" / "cat0.png", data / "cat" / "other name.png")
    cfg, said = new(tmp_path, data)
    assert "14 images: a folder of images a class" in said
    assert "torn.png: " in said
    assert "2 files are equal to others; equal ones are in one split" in said
    assert "sizes: 70x60 (13)" in said
    assert cfg.model.head.num_classes == 2
    _, train, _test = step(cfg)
    assert train.classes == ["cat", "dog"]
    lists = [(tmp_path / "mine_split" / f"{part}.txt").read_text() for part in ("train", "val", "test")]
    assert sum(text.count("\n") for text in lists) == 13
    assert sum(("cat0.png" in text) and ("other name.png" in text) for text in lists) == 1
    assert "torn.png" not in "".join(lists)
    assert {y for text in lists for y in [x.split("\t")[1] for x in text.splitlines()]} == {"0", "1"}
    with pytest.raises(ValueError, match=r"mine.py is there already: --out"):
        new(tmp_path, data)
    again = tmp_path / "again"
    again.mkdir()
    new(again, data)
    assert (again / "mine_split/test.txt").read_text() == lists[2]  # seeded
    other = tmp_path / "other"
    other.mkdir()
    new(other, data, seed=1)
    assert (other / "mine_split/test.txt").read_text() != lists[2]


def test_frame_folders(tmp_path):
    cfg, said = new(tmp_path, clips(tmp_path / "films"))
    assert "12 videos: a folder of videos a class" in said
    assert "frames: 9 to 9" in said
    model, train, _ = step(cfg)
    assert train[0, 0]["clips"].shape == (1, 8, 3, 48, 48)
    assert model.encoder.image_size == 48


@pytest.mark.parametrize("method", ["evl", "probe", "attentive-probe", "lora", "finetune"])
def test_methods_for_videos(tmp_path, method):
    cfg, _ = new(tmp_path, clips(tmp_path / "films"), method=method)
    model, _, _ = step(cfg)
    assert bool(cfg.get("cache")) == (method in ("evl", "probe", "attentive-probe"))
    if cfg.get("cache"):
        assert model.boundary() == 4  # the whole tower is frozen, so that it can be cached


def test_folders_of_splits(tmp_path):
    for part in ("training", "validation", "test"):
        photos(tmp_path / "set" / part, count=2)
    cfg, said = new(tmp_path, tmp_path / "set")
    assert "folders training, validation, test" in said or "training" in said
    assert "cat  2 / 2 / 2" in said
    assert "WARNING: 8 files are in two splits by their content" in said  # made alike in all three
    step(cfg)
    shutil.rmtree(tmp_path / "set" / "validation")
    cfg, said = new(tmp_path, tmp_path / "set", out=str(tmp_path / "b.py"))
    assert "no validation split was there" in said


def test_tables_with_splits_and_groups(tmp_path):
    rows = []
    for person in range(6):
        for i in range(4):
            name = f"p{person}_{i}.png"
            picture(tmp_path / "images" / name, 10 * person + i, (50, 50 + i))
            rows.append((name, ("cat", "dog")[i % 2], f"person {person}"))
    text = "file,label,subject\n" + "".join(f"{','.join(row)}\n" for row in rows)
    (tmp_path / "all.csv").write_text(text)
    _, said = new(tmp_path, tmp_path / "all.csv")
    assert "groups by its column 'subject'" in said
    owners = {}
    for part in ("train", "val", "test"):
        for line in (tmp_path / f"mine_split/{part}.txt").read_text().splitlines():
            owners.setdefault(line.split("/")[-1].split("_")[0], set()).add(part)
    assert len(owners) == 6
    assert all(len(parts) == 1 for parts in owners.values())
    assert set.union(*owners.values()) == {"train", "val", "test"}
    parts = ["train"] * 12 + ["valid"] * 6 + ["test"] * 6
    text = "file,label,split\n" + "".join(f"{r[0]},{r[1]},{p}\n" for r, p in zip(rows, parts, strict=True))
    (tmp_path / "split.csv").write_text(text)
    _, said = new(tmp_path, tmp_path / "split.csv", out=str(tmp_path / "b.py"))
    assert "splits by its column 'split'" in said
    assert "cat  6 / 3 / 3" in said


def test_lists_of_splits_with_names_or_numbers(tmp_path):
    photos(tmp_path / "images")
    lines = [f"{c}/{c}{i}.png" for c in ("cat", "dog") for i in range(6)]
    for part, rows in (("train", lines[::2]), ("val", lines[1::2])):
        (tmp_path / f"{part}.txt").write_text("".join(f"{row},{row[:3]}\n" for row in rows))
    cfg, said = new(tmp_path, tmp_path / "train.txt")
    assert "list (train.txt, val.txt)" in said
    assert cfg.train_dataloader.dataset.classes == ["cat", "dog"]
    assert "test_dataloader" in cfg  # the validation data
    (tmp_path / "numbers.txt").write_text("".join(f"images/{row} {int('dog' in row)}\n" for row in lines))
    (tmp_path / "classes.txt").write_text("Cat\nDog\n")
    cfg, _ = new(tmp_path, tmp_path / "numbers.txt", out=str(tmp_path / "b.py"))
    assert cfg.train_dataloader.dataset.classes == ["Cat", "Dog"]


def test_several_labels_a_file(tmp_path):
    text = "path,labels\n"
    for i in range(12):
        picture(tmp_path / f"x{i}.png", i, (50, 60))
        text += f"x{i}.png,{('red;round', 'red', 'blue', '')[i % 4]}\n"
    (tmp_path / "tags.csv").write_text(text)
    cfg, said = new(tmp_path, tmp_path / "tags.csv")
    assert "several classes each" in said
    assert cfg.default_hooks.checkpoint.best == "mAP"
    _, train, _ = step(cfg)
    assert train.multilabel
    assert train.classes == ["blue", "red", "round"]


def test_clouds(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("box", "ball"):
        (tmp_path / "clouds" / name).mkdir(parents=True)
        for i in range(4):
            np.save(tmp_path / "clouds" / name / f"{i}.npy", rng.normal(size=(600, 3)).astype(np.float32))
    (tmp_path / "clouds" / "box" / "torn.npy").write_bytes(b"torn")
    cfg, said = new(tmp_path, tmp_path / "clouds")
    assert "9 clouds: a folder of clouds a class" in said
    assert "points: 600 to 600" in said
    assert "torn.npy" in said
    assert cfg.default_hooks.checkpoint.best == "top1"  # what CloudAccuracy reports
    step(cfg)


def test_folders_of_splits_in_each_class(tmp_path):
    """ModelNet40's release: `chair/train/chair_0001.off`."""
    rng = np.random.default_rng(0)
    for name, part, count in (
        ("box", "train", 5),
        ("box", "test", 3),
        ("tv_stand", "train", 4),
        ("tv_stand", "test", 2),
    ):
        (tmp_path / "ModelNet" / name / part).mkdir(parents=True)
        for i in range(count):
            np.savetxt(tmp_path / "ModelNet" / name / part / f"{name}_{i:04d}.xyz", rng.normal(size=(9, 3)))
    _, said = new(tmp_path, tmp_path / "ModelNet")
    assert "a folder of clouds a class, with folders train, test in each" in said
    tested = [line.split("\t") for line in (tmp_path / "mine_split" / "test.txt").read_text().splitlines()]
    folders = [(Path(path).parts[-3:-1], label) for path, label in tested]
    assert sorted(set(folders)) == [(("box", "test"), "0"), (("tv_stand", "test"), "1")]
    assert len(folders) == 5
    assert all("/train/" in line for p in ("train", "val") for line in (tmp_path / "mine_split" / f"{p}.txt").open())


def test_kinetics_and_something_something(tmp_path):
    from tests.tools.test_video_tools import VIDEOS

    assert VIDEOS.noun == "video"
    rows = ["label,youtube_id,time_start,time_end,split"]
    for label in ("dancing", "eating cake"):
        for i in range(4):
            name = f"{label[:3]}abcdefg{i:01d}"
            frames(tmp_path / "k" / "train" / f"{name}_000001_000011", 5)
            rows.append(f"{label},{name},1,11,train")
    (tmp_path / "k" / "train.csv").write_text("\n".join(rows) + "\n")
    cfg, said = new(tmp_path, tmp_path / "k")
    assert "8 videos: kinetics (train.csv)" in said
    assert cfg.train_dataloader.dataset.classes == ["dancing", "eating cake"]
    assert "no validation split was there" in said


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: p / "nothing", "there is no folder or list at"),
        (lambda p: p / "empty", "holds no videos, images or clouds"),
        (lambda p: photos(p / "one", classes=("cat",)), "have only the class 'cat'; at least two"),
        (lambda p: photos(p / "few", count=1), "too few images"),
    ],
)
def test_mistakes_are_named(tmp_path, make, message):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=message):
        new(tmp_path, make(tmp_path))
    assert not (tmp_path / "mine.py").exists()


def test_the_tool_ends_mistakes_with_a_line(tmp_path, capsys):
    data = photos(tmp_path / "set")
    assert tool("new")([str(data), "--encoder", "tiny-clop", "--out", str(tmp_path / "a.py")]) == 2
    assert "did you mean 'tiny-clip'?" in capsys.readouterr().err
    assert tool("new")([str(data), "--encoder", "tiny-clip", "--method", "evl", "--out", str(tmp_path / "a.py")]) == 2
    assert "no method 'evl' for images with tiny-clip: choose" in capsys.readouterr().err
    assert tool("new")([str(data), "--encoder", "tiny-clip", "--out", str(tmp_path / "a.py")]) == 0
    out = capsys.readouterr().out
    for word in ("xmodal train ", "xmodal test work_dirs/a/best.pth", "xmodal predict work_dirs/a/best.pth "):
        assert word in out


def test_a_note_on_classes_out_of_balance(tmp_path):
    photos(tmp_path / "set", classes=("cat",), count=30)
    photos(tmp_path / "set", classes=("dog",), count=4)
    _, said = new(tmp_path, tmp_path / "set")
    assert "classes are out of balance: " in said
    text = (tmp_path / "mine.py").read_text()
    assert "balanced=True draws all classes equally often: " in text
    assert 'class_weights="balanced"' in text


def test_every_encoder_recipe_loads(tmp_path):
    for name in ("ViT-B-16-quickgelu", "vit_small_patch16_224.augreg_in21k", "resnet18"):
        recipe = recipes.encoder_of(name)
        assert recipe.convolutional == (name == "resnet18")
        assert name in recipe.text
    assert recipes.method_of(None, "image", recipes.encoder_of("resnet18"), True) == "conv-adapter"
    assert recipes.method_of(None, "video", recipes.encoder_of("ViT-B-16-quickgelu"), True) == "st-adapter"
    assert recipes.method_of(None, "video", recipes.encoder_of("ViT-B-16-quickgelu"), False) == "evl"


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("Bowling/v_Bowling_g08_c01.avi", "g08"),
        ("walk/subject3_take2.mp4", "subject3"),
        ("abseiling/0347ZoDXyP0_000095_000105.mp4", "0347zodxyp0"),
        ("film_part3.mp4", "film"),
        ("a/clip 7.mp4", None),
        ("cats/cat001.jpg", None),
    ],
)
def test_groups_by_names(name, group):
    assert group_of(name) == group


def test_a_split_is_stratified_and_keeps_groups():
    samples = [Sample(f"{c}/{i}", c, f"{c}/{i}") for c in range(3) for i in range(20)]
    parts = split(samples, {})
    for part, count in (("train", 14), ("val", 3), ("test", 3)):
        assert Counter(s.label for s in parts[part]) == {0: count, 1: count, 2: count}
    assert split(samples, {}) == parts
    assert split(samples, {}, seed=1) != parts
    groups = {s.path: f"{s.label}-{int(s.path.split('/')[1]) // 5}" for s in samples}
    parts = split(samples, groups)
    places = {}
    for part, members in parts.items():
        for s in members:
            places.setdefault(groups[s.path], set()).add(part)
    assert all(len(p) == 1 for p in places.values())
    assert all({s.label for s in members} == {0, 1, 2} for members in parts.values())
    few = split([Sample("a", 0, "a"), Sample("b", 1, "b"), Sample("c", 1, "c")], {})
    assert "a" in {s.path for s in few["train"]}  # the only one of a class is for training
    assert len(few["val"]) == 1


def test_equal_files_are_found_by_content(tmp_path):
    a, b = picture(tmp_path / "a.png", 3), picture(tmp_path / "b.png", 4)
    shutil.copy(a, tmp_path / "c.png")
    frames(tmp_path / "x", 3)
    shutil.copytree(tmp_path / "x", tmp_path / "y")
    paths = [str(p) for p in (a, b, tmp_path / "c.png", tmp_path / "x", tmp_path / "y")]
    assert look.equal_files(paths) == [[paths[0], paths[2]], [paths[3], paths[4]]]
    parts = {"train": [Sample(paths[0], 0, "a")], "val": [Sample(paths[2], 0, "c")]}
    assert look.shared(look.equal_files(paths), parts) == [(paths[0], paths[2])]


def test_images_of_numbered_names_are_no_frames(tmp_path):
    for name in ("cat", "dog"):
        for i in range(5):
            picture(tmp_path / "flat" / name / f"{name}_{i:03d}.png", i)
    assert found.task_of_folder(tmp_path / "flat") == "image"
    assert found.task_of_folder(clips(tmp_path / "clips")) == "video"
    Image.new("RGB", (4, 4)).save(tmp_path / "x.png")


def test_any_name_survives_in_the_config(tmp_path):
    odd = tmp_path / 'it\'s "my" set \\ here'
    photos(odd, classes=("it's", 'the "x"', "back\\slash"), count=4)
    cfg, _ = new(tmp_path, odd)
    assert sorted(cfg.train_dataloader.dataset.classes) == sorted(["it's", 'the "x"', "back\\slash"])
    step(cfg)
