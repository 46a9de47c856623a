"""The examples of CONTRIBUTING.md are whole files: they run as they stand there."""

import re
from pathlib import Path

import torch

from tests.video import videos
from tests.xmodal.test_model import tower
from video.datasets import VideoDataset
from xmodal.model import TransferModel
from xmodal.registry import ADAPTERS, METHODS

TEXT = (Path(__file__).parent.parent / "CONTRIBUTING.md").read_text()


def example(section, lines=25):
    """Run the first Python block below a heading; returns its names."""
    (body,) = re.findall(rf"^## {section}\n(.*?)(?=^## |\Z)", TEXT, re.S | re.M)
    source = re.search(r"```python\n(.*?)```", body, re.S)[1]
    assert len([line for line in source.splitlines() if line.strip()]) <= lines
    scope = {"__name__": "example"}
    exec(source, scope)
    return scope


def test_an_adapter():
    example("A method is one file")
    try:
        encoder = tower()
        images = torch.randn(2, 3, 16, 16)
        before = encoder(images)
        head = dict(type="classification", num_classes=3)
        model = TransferModel(encoder, head, adapters=[dict(type="scale_adapter", blocks=2)])
        torch.testing.assert_close(model.features(image=images), before)
        model(mode="loss", image=images, label=torch.tensor([0, 1]))["loss"].backward()
        trained = [n for n, p in model.named_parameters() if p.grad is not None]
        assert trained == [
            "encoder.blocks.1.pre_mlp.scale_adapter.scale",
            "encoder.blocks.2.pre_mlp.scale_adapter.scale",
            "head.fc.weight",
            "head.fc.bias",
        ]
        assert set(trained) == model.saved_keys()
    finally:
        ADAPTERS.module_dict.pop("scale_adapter", None)
        METHODS.pop("scale_adapter", None)


def test_a_video_annotation_format(tmp_path):
    read = example("A video annotation format is one file")["read_ucf"]
    (tmp_path / "Archery").mkdir()
    videos.write_video(tmp_path / "Archery" / "v_1.mp4", frames=8)
    (tmp_path / "train.txt").write_text("Archery/v_1.mp4 1\n")
    data = VideoDataset(str(tmp_path / "train.txt"), format=read, num_frames=2, classes=["Archery"], test_mode=True)
    item = data[0]
    assert (item["label"], item["sample_id"]) == (0, "Archery/v_1.mp4")
