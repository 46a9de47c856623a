"""The examples of CONTRIBUTING.md are whole files: they run as they stand there."""

import json
import re

import numpy as np
import torch

from pointcloud.datasets.files import read_cloud
from pointcloud.formats.scan import READERS
from tests.examples import TEXT, example, sources
from tests.video import videos
from tests.xmodal.test_model import tower
from tools import evaluate
from video.datasets import VideoDataset
from xmodal.model import TransferModel
from xmodal.registry import ADAPTERS, ENCODERS, METHODS

EXAMPLES = {  # the most lines of each, blank ones left out
    "An adapter": ("scale_adapter", 25),
    "An encoder": ("RowEncoder", 35),
    "A video annotation format": ("read_ucf", 25),
    "A cloud format": ("read_mm16", 15),
    "A 3D task": ("HeightNetwork", 25),
    "A few-shot method": ("NearestMeanRun", 40),
}


def test_every_example_is_short():
    for section, (name, most) in EXAMPLES.items():
        files = sources(section)
        assert sum(bool(line.strip()) for text in files for line in text.splitlines()) <= most, section
        assert re.search(rf"^(?:class|def) {name}\b", files[0], re.M), section
    assert sum(len(sources(section)) for section in EXAMPLES) == TEXT.count("```python")


def test_an_adapter():
    example("An adapter")
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
    read = example("A video annotation format")["read_ucf"]
    (tmp_path / "Archery").mkdir()
    videos.write_video(tmp_path / "Archery" / "v_1.mp4", frames=8)
    (tmp_path / "train.txt").write_text("Archery/v_1.mp4 1\n")
    data = VideoDataset(str(tmp_path / "train.txt"), format=read, num_frames=2, classes=["Archery"], test_mode=True)
    item = data[0]
    assert (item["label"], item["sample_id"]) == (0, "Archery/v_1.mp4")


def test_an_encoder():
    encoder = example("An encoder")["RowEncoder"]().eval()
    ENCODERS.module_dict.pop("rows", None)
    assert encoder(torch.randn(2, 3, 16, 16)).shape == (2, 8)


def test_a_cloud_format(tmp_path):
    example("A cloud format")
    np.array([[1000, 0, 0, 7], [0, 500, -2000, 8]], "<i2").tofile(tmp_path / "a.mm16")
    cloud = read_cloud(tmp_path / "a.mm16")
    READERS.pop(".mm16")
    assert cloud["coord"].tolist() == [[1, 0, 0], [0, 0.5, -2]]
    assert cloud["intensity"].tolist() == [7, 8]


def test_a_3d_task():
    network = example("A 3D task")["HeightNetwork"]()
    coord = torch.randn(2, 5, 3)
    network.loss(torch.ones(2), coord)["loss"].backward()
    assert network.fc.weight.grad.any()
    first, _ = network.eval().requires_grad_(False).predict(coord)
    assert network.show(first, (), None)[0] == {"height": first["found"]}


def test_a_few_shot_method(tmp_path, monkeypatch):
    method, config = sources("A few-shot method")
    (tmp_path / "nearest_mean.py").write_text(method)
    (tmp_path / "config.py").write_text(config)
    monkeypatch.syspath_prepend(tmp_path)
    assert evaluate.main([str(tmp_path / "config.py"), "--out", str(tmp_path / "out")]) == 0
    found = {}
    for path in (tmp_path / "out").glob("*/*/result.json"):
        result = json.loads(path.read_text())
        found.setdefault(result["shots"], []).append(result["scores"]["negatives"])
    assert {k: len(v) for k, v in found.items()} == {1: 2, 8: 2}
    assert sum(found[8]) > sum(found[1]) > 2 * 100 / 16
    assert "nearest mean" in (tmp_path / "out" / "table.md").read_text()
