"""Contrastive training as `tools/train.py` does it: processes, resume, the running average, zero-shot evaluation."""

import json

import pytest
import torch

from tests.tools.test_train_tools import call
from xmodal.engine.checkpoint import read

RUN = """
import sys
from xmodal.engine.launch import prepare, run, train
from xmodal.engine.loops import TrainLoop

step = TrainLoop.run_iter
def stop(self, *args):
    step(self, *args)
    self.runner.stop_requested = self.iter == stop_at

TrainLoop.run_iter = stop
work, recipe, stop_at, launcher, *options = sys.argv[1:]
stop_at = int(stop_at)
cfg = prepare(f"configs/pretrain/{recipe}.py", work, options, launcher=launcher)
cfg.default_hooks["ema"] = dict(type="xmodal.engine.ema.EMAHook", decay=0.8)
sys.exit(run(lambda: train(cfg, "auto"), resumable=True))
"""
OPTIONS = (
    "train_dataloader.dataset.count=64",
    "val_dataloader.dataset.count=20",
    "train_cfg.max_epochs=2",
    "train_cfg.val_interval=1",
    "param_scheduler.warmup_epochs=0.5",
    "default_hooks.progress.interval=1",
)


def train(work, recipe, *options, stop_at=0, processes=1):
    """Run a recipe, or go on with it; the exit status, the report and the last checkpoint."""
    work.mkdir(exist_ok=True)
    (work / "run.py").write_text(RUN)
    front = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"] if processes > 1 else []
    launcher = "pytorch" if processes > 1 else "none"
    done = call(*front, work / "run.py", work, recipe, stop_at, launcher, *OPTIONS, *options)
    assert done.returncode == (130 if stop_at else 0), done.stderr
    return json.loads((work / "report.json").read_text()), read(work / "last.pth")


def same(one, two, atol):
    """Whether two checkpoints hold the same weights and the same average of them."""
    for part in ("state_dict", "ema_state_dict"):
        assert one[part].keys() == two[part].keys()
        for key in one[part]:
            torch.testing.assert_close(one[part][key], two[part][key], atol=atol, rtol=1e-4)


@pytest.mark.slow
def test_a_resumed_run_with_shared_weights_and_an_average_is_the_same(tmp_path):
    recipe, size = "msclip_tiny_32_shapes_shared", "train_dataloader.batch_size=16"
    report, whole = train(tmp_path / "whole", recipe, size)
    assert {"loss", "top1"} <= report["history"][0].keys()
    assert len(report["epochs"]) == 2  # zero-shot evaluation behind every one
    assert report["epochs"][0]["val"]["evaluated"] == 20
    assert whole["meta"]["evaluated"] == "ema"
    _, cut = train(tmp_path / "cut", recipe, size, stop_at=5)
    assert cut["meta"]["step"] == 5
    _, again = train(tmp_path / "cut", recipe, size)
    same(whole, again, 0.0)


@pytest.mark.slow
def test_two_processes_contrast_the_joint_batch(tmp_path):
    recipe = "unicl_tiny-clip_32_shapes"
    report, one = train(tmp_path / "one", recipe, "train_dataloader.batch_size=16")
    joint, two = train(tmp_path / "two", recipe, "train_dataloader.batch_size=8", "model.chunk=3", processes=2)
    assert joint["processes"] == 2
    assert [h["loss"] for h in joint["history"]] == pytest.approx([h["loss"] for h in report["history"]], abs=1e-4)
    same(one, two, 2e-4)
