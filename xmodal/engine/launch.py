"""Build runners from command-line arguments, and end tools with one line and an exit status."""

import gc
import logging
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.device import get_device

from xmodal.engine.compat import Runner
from xmodal.engine.config import experiment_name, load_config, settings_of
from xmodal.engine.divergence import replay
from xmodal.engine.finetune import find_file
from xmodal.engine.frozen_cache import use_cache
from xmodal.engine.loops import Interrupted
from xmodal.engine.precision import check_amp
from xmodal.engine.stored_config import text_of, write_config
from xmodal.engine.work_dir import claimed


def prepare(
    config: str,
    work_dir: str | None = None,
    options: Sequence[str] = (),
    seed: int | None = None,
    amp: str | None = None,
    launcher: str = "none",
) -> Config:
    """Read a config, or the one that a checkpoint holds, and apply command-line arguments.

    Raises:
        ValueError: see `load_config`; fp16 without a GPU.
    """
    cfg = load_config(config, options)
    cfg.launcher = launcher
    cfg.work_dir = work_dir or cfg.get("work_dir") or str(Path("work_dirs") / experiment_name(cfg, config))
    if seed is not None:
        cfg.randomness.seed = seed
    if amp is not None:
        check_amp(amp, get_device())
        if cfg.get("optim_wrapper") is not None:
            cfg.optim_wrapper.amp = amp
        for stage in ("val_cfg", "test_cfg"):
            if cfg.get(stage) is not None:
                cfg[stage].amp = amp
    return cfg


def train(cfg: Config, resume: str | None = None, allow_changes: bool = False, new_head: bool = False) -> Runner:
    """Train.

    Args:
        cfg: from `prepare`.
        resume: a checkpoint, or `auto` for the last one in the work directory (none there: from the beginning).
        allow_changes: resume although settings differ that change the mathematics.
        new_head: with `load_from` in the config, start the head anew although its shape fits.

    Raises:
        ValueError: another run holds the work directory, or its checkpoints are of another experiment.
    """
    for key in ("train_dataloader", "optim_wrapper"):
        if key not in cfg:
            raise ValueError(f"the config defines no {key}: nothing to train")
    text = text_of(cfg)
    cfg.resume = resume is not None
    start = cfg.get("load_from")
    if start is not None:
        find_file(start)
    elif new_head:
        raise ValueError("--new-head is for a run that starts from other weights: give --load-from")
    cfg.load_from = None if resume in (None, "auto") else resume
    cfg.test_dataloader = cfg.test_cfg = cfg.test_evaluator = None
    settings = settings_of(cfg)
    cache = cfg.pop("cache", None)
    if cache and cfg.get("shard_trunk"):
        raise ValueError("shard_trunk and cache: a cache is filled out of step; fill it with trunk_dtype bf16 or int8")
    with claimed(cfg.work_dir, settings, resume):
        runner = Runner.from_cfg(cfg)
        runner.start_from = (start, new_head) if start is not None else None
        runner.settings, runner.allow_changes, runner.config_text = settings, allow_changes, text
        if runner.rank == 0:
            write_config(cfg.work_dir, text)
        with stop_gently(runner):
            if cache:
                use_cache(runner, cache)
            runner.train()
    return runner


def repeat(cfg: Config, bad_step: str) -> None:
    """Repeat the training step that a `bad_step.json` describes, under anomaly detection; nothing is written."""
    cfg.default_hooks = cfg.custom_hooks = None
    cfg.val_dataloader = cfg.val_cfg = cfg.val_evaluator = None
    cfg.test_dataloader = cfg.test_cfg = cfg.test_evaluator = None
    cfg.pop("cache", None)
    with tempfile.TemporaryDirectory() as folder:
        cfg.work_dir = folder
        replay(Runner.from_cfg(cfg), bad_step)


