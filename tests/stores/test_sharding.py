"""A tower whose frozen blocks are shared among processes trains as one that every process holds."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from xmodal.engine.checkpoint import read

ROOT = Path(__file__).parents[2]
CONFIG = """
from torch.optim import AdamW
from tests.tools.test_extract import SlowClips, small_tower
from video.evl import EVLDecoder
from video.readers import TimeMeanReader
from video.st_adapter import st_adapter
from xmodal.adapters.lora import lora
from xmodal.engine.schedule import CosineSchedule
from xmodal.heads.classification import ClassificationHead
from xmodal.model import TransferModel

model = dict(
    type=TransferModel,
    encoder=dict(type=small_tower),
    METHOD,
    head=dict(type=ClassificationHead, num_classes=4, dropout=0.0),
)
_clips = dict(type=SlowClips, log="LOG")
train_dataloader = dict(batch_size=2, num_workers=0, dataset=dict(**_clips))
val_dataloader = dict(batch_size=2, num_workers=0, dataset=dict(**_clips, count=5))
val_evaluator = dict(type="accuracy")
optim_wrapper = dict(optimizer=dict(type=AdamW, lr=1e-2))
param_scheduler = dict(type=CosineSchedule, warmup_epochs=0)
train_cfg = dict(max_epochs=2)
default_hooks = dict(progress=dict(type="progress", interval=1))
custom_hooks = [dict(type="tests.stores.test_sharding.Shares", path="SHARES")]
"""
METHODS = {
    "st-adapter": "adapters=[dict(type=st_adapter, bottleneck=8, sites=['pre_attn', 'pre_mlp'])], "
    "reader=dict(type=TimeMeanReader)",
    "lora": "adapters=[dict(type=lora, rank=2, targets=['q', 'v', 'fc1'])], reader=dict(type=TimeMeanReader)",
    "evl": "reader=dict(type=EVLDecoder, num_frames=2, num_layers=2, mlp_dropout=0.0)",
}


def Shares(path):
    """Write down which weights a process holds a share of, behind a step, and how large its share is."""
    from mmengine.hooks import Hook

    class _Shares(Hook):
        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            parts = {
                name: [p.to_local().numel(), p.numel()]
                for name, p in runner.model.module.named_parameters()
                if hasattr(p, "to_local")
            }
            Path(f"{path}.{runner.rank}").write_text(json.dumps(parts))

    return _Shares()


def train(folder, name, method, *options, processes=2):
    text = CONFIG.replace("METHOD", METHODS[method]).replace("LOG", str(folder / "log"))
    (folder / f"{name}.py").write_text(text.replace("SHARES", str(folder / name)))
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    words += ["tools/train.py", str(folder / f"{name}.py"), "--launcher", "pytorch", "--no-report"]
    words += ["--work-dir", str(folder / f"{name} work"), "--cfg-options", "default_hooks.checkpoint.every_steps=1"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*words, *options], cwd=ROOT, env=env, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads((folder / f"{name} work" / "report.json").read_text())
    return report, read(folder / f"{name} work" / "last.pth")


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_two_processes_that_share_the_trunk_have_the_losses_of_two_that_do_not(method, tmp_path):
    whole, kept = train(tmp_path, "whole", method)
    shared, parts = train(tmp_path, "shared", method, "shard_trunk=true")
    assert [h["loss"] for h in shared["history"]] == pytest.approx([h["loss"] for h in whole["history"]], abs=1e-6)
    assert shared["epochs"][-1]["val"]["evaluated"] == whole["epochs"][-1]["val"]["evaluated"] == 5
    assert shared["epochs"][-1]["val"]["top1"] == whole["epochs"][-1]["val"]["top1"]
    assert parts["state_dict"].keys() == kept["state_dict"].keys(), "checkpoints hold the trained part"
    for key, value in kept["state_dict"].items():
        torch.testing.assert_close(parts["state_dict"][key], value, atol=1e-6, rtol=1e-5)
    assert not (json.loads((tmp_path / "whole.0").read_text()))
    shares = [json.loads((tmp_path / f"shared.{rank}").read_text()) for rank in range(2)]
    assert shares[0].keys() == shares[1].keys()
    assert any("attn.qkv.weight" in name or "mlp.fc1" in name for name in shares[0])
    assert not [name for name in shares[0] if name in kept["state_dict"]]
    for name, (own, full) in shares[0].items():
        assert own + shares[1][name][0] == full
        assert own <= -(-full // 2) + full // 3, name


@pytest.mark.slow
def test_a_shared_trunk_in_bf16_trains_as_a_whole_one(tmp_path):
    """Frozen linear layers in bfloat16 beside norms in float32."""
    whole, kept = train(tmp_path, "whole", "st-adapter", "model.trunk_dtype=bf16")
    shared, parts = train(tmp_path, "shared", "st-adapter", "model.trunk_dtype=bf16", "shard_trunk=true")
    assert [h["loss"] for h in shared["history"]] == pytest.approx([h["loss"] for h in whole["history"]], abs=1e-6)
    assert parts["state_dict"].keys() == kept["state_dict"].keys()


def test_what_cannot_be_shared_is_said_at_once(tmp_path, monkeypatch):
    from types import SimpleNamespace

    from xmodal.engine.sharding import shard_frozen

    block = torch.nn.ModuleList([torch.nn.Linear(2, 2)])
    model = lambda **more: SimpleNamespace(encoder=SimpleNamespace(blocks=block), **more)  # noqa: E731
    with pytest.raises(ValueError, match="start it with torchrun"):
        shard_frozen(model(), "cpu")
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    with pytest.raises(ValueError, match="no tower of blocks"):
        shard_frozen(SimpleNamespace(encoder=None), "cpu")
    with pytest.raises(ValueError, match="int8"):
        shard_frozen(model(trunk_dtype="int8"), "cpu")
    with pytest.raises(ValueError, match="calls parts of blocks"):
        shard_frozen(model(reader=SimpleNamespace(inside_blocks=True)), "cpu")


def test_a_cache_is_not_filled_from_shares(tmp_path):
    from xmodal.engine import launch

    text = CONFIG.replace("METHOD", METHODS["evl"]).replace("LOG", str(tmp_path / "log"))
    (tmp_path / "c.py").write_text(text.replace("SHARES", str(tmp_path / "s")))
    with pytest.raises(ValueError, match="a cache is filled out of step"):
        launch.train(launch.prepare(str(tmp_path / "c.py"), str(tmp_path / "w"), ["shard_trunk=true", "cache.root=c"]))
