"""The video models themselves in two processes, by torchrun: gloo here, nccl where there are GPUs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from xmodal.engine.checkpoint import read

ROOT = Path(__file__).parents[2]
METHODS = ["st-adapter", "evl"]


def run(*words, launch=()):
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *launch, *map(str, words)], cwd=ROOT, capture_output=True, text=True, env=env
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def actions(tmp_path_factory):
    folder = tmp_path_factory.mktemp("actions")
    run("tools/data/make_actions.py", folder, "--layout", "folders", "--train", 24, "--val", 9, "--test", 8)
    return folder


def train(method, actions, work, processes, batch, *more):
    """Two epochs without dropout, so that only the split over processes differs."""
    options = ["train_cfg.max_epochs=2", "train_cfg.val_interval=1", "model.head.dropout=0", *more]
    options += [f"train_dataloader.batch_size={batch}"]
    if method == "evl":
        options += ["model.reader.mlp_dropout=0"]
    for split in ("train", "val", "test"):
        data = f"{split}_dataloader.dataset"
        options += [f"{data}.annotation={actions / split}", f"{data}.classes=None"]
    launch = ("-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}")
    config = f"configs/video/{method}_tiny-clip_8u_actions8.py"
    run("tools/train.py", config, "--launcher", "pytorch", "--work-dir", work, "--cfg-options", *options, launch=launch)
    return json.loads((work / "report.json").read_text()), read(work / "last.pth")["state_dict"]


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_two_processes_train_the_weights_of_one(method, actions, tmp_path):
    """Nothing that trains is left without a gradient, and each validation video counts once."""
    report, one = train(method, actions, tmp_path / "one", 1, 8)
    joint, two = train(method, actions, tmp_path / "two", 2, 4)
    assert (report["processes"], joint["processes"]) == (1, 2)
    assert joint["epochs"][-1]["val"]["evaluated"] == 9
    assert [h["loss"] for h in report["history"]] == pytest.approx([h["loss"] for h in joint["history"]], abs=1e-4)
    assert one.keys() == two.keys()
    for key in one:
        torch.testing.assert_close(one[key], two[key], atol=1e-4, rtol=1e-3)


@pytest.mark.gpu
@pytest.mark.parametrize("amp", ["bf16", "fp16"])
@pytest.mark.parametrize("method", METHODS)
def test_nccl(method, amp, actions, tmp_path):
    """As many processes as there are GPUs, two at most; losses stay finite in half precision."""
    processes = min(2, torch.cuda.device_count())
    report, _ = train(method, actions, tmp_path / "work", processes, 8 // processes, f"optim_wrapper.amp={amp}")
    assert report["processes"] == processes
    assert all(torch.tensor(h["loss"]).isfinite() for h in report["history"])