def evaluate(cfg: Config, checkpoint: str | None, report: str = "test.json") -> dict[str, Any]:
    """Test a checkpoint (None: the model as built); returns the metrics."""
    if "test_dataloader" not in cfg:
        raise ValueError("the config defines no test_dataloader")
    for key in ("train_dataloader", "train_cfg", "optim_wrapper", "param_scheduler", "auto_scale_lr"):
        cfg[key] = None
    cfg.val_dataloader = cfg.val_cfg = cfg.val_evaluator = None
    cfg.default_hooks.checkpoint = cfg.default_hooks.schedule = None
    cfg.custom_hooks = None
    if cfg.default_hooks.get("report"):
        cfg.default_hooks.report.filename = report
    cfg.load_from, cfg.resume = checkpoint, False
    return Runner.from_cfg(cfg).test()


class stop_gently:  # noqa: N801
    """Let Ctrl-C, SIGTERM and SIGUSR1 (Slurm, before its time limit) finish the current step and save.

    Several processes agree on the step. A second signal stops at once; under a launcher one that comes within
    `TOGETHER` seconds is the same one, which the launcher passed on.
    """

    TOGETHER = 5.0

    def __init__(self, runner: Runner):
        self.runner = runner
        self.old: dict[int, Any] = {}
        self.asked = 0.0

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
                self.old[number] = signal.signal(number, self.ask)

    def ask(self, number: int, frame: Any) -> None:
        """Ask once, insist the second time."""
        if self.runner.stop_requested:
            if self.runner.world_size > 1 and time.monotonic() - self.asked < self.TOGETHER:
                return
            raise KeyboardInterrupt
        self.runner.stop_requested, self.asked = True, time.monotonic()
        if self.runner.rank == 0:
            print("\nstopping after this step; once more stops at once", file=sys.stderr)

    def __exit__(self, *_: Any) -> None:
        for number, handler in self.old.items():
            signal.signal(number, handler)


def run(job: Callable[[], Any], resumable: bool = False) -> int:
    """Run a tool; user mistakes and interruptions end with one line and no traceback.

    Returns:
        The exit status: the job's where it returns one, else 0; 2 after a mistake of the user, 130 when interrupted.
        XMODAL_DEBUG=1 shows tracebacks.
    """
    logging.raiseExceptions = False  # a log file on a full disk is not worth forty lines
    try:
        status = job()
        leave_group()
    except Interrupted as stop:  # of all processes together
        stop.__traceback__ = None  # whose frames hold the runner
        leave_group()
        print(f"{stop}{'; --resume goes on from there' if resumable else ''}", file=sys.stderr)
        return 130
    except KeyboardInterrupt:
        print("stopped" + ("; --resume goes on from the last checkpoint" if resumable else ""), file=sys.stderr)
        return 130
    except Exception as error:
        if os.environ.get("XMODAL_DEBUG") or not is_mistake(error):
            raise
        print(f"error: {last_line(error)}", file=sys.stderr)
        return 2
    return status if isinstance(status, int) else 0


def leave_group() -> None:
    """Leave the process group and end its threads: one that frees a tensor while Python ends aborts the process.

    The group's threads end with its last reference, and models under DDP hold one in circles.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
        gc.collect()


def is_mistake(error: Exception) -> bool:
    """Return whether one line says it all: wrong values, files and disks, memory, errors that xmodal defines."""
    if isinstance(error, ValueError | OSError | FloatingPointError | MemoryError | torch.OutOfMemoryError):
        return True
    return type(error).__module__.split(".")[0] in ("xmodal", "video", "pointcloud")


def last_line(error: Exception) -> str:
    """Return an error's message; of an error in a loader's worker, the worker's message."""
    text = str(error).strip()
    if isinstance(error, OSError) and error.errno is not None and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return f"out of memory: a smaller batch_size or a larger train_cfg.batch_split needs less. {text}".strip()
    if "Original Traceback" not in text:
        return text
    return text.splitlines()[-1].split(": ", 1)[-1]
