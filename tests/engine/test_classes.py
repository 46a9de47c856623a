"""The training set's class names rule, for every format, in validation and in tests of a checkpoint."""

import json
import logging
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from tests.engine.toy import write_config
from video.annotations import VIDEOS
from video.datasets import VideoDataset
from xmodal.data.broken import renumbered
from xmodal.data.images import ImageDataset
from xmodal.engine import classes, launch
from xmodal.engine.checkpoint import read
from xmodal.heads.base import check_range

COLORS = {"a_red": (220, 30, 30), "b_green": (30, 200, 30), "c_blue": (30, 30, 220), "d_white": (240, 240, 240)}


def paint(root, names, count=3):
    for name in names:
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            Image.new("RGB", (32, 32), COLORS.get(name, (90, 90, 90))).save(root / name / f"{i}.png")
    return root


CONFIG = """
from torch.optim import AdamW
from xmodal.data.images import ImageDataset
from xmodal.encoders.tiny import tiny_clip_encoder
from xmodal.engine.schedule import CosineSchedule
from xmodal.heads.classification import ClassificationHead
from xmodal.metrics import Accuracy
from xmodal.model import TransferModel

_crop = [dict(type="image_resize", size=48), dict(type="center_crop", size=48)]
_head = dict(type=ClassificationHead, num_classes={count})
model = dict(type=TransferModel, encoder=dict(type=tiny_clip_encoder), head=_head)
_images = dict(type=ImageDataset, transforms=_crop)
train_dataloader = dict(batch_size=6, dataset=dict(_images, annotation="{root}/train"))
val_dataloader = dict(batch_size=6, dataset=dict(_images, annotation="{root}/val", test_mode=True))
test_dataloader = val_dataloader
val_evaluator = dict(type=Accuracy)
test_evaluator = dict(type=Accuracy)
optim_wrapper = dict(optimizer=dict(type=AdamW, lr=1e-2))
param_scheduler = dict(type=CosineSchedule, warmup_epochs=1)
train_cfg = dict(max_epochs=15, val_interval=15)
val_cfg = dict()
test_cfg = dict()
default_hooks = dict(checkpoint=dict(type="checkpoint"), report=dict(type="report"))
randomness = dict(seed=0)
"""


@pytest.fixture
def setup(tmp_path):
    paint(tmp_path / "train", COLORS)

    def config(count=4):
        return write_config(tmp_path, CONFIG.format(root=tmp_path, count=count))

    return tmp_path, config


def trained(config, folder):
    return launch.train(launch.prepare(config, work_dir=str(folder / "run")))


def test_a_class_that_validation_lacks_shifts_no_label(setup, caplog):
    folder, config = setup
    paint(folder / "val", [name for name in COLORS if name != "b_green"])
    trained(config(), folder)
    report = json.loads((folder / "run" / "report.json").read_text())
    assert report["classes"] == list(COLORS)
    assert report["epochs"][-1]["val"]["top1"] == 100
    assert report["epochs"][-1]["val"]["per_class"] == [100, None, 100, 100]
    cfg = launch.prepare(config(), work_dir=str(folder / "run"))
    cfg.test_evaluator.dump = str(folder / "dump.json")
    found = launch.evaluate(cfg, str(folder / "run" / "last.pth"))
    assert (found["top1"], found["classes"]) == (100, list(COLORS))
    assert [row[0] for row in np.array(found["confusion"])] == [3, 0, 0, 0]
    rows = json.loads((folder / "dump.json").read_text())
    assert {(row["label"], row["name"], row["predicted"]) for row in rows} == {
        (0, "a_red", "a_red"),
        (2, "c_blue", "c_blue"),
        (3, "d_white", "d_white"),
    }


def test_a_class_that_training_lacks_is_an_error_that_names_it(setup):
    folder, config = setup
    paint(folder / "val", [*COLORS, "e_black"])
    with pytest.raises(ValueError, match=r"val: training has other classes: no class is called 'e black'"):
        trained(config(), folder)
    paint(folder / "val2", COLORS)
    (folder / "val" / "e_black").rename(folder / "elsewhere")
    trained(config(), folder)
    (folder / "elsewhere").rename(folder / "val" / "e_black")
    with pytest.raises(ValueError, match="no class is called 'e black'"):
        launch.evaluate(launch.prepare(config(), work_dir=str(folder / "run")), str(folder / "run" / "last.pth"))


def test_dumps_carry_the_names(setup):
    folder, config = setup
    paint(folder / "val", ["c_blue"])
    trained(config(), folder)
    assert read(folder / "run" / "last.pth")["meta"]["classes"] == list(COLORS)
    cfg = launch.prepare(config(), work_dir=str(folder / "run"))
    cfg.test_evaluator.dump = str(folder / "dump.npz")
    launch.evaluate(cfg, str(folder / "run" / "last.pth"))
    with np.load(folder / "dump.npz") as dump:
        assert dump["classes"].tolist() == list(COLORS)
        assert dump["label"].tolist() == [2, 2, 2]


