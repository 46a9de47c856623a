"""Two machines with two processes each, as two agents of torchrun on loopback: one run, and a rank that is lost."""

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

from tests.engine.test_processes import TEXT
from tests.engine.toy import write_config
from xmodal.engine.checkpoint import read

ROOT = Path(__file__).parents[2]


def DieOnce(step, rank, mark):
    """Kill the process of a rank behind a step, the first time."""
    from mmengine.hooks import Hook

    class _Die(Hook):
        priority = "LOWEST"

        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            if runner.iter + 1 == step and runner.rank == rank and not Path(mark).exists():
                Path(mark).touch()
                os._exit(137)

    return _Die()


def agents(folder, work, *options, restarts=0, nodes=2):
    """Run one agent a machine; returns their exit codes and what they said."""
    return end(begin(folder, work, *options, restarts=restarts, nodes=nodes))


def end(run):
    said = [agent.communicate(timeout=240)[1] for agent in run]
    return [agent.returncode for agent in run], said


def begin(folder, work, *options, restarts=0, nodes=2):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [sys.executable, "-m", "torch.distributed.run", f"--nnodes={nodes}", "--nproc-per-node=2"]
    words += ["--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{port}", "--rdzv-id=run", "--local-addr=127.0.0.1"]
    words += [f"--max-restarts={restarts}", "tools/train.py", write_config(folder, TEXT), "--launcher", "pytorch"]
    words += ["--resume", "--work-dir", str(folder / work), "--cfg-options"]
    words += [f"train_dataloader.batch_size={8 // (2 * nodes)}", "default_hooks.checkpoint.every_steps=1", *options]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    env["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    return [subprocess.Popen(words, cwd=ROOT, env=env, text=True, **quiet) for _ in range(nodes)]


def losses(folder, work):
    return [entry["loss"] for entry in json.loads((folder / work / "report.json").read_text())["history"]]


def assert_same(folder, one, other):
    assert losses(folder, one) == pytest.approx(losses(folder, other), rel=1e-4)
    first, second = (read(folder / work / "last.pth")["state_dict"] for work in (one, other))
    for key, value in first.items():
        torch.testing.assert_close(second[key], value, atol=1e-5, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_machines_are_one_run_and_a_lost_rank_resumes(tmp_path):
    codes, said = agents(tmp_path, "one", nodes=1)
    assert codes == [0], said
    codes, said = agents(tmp_path, "two")
    assert codes == [0, 0], said
    assert json.loads((tmp_path / "two" / "report.json").read_text())["processes"] == 4
    assert_same(tmp_path, "one", "two")

    die = f"custom_hooks=[{{'type':'tests.stores.test_machines.DieOnce','step':5,'rank':3,'mark':'{tmp_path}/died'}}]"
    codes, said = agents(tmp_path, "lost", die, restarts=3)
    assert codes == [0, 0], said
    assert (tmp_path / "died").exists()
    assert_same(tmp_path, "one", "lost")


@pytest.mark.slow
def test_a_lost_rank_ends_all_with_a_message(tmp_path):
    die = f"custom_hooks=[{{'type':'tests.stores.test_machines.DieOnce','step':5,'rank':3,'mark':'{tmp_path}/died'}}]"
    codes, said = agents(tmp_path, "lost", die)
    assert all(codes), "both agents end"
    assert any("exitcode  : 137" in text and "rank      : 3" in text for text in said), said
    assert read(tmp_path / "lost" / "last.pth")["meta"]["step"] in (4, 5)


@pytest.mark.slow
def test_the_signal_of_a_scheduler_stops_all_machines_after_one_step(tmp_path):
    """As tools/slurm.sh asks for: SIGTERM to every agent; the run is saved, and goes on."""
    long = ["train_cfg.max_epochs=400", "default_hooks.progress.interval=100000"]
    run = begin(tmp_path, "w", *long)
    while not (tmp_path / "w" / "last.pth").exists():
        time.sleep(0.05)
        assert all(agent.poll() is None for agent in run)
    for agent in run:
        agent.send_signal(signal.SIGTERM)
    codes, said = end(run)
    assert all(codes), said
    assert json.loads((tmp_path / "w" / "report.json").read_text())["status"] == "stopped"
    step = read(tmp_path / "w" / "last.pth")["meta"]["step"]
    assert any(f"stopped after step {step}; --resume goes on from there" in text for text in said), said
