"""Every point-cloud config builds its model, its transforms and its metric; the demo ones run on data made here."""

from pathlib import Path

import pytest
import torch

from pointcloud.schedule import StepSchedule
from tests.test_configs import random_weights, runs_of
from xmodal.engine.config import load_config
from xmodal.engine.launch import prepare
from xmodal.registry import METRICS, MODELS, TRANSFORMS, build, check_arguments

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "configs" / "pointcloud").glob("*.py"))


@pytest.mark.parametrize(("path", "options"), runs_of("pointcloud"))
def test_config_builds(path, options):
    cfg = random_weights(load_config(path, options))
    with torch.device("meta"):
        model = build(cfg.model, MODELS)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert 0 < trained <= sum(p.numel() for p in model.parameters())
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        dataset = dict(loader.dataset)
        check_arguments(dataset.pop("type"), dict(dataset))
        for transform in dataset.get("transforms", []):
            build(transform, TRANSFORMS)
    if isinstance(cfg.val_evaluator, dict):
        build(cfg.val_evaluator, METRICS)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_one_key_asks_every_config_for_random_weights(path):
    with torch.device("meta"):
        model = build(load_config(path, ["model.encoder.weights=random"]).model, MODELS)
    assert model.network is not None


def test_amp_without_validation():
    off = ["val_dataloader=none", "val_cfg=none", "val_evaluator=none"]
    cfg = prepare(str(ROOT / "configs/pointcloud/epcl_tiny-clip_2k_rooms-det.py"), options=off, amp="bf16")
    assert cfg.optim_wrapper.amp == "bf16"


def test_steps():
    group = {"lr": 0.1}
    optimizer = type("Optimizer", (), {"param_groups": [group]})()
    schedule = StepSchedule(optimizer, 100, 10)
    rates = []
    for _ in range(100):
        rates.append(group["lr"])
        schedule.step()
    assert [rates[i] for i in (0, 59, 60, 79, 80, 99)] == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001])
    with pytest.raises(ValueError, match="shares of the run"):
        StepSchedule(optimizer, 100, 10, milestones=(60,))
