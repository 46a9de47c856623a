"""The engine on the real model: what is frozen stays, what is saved suffices, another encoder is refused."""

import numpy as np
import pytest
import torch

from tests.engine.toy import write_config
from xmodal.engine import launch
from xmodal.engine.checkpoint import LAST, load_weights, read
from xmodal.engine.compat import Runner

CONFIG = """
from torch.optim import AdamW
from tests.engine.test_transfer_model import Clips
from video.readers import TimeMeanReader
from video.st_adapter import st_adapter
from xmodal.encoders.tiny import tiny_clip_encoder
from xmodal.engine.schedule import ConstantSchedule
from xmodal.heads.classification import ClassificationHead
from xmodal.model import TransferModel

model = dict(
    type=TransferModel,
    encoder=dict(type=tiny_clip_encoder),
    adapters=[dict(type=st_adapter, bottleneck=8, kernel_size=(3, 1, 1), sites=["pre_mlp"])],
    reader=dict(type=TimeMeanReader),
    head=dict(type=ClassificationHead, num_classes=2),
)
train_dataloader = dict(batch_size=3, dataset=dict(type=Clips))
val_dataloader = dict(batch_size=3, dataset=dict(type=Clips, views=2))
optim_wrapper = dict(optimizer=dict(type=AdamW, lr=1e-2))
param_scheduler = dict(type=ConstantSchedule)
train_cfg = dict(max_epochs=1)
"""


class Clips:
    """Noise, 6 clips of 2 frames; the last one cannot be read in testing."""

    def __init__(self, views: int = 0, size: int = 6):
        self.views, self.size, self.classes = views, size, ["a", "b"]

    def __len__(self):
        return self.size

    def __getitem__(self, key):
        epoch, index = key if isinstance(key, tuple) else (0, key)
        if self.views and index == self.size - 1:
            return {"skipped": "last", "reason": "broken"}
        noise = np.random.default_rng([epoch, index]).integers(0, 256, (max(self.views, 1), 2, 3, 48, 48), np.uint8)
        return {"clips": torch.from_numpy(noise), "label": index % 2, "sample_id": str(index)}


def test_a_model_without_a_head_is_refused(tmp_path):
    cfg = launch.prepare(write_config(tmp_path, CONFIG), str(tmp_path / "w"), ["model.head=none"])
    with pytest.raises(ValueError, match=r"model\.head is none: give one"):
        launch.train(cfg)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("real")
    cfg = launch.prepare(write_config(folder, CONFIG), str(folder / "w"))
    fresh = Runner.from_cfg(cfg).model
    before = {key: value.clone() for key, value in fresh.state_dict().items()}
    return folder, before, launch.train(cfg).model


def test_every_frozen_tensor_is_bit_identical_after_an_epoch(done):
    _, before, model = done
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    after = model.state_dict()
    assert trained
    assert before.keys() == after.keys()
    moved = {key for key in before if not torch.equal(before[key], after[key])}
    assert moved <= trained
    assert {"head.fc.weight", "head.fc.bias"} <= moved


def test_the_checkpoint_suffices(done):
    folder, _, model = done
    checkpoint = read(folder / "w" / LAST)
    assert set(checkpoint["state_dict"]) == model.saved_keys()
    assert checkpoint["meta"]["encoder"] == model.frozen_fingerprint()
    assert checkpoint["meta"]["classes"] == ["a", "b"]
    again = Runner.from_cfg(launch.prepare(str(folder / "toy.py"), str(folder / "again"))).model
    load_weights(again, folder / "w" / LAST)
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in again.state_dict().items())


def test_another_encoder_is_refused(done, tmp_path):
    folder, _, _ = done
    options = ["model.encoder.weights=random"]
    other = Runner.from_cfg(launch.prepare(str(folder / "toy.py"), str(tmp_path / "w"), options)).model
    with pytest.raises(ValueError, match="was trained on encoder tiny-clip"):
        load_weights(other, folder / "w" / LAST)


def test_evaluation_counts_what_it_could_read(done, tmp_path):
    folder, _, _ = done
    metrics = launch.evaluate(launch.prepare(str(folder / "toy.py"), str(tmp_path / "w")), str(folder / "w" / LAST))
    assert (metrics["evaluated"], metrics["of"]) == (5, 6)
    assert metrics["skipped"] == [{"sample_id": "last", "reason": "broken"}]
