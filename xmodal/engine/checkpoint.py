"""Checkpoints that hold only what was trained, are written atomically and open with `weights_only=True`."""

import os
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from torch import Tensor, nn

import xmodal
from xmodal.encoders.frozen import moving_keys
from xmodal.metrics import gather
from xmodal.registry import HOOKS, did_you_mean

FORMAT = 1
LAST, BEST = "last.pth", "best.pth"


def bare(model: nn.Module) -> Any:
    """Return the model inside a DDP wrapper, or the model itself."""
    return model.module if is_model_wrapper(model) else model


def own_keys(model: nn.Module) -> set[str]:
    """Keys of the state dict that a checkpoint holds: trained weights, buffers that move with them, the model's extras.

    Args:
        model: its `saved_keys()`, if it has one, names further tensors (such as kept but untrained ones).
    """
    model = bare(model)
    return moving_keys(model) | set(getattr(model, "saved_keys", set)())


def own_state(model: nn.Module) -> dict[str, Tensor]:
    """Copy the tensors of a checkpoint to the CPU."""
    state, keys = bare(model).state_dict(), own_keys(model)
    return {key: state[key].detach().cpu().clone() for key in state if key in keys}


def load_own_state(model: nn.Module, state: dict[str, Tensor], source: str = "the checkpoint") -> None:
    """Put trained weights into a model.

    Args:
        model: with its frozen weights in place.
        state: what `own_state` returned.
        source: for messages.

    Raises:
        ValueError: a key too few, a key too many, or another shape.
    """
    model = bare(model)
    keys, current = own_keys(model), model.state_dict()
    missing, unexpected = sorted(keys - state.keys()), sorted(state.keys() - keys)
    if missing or unexpected:
        hint = f"; {did_you_mean(missing[0], unexpected)}" if missing and unexpected else ""
        raise ValueError(
            f"{source} does not fit this model: {len(missing)} of {len(keys)} trained tensors are missing"
            f"{_some(missing)}, {len(unexpected)} are unexpected{_some(unexpected)}{hint}"
        )
    for key, value in state.items():
        if value.shape != current[key].shape:
            raise ValueError(f"{source}: {key} has shape {tuple(value.shape)}, the model's {tuple(current[key].shape)}")
    model.load_state_dict(state, strict=False)


def _some(names: list[str]) -> str:
    return f" ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})" if names else ""


