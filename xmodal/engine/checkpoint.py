"""Checkpoints that hold only what was trained, are written atomically and open with `weights_only=True`."""

import hashlib
import io
import math
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
from xmodal.atomic import replacing
from xmodal.encoders.frozen import moving_keys
from xmodal.engine.config import settings_of
from xmodal.metrics import gather
from xmodal.registry import HOOKS, did_you_mean
from xmodal.torch_files import read_torch

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
    """Copy the tensors of a checkpoint to the CPU; one of several names is copied, and stored, once."""
    state, keys = bare(model).state_dict(keep_vars=True), own_keys(model)
    copies = {id(state[key]): state[key].detach().cpu().clone() for key in state if key in keys}
    return {key: copies[id(state[key])] for key in state if key in keys}


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
    """Write a checkpoint in one piece: an interruption or a full disk leaves the old file.

    Raises:
        FloatingPointError: a weight, an average or an optimizer state that is not finite.
        OSError: the disk is full or read-only.
    """
    if (name := not_finite(checkpoint)) is not None:
        raise FloatingPointError(f"{name} is not finite: {path} is left as it was")
    content = io.BytesIO()  # torch.save hides the errors of a disk
    torch.save(checkpoint, content)
    with replacing(path) as file:
        file.write(content.getbuffer())


def not_finite(node: Any, name: str = "") -> str | None:
    """Return the name of the first floating-point tensor of a nested state that holds NaN or infinity, None if none."""
    if isinstance(node, Tensor):
        return name if node.is_floating_point() and not bool(torch.isfinite(node).all()) else None
    inner: Any = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list | tuple) else ()
    return next((bad for k, v in inner if (bad := not_finite(v, f"{name}.{k}".lstrip("."))) is not None), None)


def read(path: str | Path) -> dict[str, Any]:
    """Load a checkpoint of this suite to the CPU with `weights_only=True`; its checksums are compared.

    Raises:
        ValueError: no such file, a damaged file, or not a checkpoint of ours.
    """
    if not Path(path).exists():
        raise ValueError(f"no checkpoint at {path}")
    checkpoint = read_torch(path, "a checkpoint written by tools/train.py")
    meta = checkpoint.get("meta") if isinstance(checkpoint, dict) else None
    if not isinstance(meta, dict) or meta.get("format") != FORMAT:
        raise ValueError(f"{path} is not a checkpoint written by tools/train.py (see tools/convert.py for others)")
    state = checkpoint.get("state_dict")
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path} is damaged: it holds no state_dict of tensors")
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
            f"this config builds {here['encoder']} (weights {here['sha256'][:12]}): give the config with which it was "
            "trained, or leave the config out (tools/test.py CHECKPOINT takes the one that the checkpoint holds)"
        )


def evaluated_state(checkpoint: dict[str, Any]) -> dict[str, Tensor]:
    """Return the weights that a run evaluated: the averaged ones (EMA) where it says so."""
    averaged = checkpoint["meta"].get("evaluated") == "ema"
    return {**checkpoint["state_dict"], **(checkpoint.get("ema_state_dict", {}) if averaged else {})}


def load_weights(model: nn.Module, path: str | Path) -> dict[str, Any]:
    """Load a checkpoint for evaluation; where the run evaluated averaged (EMA) weights, those are loaded.

    Returns:
        The checkpoint's `meta`.

    Raises:
        ValueError: it does not fit, or holds weights that are not finite.
    """
    checkpoint = read(path)
    check_encoder(model, checkpoint["meta"], str(path))
    state = evaluated_state(checkpoint)
    if (name := not_finite(state)) is not None:
        raise ValueError(f"{path}: {name} is not finite: this run diverged before it was saved")
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


def position_of(runner: Any) -> dict[str, int]:
    """Return what the meaning of a step number depends on: seed, number of samples and global batch."""
    loop = runner.train_loop
    return {
        "seed": runner.seed,
        "samples": len(loop.dataloader.dataset),
        "global_batch": loop.batch * runner.world_size,
    }