# ---------------------------------------------------------------- formats


def films(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")


def kinetics(path, rows):
    head = "label,youtube_id,time_start,time_end,split\n"
    path.write_text(head + "".join(f"{label},{video},0,10,val\n" for label, video in rows))


def test_each_format_takes_the_names_of_training(tmp_path):
    films(tmp_path, "v/x_000000_000010.mp4", "v/y_000000_000010.mp4", "train/a/0.mp4", "train/b/0.mp4", "train/c/0.mp4")
    films(tmp_path, "val/c/1.mp4", "val/b/1.mp4")
    names = ["a", "b", "c"]
    kinetics(tmp_path / "val.csv", [("c", "x"), ("b", "y")])
    (tmp_path / "ssv2.json").write_text(json.dumps([{"id": "x_000000_000010", "template": "c"}]))
    (tmp_path / "labels.json").write_text(json.dumps({"c": "0", "b": "1", "a": "2"}))
    sets = {
        "folders": VideoDataset(tmp_path / "val", test_mode=True),
        "kinetics": VideoDataset(tmp_path / "val.csv", root=tmp_path / "v", test_mode=True),
        "ssv2": VideoDataset(tmp_path / "ssv2.json", tmp_path / "v", "ssv2", tmp_path / "labels.json", test_mode=True),
    }
    wanted = {"folders": [1, 2], "kinetics": [2, 1], "ssv2": [2]}
    for name, data in sets.items():
        data.adopt_classes(names)
        assert (data.labels, data.classes) == (wanted[name], names), name
    numbers = VIDEOS.read(tmp_path / "val").samples
    assert [s.label for s in numbers] == [0, 1]  # as each split numbers them by itself


def test_images_of_folders_lists_and_json(tmp_path):
    paint(tmp_path / "val", ["c_blue", "b_green"], 1)
    (tmp_path / "val.json").write_text(json.dumps({"val/c_blue/0.png": "c_blue", "val/b_green/0.png": "b_green"}))
    (tmp_path / "list.txt").write_text("val/c_blue/0.png 2\n")
    for source, labels in (("val", [1, 2]), ("val.json", [2, 1]), ("list.txt", [2])):
        data = ImageDataset(tmp_path / source, test_mode=True)
        data.adopt_classes(list(COLORS))
        assert data.labels == labels, source


def test_names_that_differ_in_spelling_or_order(caplog):
    assert renumbered(["push up", "run"], ["run", "push_up"], "val") == [1, 0]
    with caplog.at_level(logging.WARNING):
        assert renumbered(["b", "a"], ["a", "b"], "val.csv") == [1, 0]
    assert "val.csv: the classes differ in their order" in caplog.text
    assert renumbered(["crane", "crane"], ["crane", "crane"], "val") == [0, 1]  # ImageNet has it twice
    with pytest.raises(ValueError, match="several have one name"):
        renumbered(["crane"], ["crane", "crane"], "val")
    with pytest.raises(ValueError, match=r"val: .*'walk'.*did you mean"):
        renumbered(["walk"], ["walks", "run"], "val")


# ---------------------------------------------------------------- what is said at the start


def runner_of(train, outputs=None, class_names=None):
    head = SimpleNamespace(num_classes=outputs, class_names=class_names)
    loop = SimpleNamespace(dataloader=SimpleNamespace(dataset=train)) if train is not None else None
    return SimpleNamespace(model=SimpleNamespace(head=head), _train_loop=loop, trained_classes=None)


def listed(tmp_path, labels, name="list.txt", **options):
    for i in range(len(labels)):
        Image.new("RGB", (4, 4)).save(tmp_path / f"{name}{i}.png")
    (tmp_path / name).write_text("".join(f"{name}{i}.png {y}\n" for i, y in enumerate(labels)))
    return ImageDataset(tmp_path / name, **options)


@pytest.fixture
def said(monkeypatch):
    lines = []
    monkeypatch.setattr(classes, "say", lines.append)
    return lines


@pytest.mark.parametrize(
    ("labels", "outputs", "names", "error", "warning"),
    [
        ([0, 1, 2], 3, None, None, None),
        ([1, 2, 3], 3, None, "label 3, the head num_classes=3.*count from 1.*subtract", None),
        ([0, 1, 3], 3, None, "label 3, the head num_classes=3: set model.head.num_classes to 4", None),
        ([1, 2, 3], 4, None, None, "do its labels count from 1"),
        ([0, 1, 1], 2, ["x", "y"], None, None),
        ([0, 2, 2], 3, ["x", "y", "z"], None, "1 of 3 classes have no training sample: y"),
        ([0, 1, 1], 5, ["x", "y"], None, "num_classes=5, but .* has 2 classes"),
        ([0, 1, 1], 2, ["x", "y", "z"], "names 3 classes, the head has num_classes=2", None),
    ],
)
def test_labels_and_heads_of_training(tmp_path, said, labels, outputs, names, error, warning):
    runner = runner_of(listed(tmp_path, labels, classes=names), outputs)
    if error:
        with pytest.raises(ValueError, match=error):
            classes.check_training(runner)
        return
    classes.check_training(runner)
    assert bool(said) == bool(warning), said
    assert not warning or re.search(warning, said[0])


@pytest.mark.parametrize("labels", [None, [], np.array([0, 1, 5]), torch.tensor([0, 1, 5]), [(0, 1), (5,)], [0.5, 5.0]])
def test_labels_of_any_form(labels, said):
    runner = runner_of(SimpleNamespace(labels=labels), 3)
    if hasattr(labels, "shape"):
        with pytest.raises(ValueError, match="the label 5, the head num_classes=3"):
            classes.check_training(runner)
    else:
        classes.check_training(runner)
    assert not said


def test_a_head_with_the_names_in_another_order_is_refused(tmp_path, said):
    train = listed(tmp_path, [0, 1], classes=["cat", "air_plane"])
    classes.check_training(runner_of(train, 2, ["cat", "air plane"]))
    classes.check_training(runner_of(train, 2, ["a photo", "of something"]))
    with pytest.raises(ValueError, match="class 0 is 'cat' in the training data and 'air plane' in the head"):
        classes.check_training(runner_of(train, 2, ["air plane", "cat"]))


def test_validation_against_training(tmp_path, said):
    train = listed(tmp_path, [0, 1, 1], classes=["x", "y", "z"])
    val = listed(tmp_path, [0, 2], "val.txt", classes=["x", "y", "z"], test_mode=True)
    assert classes.agree(runner_of(train, 3), "val", val) == ["x", "y", "z"]
    assert "1 classes differ: they have samples here and none in training: z" in said[0]
    assert "no sample of 1 of the 2 classes of training: y" in said[1]
    said.clear()
    same = ImageDataset(tmp_path / "list.txt", classes=["x", "y", "z"], test_mode=True)
    classes.agree(runner_of(train, 3), "val", same)
    assert len(said) == 1
    assert "val shares 3 of its 3 files with training" in said[0]


def test_names_on_one_side_only(tmp_path, said):
    train = listed(tmp_path, [0, 1])
    val = listed(tmp_path, [0, 1], "val.txt", classes=["x", "y"], test_mode=True)
    assert classes.agree(runner_of(train, 2), "val", val) == ["x", "y"]
    assert said == ["val names its classes and training does not: they are compared by number; give both `classes`"]


def test_sets_of_other_kinds_must_have_the_same_names(tmp_path):
    from tests.xmodal.test_trouble import Files

    clouds = Files({}, True)
    clouds.classes = ["table", "chair"]
    clouds.adopt_classes(["table", "chair"])
    with pytest.raises(ValueError, match="a list has the class 'table' where training has 'chair'"):
        clouds.adopt_classes(["chair", "table"])


# ---------------------------------------------------------------- in the step


@pytest.mark.parametrize(("label", "wrong"), [([0, 3], 3), ([-1, 2], -1)])
def test_labels_out_of_range_are_an_error_before_a_gpu_sees_them(label, wrong):
    from xmodal.preprocessor import Preprocessor

    pixels = Preprocessor([0.5] * 3, [0.5] * 3)
    pixels.check_labels = lambda y: check_range(y, 3, "three classes")
    batch = {"image": torch.zeros(2, 3, 4, 4), "label": torch.tensor(label)}
    with pytest.raises(ValueError, match=f"label {wrong} is out of range: the head has three"):
        pixels(batch, training=True)
    assert pixels(batch, training=False)["label"].tolist() == label  # files without a label can be predicted


@pytest.mark.gpu
def test_labels_out_of_range_on_a_gpu():
    from xmodal.encoders.tiny import tiny_clip_encoder
    from xmodal.heads.classification import ClassificationHead
    from xmodal.model import TransferModel

    model = TransferModel(dict(type=tiny_clip_encoder), dict(type=ClassificationHead, num_classes=3)).cuda()
    batch = {"image": torch.zeros(2, 3, 48, 48, dtype=torch.uint8), "label": torch.tensor([0, 3])}
    with pytest.raises(ValueError, match="label 3 is out of range"):
        model(**model.data_preprocessor(batch, True), mode="loss")
    assert torch.zeros(1).cuda().item() == 0  # the process can go on
