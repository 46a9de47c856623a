"""The input size stands in one place: the encoder's."""

import pytest
import torch

from video.attentive_probe import AttentiveProbe
from video.datasets import VideoDataset
from video.readers import TimeMeanReader
from video.sampling import UniformSampling
from video.transforms import RandomCrop, ShortSideJitter
from xmodal.data.images import ImageDataset
from xmodal.data.transforms import CenterCrop, RandomResizedCrop, Resize
from xmodal.encoders.tiny import tiny_clip_encoder
from xmodal.engine.sizes import check_input, sized
from xmodal.heads.classification import ClassificationHead
from xmodal.model import TransferModel

JITTER = [dict(type=ShortSideJitter), dict(type=RandomCrop, padding=4)]


def test_transforms_take_the_size_of_the_encoder_unless_told():
    cfg = dict(type=VideoDataset, annotation="x", transforms=JITTER)
    filled = sized(cfg, 48)
    assert filled["size"] == 48
    assert filled["transforms"] == [
        dict(type=ShortSideJitter, low=48, high=55), dict(type=RandomCrop, padding=4, size=48),
    ]  # fmt: skip
    assert cfg == dict(type=VideoDataset, annotation="x", transforms=JITTER)  # untouched
    told = sized(dict(cfg, size=64, transforms=[dict(type="random_crop", size=32)]), 48)
    assert (told["size"], told["transforms"][0]["size"]) == (64, 32)
    images = dict(type=ImageDataset, annotation="x", transforms=[dict(type=RandomResizedCrop), dict(type=CenterCrop)])
    assert [t["size"] for t in sized(images, 336)["transforms"]] == [336, 336]
    assert sized(cfg, None) is cfg
    assert RandomCrop().size == CenterCrop().size == 224  # outside a run, as ever
    assert (ShortSideJitter().low, ShortSideJitter().high) == (224, 258)
    assert sized(dict(cfg, transforms=JITTER), 224)["transforms"][0]["high"] == 258


def model(reader=None):
    encoder = tiny_clip_encoder(weights="random")
    return TransferModel(encoder, ClassificationHead(128, num_classes=2), reader=reader)


def clips(folder, frames=8, test_mode=False, **options):
    (folder / "a").mkdir(exist_ok=True)
    (folder / "a" / "x.mp4").write_bytes(b"not read here")
    return VideoDataset(
        folder, num_frames=frames, sampling=dict(type=UniformSampling), test_mode=test_mode, **options
    )  # fmt: skip


def test_another_size_than_the_encoders_is_an_error_at_the_start(tmp_path):
    tower = model()
    check_input(tower, clips(tmp_path, size=48, test_mode=True), "val")
    wrong = r"val_dataloader gives images of 224 px, the encoder .* reads 48 px.*model.encoder.image_size=224"
    with pytest.raises(ValueError, match=wrong):
        check_input(tower, clips(tmp_path, size=224, test_mode=True), "val")
    with pytest.raises(ValueError, match="train_dataloader gives images of 224 px"):
        check_input(tower, clips(tmp_path, transforms=[dict(type=RandomCrop)]), "train")
    check_input(tower, clips(tmp_path, transforms=[dict(type=RandomCrop, size=48)]), "train")
    flat = ImageDataset(tmp_path_images(tmp_path), transforms=[dict(type=Resize, size=[64, 64])])
    with pytest.raises(ValueError, match="64 px"):
        check_input(tower, flat, "test")


def tmp_path_images(folder):
    (folder / "images" / "a").mkdir(parents=True)
    (folder / "images" / "a" / "x.png").write_bytes(b"not read here")
    return folder / "images"


def test_convolutions_take_any_size(tmp_path):
    tower = model()
    tower.encoder.family = "resnet"
    check_input(tower, clips(tmp_path, size=96, test_mode=True), "val")


def test_other_frame_counts_are_an_error_at_the_start(tmp_path):
    tower = model(dict(type=TimeMeanReader))
    train = clips(tmp_path, transforms=[dict(type=RandomCrop, size=48)])
    with pytest.raises(ValueError, match=r"val_dataloader.dataset.num_frames=16.*train_dataloader.*num_frames=8"):
        check_input(tower, clips(tmp_path, frames=16, size=48, test_mode=True), "val", train)
    probe = model(dict(type=AttentiveProbe, depth=1, per_frame=True, num_frames=4))
    with pytest.raises(ValueError, match=r"num_frames=8, but model.reader.num_frames=4"):
        check_input(probe, train, "train")


def test_a_run_on_own_data_needs_no_size(tmp_path):
    """Images of the encoder's size arrive in the model although no config line gives one."""
    import numpy as np
    from PIL import Image

    from xmodal.engine.loops import TrainLoop

    for name in "ab":
        (tmp_path / "set" / name).mkdir(parents=True)
        Image.fromarray(np.full((70, 90, 3), 9, np.uint8)).save(tmp_path / "set" / name / "x.png")

    class Run:
        seed, distributed = 0, False
        model = None

    run = Run()
    run.model = model()
    data = dict(type=ImageDataset, annotation=str(tmp_path / "set"), transforms=[dict(type=RandomResizedCrop)])
    loop = TrainLoop(run, dict(batch_size=2, dataset=data), max_epochs=1)
    (batch,) = list(loop.dataloader)
    assert batch["image"].shape == torch.Size([2, 3, 48, 48])
