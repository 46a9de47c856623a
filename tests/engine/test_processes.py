"""Several processes: signals stop all of them after the same step, and another number of them goes on."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.engine.toy import CONFIG, write_config
from xmodal.engine.checkpoint import read

ROOT = Path(__file__).parents[2]
# slow enough to be hit in the middle; no dropout, so that one and two processes compute the same
TEXT = CONFIG.replace("dropout=0.3", "dropout=0.0, norm=False").replace("batch_size=5", "batch_size=4")


def start(folder, work, world, *more, options=()):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = write_config(folder, TEXT)
    options = [f"train_dataloader.batch_size={8 // world}", "default_hooks.checkpoint.every_steps=1", *options]
    words = [sys.executable, str(ROOT / "tools/train.py"), config, "--work-dir", str(folder / work), *more]
    words += ["--launcher", "pytorch", "--cfg-options", *options]
    env = {
        **os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "WORLD_SIZE": str(world),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip
    return [
        subprocess.Popen(
            words, cwd=ROOT, env={**env, "RANK": str(r), "LOCAL_RANK": str(r)}, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, text=True,
        )
        for r in range(world)
    ]  # fmt: skip


def end(processes):
    errors = [p.communicate(timeout=240)[1] for p in processes]
    return [p.returncode for p in processes], errors


def wait_for_a_step(folder, work):
    deadline = time.time() + 120
    while not (folder / work / "last.pth").exists() and time.time() < deadline:
        time.sleep(0.01)


LONG = ["train_cfg.max_epochs=4000", "default_hooks.progress.interval=100000"]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
@pytest.mark.parametrize("hit", [(0,), (1,), (0, 1)])
def test_all_processes_stop_after_the_same_step(tmp_path, number, hit):
    processes = start(tmp_path, "w", 2, options=LONG)
    wait_for_a_step(tmp_path, "w")
    for rank in hit:
        processes[rank].send_signal(number)
    codes, errors = end(processes)
    assert codes == [130, 130], errors
    said = [e.strip().splitlines()[-1] for e in errors]
    assert said[0] == said[1]
    step = read(tmp_path / "w" / "last.pth")["meta"]["step"]
    assert said[0] == f"stopped after step {step}; --resume goes on from there"
    assert json.loads((tmp_path / "w" / "report.json").read_text())["status"] == "stopped"


@pytest.mark.slow
def test_killed_on_one_process_and_resumed_on_two(tmp_path):
    """The samples and the epoch's means are those of a run on one process; sums are in another order of rounding."""
    assert end(start(tmp_path, "whole", 1))[0] == [0]
    kill = "custom_hooks=[{'type':'tests.engine.test_processes.Die','step':5}]"
    assert end(start(tmp_path, "parts", 1, options=[kill]))[0] == [137]
    assert read(tmp_path / "parts" / "last.pth")["meta"]["step"] == 5
    codes, errors = end(start(tmp_path, "parts", 2, "--resume"))
    assert codes == [0, 0], errors
    whole, parts = (read(tmp_path / w / "last.pth") for w in ("whole", "parts"))
    assert whole["meta"]["step"] == parts["meta"]["step"] == 12
    for key, value in whole["state_dict"].items():
        torch.testing.assert_close(parts["state_dict"][key], value, atol=1e-5, rtol=1e-4)
    one, two = (json.loads((tmp_path / w / "report.json").read_text())["epochs"] for w in ("whole", "parts"))
    for a, b in zip(one, two, strict=True):
        assert b["train"]["loss"] == pytest.approx(a["train"]["loss"], rel=1e-4)
        assert b["train"]["top1"] == pytest.approx(a["train"]["top1"], rel=1e-4)


def Die(step):
    from mmengine.hooks import Hook

    class _Die(Hook):
        priority = "LOWEST"

        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            if runner.iter + 1 == step:
                os._exit(137)

    return _Die()


@pytest.mark.parametrize("number", [None, signal.SIGTERM])
def test_a_run_with_lasting_workers_ends(tmp_path, number):
    """Workers that leave SIGTERM to the main process must not outlive it, nor end before it has saved."""
    text = TEXT.replace("num_workers=0", "num_workers=1, persistent_workers=True")
    long = LONG if number else ["train_cfg.max_epochs=2"]
    words = [
        sys.executable,
        str(ROOT / "tools/train.py"),
        write_config(tmp_path, text),
        "--work-dir",
        str(tmp_path / "w"),
    ]
    run = subprocess.Popen(
        [*words, "--cfg-options", *long, "default_hooks.checkpoint.every_steps=1"], cwd=ROOT, start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    if number:
        wait_for_a_step(tmp_path, "w")
        os.killpg(run.pid, number)
    _, errors = run.communicate(timeout=120)
    assert run.returncode == (130 if number else 0), errors
    if number:
        assert "goes on from there" in errors