def data_key(dataset: Any) -> str | None:
    """Hash the names and labels of a data set's samples, wherever they lie; None where it does not list them."""
    samples = getattr(dataset, "samples", None)
    if not isinstance(samples, list | tuple) or not all(hasattr(sample, "sample_id") for sample in samples):
        return None
    listed = hashlib.sha256()
    for sample in samples:
        listed.update(f"{sample.sample_id}\0{getattr(sample, 'label', '')}\n".encode(errors="surrogateescape"))
    return listed.hexdigest()[:16]


def pack(runner: Any, step: int, validated: bool) -> dict[str, Any]:
    """Collect everything needed to resume after `step`; every rank must call this."""
    loop, model = runner.train_loop, bare(runner.model)
    find = getattr(model, "frozen_fingerprint", None)
    classes = getattr(loop.dataloader.dataset, "classes", None)
    meta = {
        "format": FORMAT, "version": xmodal.__version__, "time": time.strftime("%Y-%m-%d %H:%M:%S"),
        "step": step, "epoch": step // loop.steps_per_epoch, "validated": validated, **position_of(runner),
        "encoder": dict(find()) if find else None, "classes": list(map(str, classes)) if classes else None,
        "config": Path(runner.cfg.filename).stem if runner.cfg.filename else None,
        "settings": runner.settings or settings_of(runner.cfg), "data": data_key(loop.dataloader.dataset),
        "config_text": runner.config_text,
    }  # fmt: skip
    checkpoint = {
        "meta": meta,
        "state_dict": own_state(model),
        "optimizer": runner.optim_wrapper.state_dict(),
        "schedules": [s.state_dict() for s in runner.param_schedulers or ()],
        "random": gather(random_state()),
    }
    if (sums := loop.unfinished(step)) is not None:
        checkpoint["progress"] = [sums[0], gather(sums[1])]
    runner.call_hook("before_save_checkpoint", checkpoint=checkpoint)
    return checkpoint


@HOOKS.register_module(name="checkpoint")
class CheckpointHook(Hook):
    """Keep `last.pth` (to resume) and `best.pth` (weights alone) in the work directory.

    `last.pth` is written before each validation, so that a run killed while validating loses no training, and after it.
    `best.pth` and `epoch_N.pth` are written before the `last.pth` that knows of them. Nothing not finite is written.

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
        self.best_step: int | None = None

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
        if self.keep_epochs and step % loop.steps_per_epoch == 0 and passes % self.keep_epochs == 0:
            self.save(runner, step, validated=True, name=f"epoch_{passes}.pth", weights_only=True)
        if at_pass or due or step == loop.max_iters or (self.every_steps and step % self.every_steps == 0):
            self.save(runner, step, validated=not due)

    def after_val_epoch(self, runner: Any, metrics: dict | None = None) -> None:
        """Keep the best, then save again: a kill in between validates again and loses nothing."""
        if not runner.training:
            return
        value = (metrics or {}).get(self.best) if self.best else None
        if self.best and value is None:
            print_log(f"no validation metric is called {self.best!r}: no {BEST} is kept", logger="current")
        if value is not None and not math.isfinite(value):
            print_log(f"{self.best} is {value}: {BEST} stays as it is", logger="current")
            value = None
        if value is not None and (self.best_value is None or self.sign * value > self.sign * self.best_value):
            self.best_value, self.best_step = float(value), runner.iter
            self.save(runner, runner.iter, validated=True, name=BEST, weights_only=True)
        self.save(runner, runner.iter, validated=True)

    def on_interrupt(self, runner: Any) -> None:
        """Save where the user stopped the run."""
        self.save(runner, runner.iter, validated=not runner.train_loop.validation_due(runner.iter))

    def save(self, runner: Any, step: int, validated: bool, name: str = LAST, weights_only: bool = False) -> None:
        """Write one file (rank 0)."""
        checkpoint = pack(runner, step, validated)
        checkpoint["meta"] |= {"best": self.best_value, "best_step": self.best_step}
        if weights_only:
            for key in ("optimizer", "schedules", "random", "report", "progress"):
                checkpoint.pop(key, None)
        if runner.rank == 0:
            write(Path(runner.work_dir) / name, checkpoint)

    def after_load_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """Remember the best value so far."""
        self.best_value = checkpoint["meta"].get("best")
        self.best_step = checkpoint["meta"].get("best_step")
