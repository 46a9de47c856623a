"""tools/extract.py and training from what it fills: shared, killed, resumed, and the same weights as without."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.tools.test_train_tools import ROOT, tool
from xmodal.engine import launch

CONFIG = """
import torch
from torch.optim import AdamW
from tests.tools.test_extract import SlowClips, small_tower
from video.evl import EVLDecoder
from xmodal.engine.schedule import CosineSchedule
from xmodal.heads.classification import ClassificationHead
from xmodal.model import TransferModel

_set = dict(type=SlowClips, log="LOG", pause=PAUSE)
model = dict(
    type=TransferModel,
    encoder=dict(type=small_tower),
    reader=dict(type=EVLDecoder, num_frames=2, num_layers=2, mlp_dropout=0.0),
    head=dict(type=ClassificationHead, num_classes=4, dropout=0.0),
)
train_dataloader = dict(batch_size=3, num_workers=0, dataset=dict(**_set))
val_dataloader = dict(batch_size=4, num_workers=0, dataset=dict(**_set, count=5))
optim_wrapper = dict(optimizer=dict(type=AdamW, lr=1e-3))
param_scheduler = dict(type=CosineSchedule)
train_cfg = dict(max_epochs=3, val_interval=3)
cache = dict(root="ROOT", shard=2, dtype="float32", views=3)
"""


def small_tower():
    from tests.xmodal.test_model import tower

    torch.manual_seed(0)
    return tower(act="quick_gelu")


class SlowClips:
    """Clips that depend on (epoch, index); every reading is written down and takes a while."""

    classes = ("a", "b", "c", "d")

    def __init__(self, log: str, pause: float = 0.0, count: int = 9):
        self.log, self.pause, self.count = log, pause, count

    def __len__(self):
        return self.count

    def __getitem__(self, key):
        key = key if isinstance(key, tuple) else (0, key)
        with open(self.log, "a") as file:
            file.write(f"{key}\n")
        time.sleep(self.pause)
        random = np.random.default_rng(key)
        clips = torch.from_numpy(random.integers(0, 256, (1, 2, 3, 16, 16), dtype=np.uint8))
        return {"clips": clips, "label": key[1] % 4, "sample_id": f"s{key[1]}"}


def write(folder: Path, pause: float = 0.0) -> tuple[str, Path]:
    text = CONFIG.replace("LOG", str(folder / "log")).replace("PAUSE", str(pause))
    (folder / "clips.py").write_text(text.replace("ROOT", str(folder / "cache")))
    return str(folder / "clips.py"), folder / "log"


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.rglob("*.*")) if p.is_file()}


def test_the_estimate_and_every_shard_once(tmp_path, capsys):
    config, log = write(tmp_path)
    extract = tool("extract")
    assert extract([config, "--estimate"]) == 0
    assert "train: 15 of 15 shards missing, about 0 MB" in capsys.readouterr().out
    assert extract([config, "--split", "train", "--rank", "1", "--world-size", "2"]) == 0
    assert "0 of 15 shards missing" in capsys.readouterr().out
    assert extract([config, "--rank", "0", "--world-size", "1"]) == 0
    out = capsys.readouterr().out
    assert "0 of 15 shards missing" in out
    assert "0 of 3 shards missing" in out
    read = log.read_text().splitlines()
    assert len({line for line in read if line in [str((v, i)) for v in range(3) for i in range(9)]}) == 27
    assert extract([config, "--cfg-options", "cache.max_gb=1e-9", "cache.views=4"]) == 2  # view 3 would be new


def started(config, log, *more):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "tools/extract.py", config, "--split", "train", *more]
    return subprocess.Popen(words, env=environment, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=log.open("a"))


@pytest.mark.slow
def test_four_workers_that_die_and_come_back_lose_nothing_and_do_nothing_twice(tmp_path):
    """SIGKILL to two of four workers in the middle of a shard; two others come; the rest take over at once."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    config, log = write(tmp_path / "a", pause=0.3)
    errors = tmp_path / "errors"
    workers = [started(config, errors) for _ in range(4)]
    dead = 0
    for wanted in (2, 6):  # shards that are there when one dies
        while len(list((tmp_path / "a" / "cache").rglob("v*.json"))) < wanted:
            time.sleep(0.02)
            assert all(w.poll() is None for w in workers), errors.read_text()
        workers[dead].send_signal(signal.SIGKILL)
        workers[dead].wait()
        workers[dead] = started(config, errors)
        dead += 1
    assert [worker.wait(timeout=120) for worker in workers] == [0] * 4, errors.read_text()
    read = log.read_text().splitlines()
    again = len(read) - len(set(read))
    sizes = 4 + dead  # each worker reads the first sample to estimate the size
    assert len(set(read)) == 27
    assert again <= sizes + 2 * dead, "only what the dead had in hand is computed again"
    config, _ = write(tmp_path / "b")
    assert tool("extract")([config, "--split", "train"]) == 0
    whole, shared = contents(tmp_path / "b" / "cache"), contents(tmp_path / "a" / "cache")
    assert whole == {name: data for name, data in shared.items() if not name.endswith(".tmp")}


def test_killed_and_resumed(tmp_path):
    """SIGKILL in the middle: what was finished stays, the rest is made, and nothing half-written is read."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    config, log = write(tmp_path / "a", pause=0.15)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "tools/extract.py", config, "--split", "train"]
    running = subprocess.Popen(words, env=environment, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for _ in range(600):
        if len(list((tmp_path / "a" / "cache").rglob("v*.json"))) >= 2:
            break
        time.sleep(0.1)
    running.send_signal(signal.SIGKILL)
    running.wait()
    marks = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "a" / "cache").rglob("v*.json")}
    assert 2 <= len(marks) < 15
    before = len(log.read_text().splitlines())
    assert tool("extract")([config, "--split", "train"]) == 0
    assert len(log.read_text().splitlines()) - before < 27
    after = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "a" / "cache").rglob("v*.json")}
    assert {k: after[k] for k in marks} == marks
    assert len(after) == 15
    config, _ = write(tmp_path / "b")
    assert tool("extract")([config, "--split", "train"]) == 0
    whole, resumed = contents(tmp_path / "b" / "cache"), contents(tmp_path / "a" / "cache")
    assert whole == {name: data for name, data in resumed.items() if not name.endswith(".tmp")}


@pytest.mark.parametrize(("dtype", "apart"), [("float32", 1e-4), ("float16", 1e-2), ("int8", 0.1)])
def test_a_cached_run_trains_to_the_same_weights(tmp_path, dtype, apart):
    """As many views as epochs: the same clips in the same order; half precision and int8 come near."""
    config, log = write(tmp_path)
    rates = "optim_wrapper.optimizer.lr=0.0"
    runs = {"start": ["cache={}", rates], "plain": ["cache={}"], "cached": [f"cache.dtype={dtype}"]}
    weights = {}
    for name, options in runs.items():
        log.write_text("")
        launch.train(launch.prepare(config, str(tmp_path / name), options))
        state = torch.load(tmp_path / name / "last.pth", weights_only=True)["state_dict"]
        weights[name] = torch.cat([value.flatten().float() for value in state.values()])
        assert len(log.read_text().splitlines()) == 27 + 5 + (2 if name == "cached" else 0)  # two to estimate the size
    moved = (weights["plain"] - weights["start"]).norm()
    assert moved > 0.01
    assert (weights["cached"] - weights["plain"]).norm() < apart * moved