def write(path: str | Path, checkpoint: dict[str, Any]) -> None:
    """Write a file beside `path` and rename it, so that an interruption leaves the old file or the new one."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.tmp")
    with open(unfinished, "wb") as file:
        torch.save(checkpoint, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(unfinished, path)


def read(path: str | Path) -> dict[str, Any]:
    """Load a checkpoint of this suite to the CPU with `weights_only=True`.

    Raises:
        ValueError: no such file, or not a checkpoint of ours.
    """
    if not Path(path).is_file():
        raise ValueError(f"no checkpoint at {path}")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"{path} is not a checkpoint written by tools/train.py ({type(error).__name__})") from error
    if not isinstance(checkpoint, dict) or checkpoint.get("meta", {}).get("format") != FORMAT:
        raise ValueError(f"{path} is not a checkpoint written by tools/train.py (see tools/convert.py for others)")
    return checkpoint


def check_encoder(model: nn.Module, meta: dict[str, Any], source: str) -> None:
    """Refuse weights that were trained on another frozen encoder.

    Raises:
        ValueError: another name or another hash.
    """
    find = getattr(bare(model), "frozen_fingerprint", None)
    here, there = find() if find else None, meta.get("encoder")
    if here and there and here != there:
        raise ValueError(
            f"{source} was trained on encoder {there['encoder']} (weights {there['sha256'][:12]}), "
            f"this config builds {here['encoder']} (weights {here['sha256'][:12]})"
        )


def load_weights(model: nn.Module, path: str | Path) -> dict[str, Any]:
    """Load a checkpoint for evaluation; where the run evaluated averaged (EMA) weights, those are loaded.

    Returns:
        The checkpoint's `meta`.
    """
    checkpoint = read(path)
    check_encoder(model, checkpoint["meta"], str(path))
    averaged = checkpoint["meta"].get("evaluated") == "ema" and "ema_state_dict" in checkpoint
    state = dict(checkpoint["state_dict"])
    if averaged:
        state.update(checkpoint["ema_state_dict"])
    load_own_state(model, state, str(path))
    return checkpoint["meta"]


def random_state() -> dict[str, Any]:
    """Return the random states of torch (CPU and this GPU), numpy and Python as numbers and tensors."""
    name, keys, position, has_gauss, gauss = np.random.get_state()
    version, internal, gauss_next = random.getstate()
    state = {
        "torch": torch.get_rng_state(),
        "numpy": [
            str(name),
            torch.from_numpy(np.asarray(keys, dtype=np.int64)),
            int(position),
            int(has_gauss),
            float(gauss),
        ],
        "python": [version, list(internal), gauss_next],
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: dict[str, Any]) -> None:
    """Restore what `random_state` returned."""
    torch.set_rng_state(state["torch"])
    name, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, gauss))
    version, internal, gauss_next = state["python"]
    random.setstate((version, tuple(internal), gauss_next))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def pack(runner: Any, step: int, validated: bool) -> dict[str, Any]:
    """Collect everything needed to resume after `step`; every rank must call this."""
    loop, model = runner.train_loop, bare(runner.model)
    find = getattr(model, "frozen_fingerprint", None)
    classes = getattr(loop.dataloader.dataset, "classes", None)
    meta = {
        "format": FORMAT, "version": xmodal.__version__, "time": time.strftime("%Y-%m-%d %H:%M:%S"),
        "step": step, "epoch": step // loop.steps_per_epoch, "validated": validated, "seed": runner.seed,
        "samples": len(loop.dataloader.dataset), "global_batch": loop.batch * runner.world_size,
        "encoder": dict(find()) if find else None, "classes": list(map(str, classes)) if classes else None,
        "config": Path(runner.cfg.filename).stem if runner.cfg.filename else None,
    }  # fmt: skip
    checkpoint = {
        "meta": meta,
        "state_dict": own_state(model),
        "optimizer": runner.optim_wrapper.state_dict(),
        "schedules": [s.state_dict() for s in runner.param_schedulers or ()],
        "random": gather(random_state()),
    }
    if (sums := loop.unfinished(step)) is not None:
        checkpoint["progress"] = sums
    runner.call_hook("before_save_checkpoint", checkpoint=checkpoint)
    return checkpoint


def resume(runner: Any, path: str | Path) -> None:
    """Resume a run: restore weights, optimizer, schedules, random states and position.

    Raises:
        ValueError: a checkpoint without optimizer, of another encoder, seed, data set size or batch size.
    """
    checkpoint = read(path)
    meta, loop = checkpoint["meta"], runner.train_loop
    if "optimizer" not in checkpoint:
        raise ValueError(f"{path} holds weights only; resume from {LAST}")
    check_encoder(runner.model, meta, str(path))
    here = {
        "seed": runner.seed,
        "samples": len(loop.dataloader.dataset),
        "global_batch": loop.batch * runner.world_size,
    }
    for key, value in here.items():
        if meta[key] != value:
            raise ValueError(f"cannot go on from {path}: {key} was {meta[key]} and is {value} now")
    if meta["step"] > loop.max_iters:
        raise ValueError(f"{path} is at step {meta['step']}, beyond the {loop.max_iters} steps of this config")
    load_own_state(runner.model, checkpoint["state_dict"], str(path))
    runner.optim_wrapper.load_state_dict(checkpoint["optimizer"])
    for schedule, state in zip(runner.param_schedulers or (), checkpoint["schedules"], strict=True):
        schedule.load_state_dict(state)
    runner.call_hook("after_load_checkpoint", checkpoint=checkpoint)
    loop.meter.saved = checkpoint.get("progress")
    loop._iter, loop.validated = meta["step"], meta["validated"]
    if len(checkpoint["random"]) == runner.world_size:
        set_random_state(checkpoint["random"][runner.rank])
    else:
        print_log("another number of processes: random states are not restored", logger="current")
    print_log(f"Going on after step {meta['step']} of {loop.max_iters} from {path}", logger="current")


@HOOKS.register_module(name="checkpoint")
class CheckpointHook(Hook):
    """Keep `last.pth` (to resume) and `best.pth` (weights alone) in the work directory.

    `last.pth` is written before each validation, so that a run killed while validating loses no training, and after it.

    Args:
        every_epochs: epochs between checkpoints; the end is always saved.
        every_steps: also every so many steps (in a run counted in steps: passes over the data stay the other border).
        best: validation metric that decides; None keeps no best.
        lower_is_better: its direction.
        keep_epochs: also keep `epoch_N.pth` (weights alone) of every so many epochs.
    """

    priority = "VERY_LOW"  # after the schedules and the averages have moved on

    def __init__(
        self,
        every_epochs: int = 1,
        every_steps: int | None = None,
        best: str | None = "top1",
        lower_is_better: bool = False,
        keep_epochs: int | None = None,
    ):
        self.every_epochs, self.every_steps, self.keep_epochs = every_epochs, every_steps, keep_epochs
        self.best, self.sign = best, -1 if lower_is_better else 1
        self.best_value: float | None = None

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Save in the middle of an epoch."""
        step = runner.iter + 1
        if self.every_steps and step % self.every_steps == 0 and step != runner.train_loop.segment_end(runner.iter):
            self.save(runner, step, validated=True)

    def after_train_epoch(self, runner: Any, metrics: Any = None) -> None:
        """Save at the end of an epoch, before its validation."""
        loop, step = runner.train_loop, runner.iter
        due = loop.validation_due(step)
        passes = step // loop.steps_per_epoch
        at_pass = step % loop.steps_per_epoch == 0 and passes % self.every_epochs == 0
        if at_pass or due or step == loop.max_iters or (self.every_steps and step % self.every_steps == 0):
            self.save(runner, step, validated=not due)
        if self.keep_epochs and step % loop.steps_per_epoch == 0 and passes % self.keep_epochs == 0:
            self.save(runner, step, validated=True, name=f"epoch_{passes}.pth", weights_only=True)

    def after_val_epoch(self, runner: Any, metrics: dict | None = None) -> None:
        """Save again, and keep the best."""
        if not runner.training:
            return
        value = (metrics or {}).get(self.best) if self.best else None
        if self.best and value is None:
            print_log(f"no validation metric is called {self.best!r}: no {BEST} is kept", logger="current")
        better = value is not None and (self.best_value is None or self.sign * value > self.sign * self.best_value)
        if better:
            self.best_value = float(value)  # type: ignore[arg-type]
        self.save(runner, runner.iter, validated=True)
        if better:
            self.save(runner, runner.iter, validated=True, name=BEST, weights_only=True)

    def on_interrupt(self, runner: Any) -> None:
        """Save where the user stopped the run."""
        self.save(runner, runner.iter, validated=not runner.train_loop.validation_due(runner.iter))

    def save(self, runner: Any, step: int, validated: bool, name: str = LAST, weights_only: bool = False) -> None:
        """Write one file (rank 0)."""
        checkpoint = pack(runner, step, validated)
        checkpoint["meta"]["best"] = self.best_value
        if weights_only:
            for key in ("optimizer", "schedules", "random", "report", "progress"):
                checkpoint.pop(key, None)
        if runner.rank == 0:
            write(Path(runner.work_dir) / name, checkpoint)

    def after_load_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """Remember the best value so far."""
        self.best_value = checkpoint["meta"].get("best")
