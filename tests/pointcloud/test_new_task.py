"""A new 3D task is one file: this one finds how high a cloud is, and trains, is tested, and predicts a file."""

import json

import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from torch.utils.data import Dataset

from tests.examples import example
from tools import predict, test, train

HeightNetwork = example("A 3D task")["HeightNetwork"]


class Sticks(Dataset):
    """Points below a random height."""

    def __init__(self, count=32):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, key):
        index = key[1] if isinstance(key, tuple) else key
        random = np.random.default_rng(index)
        height = random.uniform(1, 3)
        coord = random.random((64, 3)).astype(np.float32) * np.float32([1, 1, height])
        return {"coord": torch.from_numpy(coord), "height": float(height), "sample_id": str(index)}


class MeanError(BaseMetric):
    """The mean distance from the true height."""

    default_prefix = ""

    def process(self, data_batch, data_samples):
        self.results += [abs(sample["found"] - float(sample["height"])) for sample in data_samples]

    def compute_metrics(self, results):
        return {"error": sum(results) / len(results)}


CONFIG = """
from mmengine.config import read_base
from torch.optim import AdamW
from pointcloud.model import CloudModel
from xmodal.engine.schedule import CosineSchedule
from tests.pointcloud.test_new_task import HeightNetwork, MeanError, Sticks

model = dict(type=CloudModel, encoder=None, network=dict(type=HeightNetwork))
train_dataloader = dict(batch_size=8, num_workers=0, dataset=dict(type=Sticks))
test_dataloader = dict(batch_size=8, num_workers=0, dataset=dict(type=Sticks, count=8))
test_evaluator = dict(type=MeanError)
optim_wrapper = dict(optimizer=dict(type=AdamW, lr=0.1))
param_scheduler = dict(type=CosineSchedule)
train_cfg = dict(max_epochs=15)
"""


def test_a_new_task_trains_is_tested_and_predicts_a_file(tmp_path, capsys, monkeypatch):
    monkeypatch.syspath_prepend(".")
    config, work = tmp_path / "height.py", tmp_path / "work"
    config.write_text(CONFIG)
    assert train.main([str(config), "--work-dir", str(work)]) == 0
    assert test.main([str(config), str(work / "last.pth")]) == 0
    assert json.loads((work / "test.json").read_text())["test"]["error"] < 0.3
    file, out = tmp_path / "stick.npy", tmp_path / "out"
    np.save(file, Sticks()[3]["coord"].numpy())
    assert predict.main([str(config), str(work / "last.pth"), str(file), "--out", str(out)]) == 0
    row = json.loads((out / "stick.json").read_text())
    assert abs(row["height"] - Sticks()[3]["height"]) < 0.5
    assert "m high" in (out / "stick.html").read_text()
    assert f"height {row['height']}" in capsys.readouterr().out
