"""Small trained runs of each kind, made once."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from video.toys.actions import ActionSet, make_actions
from xmodal.engine import launch
from xmodal.toys.shapes import Thing, background, render

SHORT = ["train_cfg.max_epochs=2", "param_scheduler.warmup_epochs=0.2", "default_hooks.progress.interval=20"]


def data_options(folder, splits):
    """Options that point a config at the lists of a folder."""
    for stage, split in splits.items():
        part = f"{stage}_dataloader"
        yield f"{part}.dataset.annotation={folder / f'{split}.txt'}"
        yield f"{part}.dataset.classes={folder / 'classes.txt'}"
        yield f"{part}.num_workers=0"
        if stage == "train":
            yield f"{part}.persistent_workers=false"


def train(config, work, options):
    launch.train(launch.prepare(config, str(work), options))
    return work


@pytest.fixture(scope="session")
def clips(tmp_path_factory):
    """Eight actions in small H.264 files, with lists."""
    return make_actions(tmp_path_factory.mktemp("clips"), ActionSet(train=32, val=16, test=16, frames=8, size=48))


@pytest.fixture(scope="session")
def video_run(clips, tmp_path_factory):
    """A linear probe on clips, with a torn file among its test data."""
    options = [*SHORT, *data_options(clips, {"train": "train", "val": "val", "test": "test"})]
    config = "video/probe_tiny-clip_8u_actions8"
    return train(config, tmp_path_factory.mktemp("video") / "probe", options)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """Drawn shapes in class folders, 56 px."""
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 4)):
        for shape in ("square", "circle"):
            for i in range(count):
                path = folder / split / shape / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                things = (Thing(shape, "red", 0.5, 0.5, 0.5),)
                Image.fromarray(render(things, background(rng, 56))).save(path)
    return folder


IMAGE_CONFIG = """
from torch.optim import AdamW
from xmodal.data.images import ImageDataset
from xmodal.encoders.tiny import tiny_clip_encoder
from xmodal.engine.schedule import CosineSchedule
from xmodal.heads.classification import ClassificationHead
from xmodal.model import TransferModel

_data = lambda split, **more: dict(
    batch_size=4, num_workers=0, dataset=dict(type=ImageDataset, annotation=f"ROOT/{split}", format="folders",
    transforms=[dict(type="center_crop")] if split == "val" else
    [dict(type="random_resized_crop"), dict(type="flip")], **more))
model = dict(type=TransferModel, encoder=dict(type=tiny_clip_encoder),
             head=dict(type=ClassificationHead, num_classes=2))
train_dataloader = _data("train")
val_dataloader = _data("val", test_mode=True)
optim_wrapper = dict(optimizer=dict(type=AdamW, lr=1e-2))
param_scheduler = dict(type=CosineSchedule, warmup_epochs=0.2)
train_cfg = dict(max_epochs=2)
"""


@pytest.fixture(scope="session")
def image_run(pictures, tmp_path_factory):
    """A linear probe on two shapes."""
    folder = tmp_path_factory.mktemp("image")
    (folder / "shapes.py").write_text(IMAGE_CONFIG.replace("ROOT", str(pictures)))
    return train(str(folder / "shapes.py"), folder / "probe", [])


@pytest.fixture(scope="session")
def clouds(tmp_path_factory):
    """Boxes and balls of 300 points as .npy, in class folders of two splits."""
    folder, rng = tmp_path_factory.mktemp("clouds"), np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 4)):
        for name in ("ball", "box"):
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                points = rng.uniform(-1, 1, (300, 3))
                if name == "ball":
                    points /= np.linalg.norm(points, axis=1, keepdims=True)
                np.save(folder / split / name / f"{i}.npy", points.astype(np.float32))
    return folder


@pytest.fixture(scope="session")
def cloud_run(clouds, tmp_path_factory):
    """EPCL on boxes and balls, from a config that `xmodal new` wrote."""
    from xmodal.start.write import Wish, write

    folder = tmp_path_factory.mktemp("cloud")
    config = folder / "balls.py"
    write(Wish(source=str(clouds), encoder="tiny-clip", out=str(config)), say=lambda *_: None)
    options = ["train_cfg.max_epochs=2", "train_cfg.val_interval=1", "param_scheduler.warmup_epochs=0.2"]
    return train(str(config), folder / "epcl", [*options, "train_dataloader.num_workers=0",
                 "train_dataloader.persistent_workers=false"])  # fmt: skip


def names_below(folder, ending):
    return sorted(str(p) for p in Path(folder).rglob(f"*{ending}"))
