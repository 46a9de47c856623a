"""Resume a run from its checkpoint, after comparing the settings and the data with those it was started with."""

from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from mmengine.logging import print_log

from xmodal.engine.checkpoint import LAST, check_encoder, data_key, load_own_state, position_of, read, set_random_state
from xmodal.engine.config import settings_of

# Settings that a resumed run may change. Silent: where and how it runs, not what it computes.
SILENT = (
    "work_dir", "launcher", "load_from", "resume", "experiment_name", "log_level", "default_scope", "about*",
    "visualizer*", "vis_backends*", "env_cfg*", "custom_imports*", "test_*", "benchmarks*",
    "default_hooks.progress*", "default_hooks.report*",
    "cache.root", "cache.max_gb", "cache.batch", "cache.workers",
    "*_dataloader.num_workers", "*_dataloader.persistent_workers", "*_dataloader.prefetch_factor",
    "*_dataloader.pin_memory", "*_dataloader.copy_ahead", "*_dataloader.timeout",
    "*_dataloader.multiprocessing_context",
)  # fmt: skip
# Said: the training steps stay the same ones.
SAID = (
    "val_*", "default_hooks.checkpoint*", "custom_hooks*", "train_cfg.val_interval", "train_cfg.val_begin",
    "train_cfg.batch_split",
)  # fmt: skip
# Said: they take effect from the next step on.
RATES = ("optim_wrapper.optimizer.lr", "optim_wrapper.optimizer.weight_decay", "optim_wrapper.paramwise_cfg.lr_mult*")
# Compared by what they amount to: the global batch, and the names and labels of the samples.
JUDGED = (
    "train_dataloader.batch_size", "train_dataloader.dataset.root", "train_dataloader.dataset.annotation",
    "train_dataloader.dataset.prefix",
)  # fmt: skip


def resume(runner: Any, path: str | Path, allow_changes: bool = False) -> None:
    """Resume a run: restore weights, optimizer, schedules, random states and position.

    Args:
        runner: built, not started.
        path: a checkpoint that was written to resume (`last.pth`).
        allow_changes: go on although settings differ that change the mathematics.

    Raises:
        ValueError: a damaged checkpoint, one without optimizer, or of another encoder, seed, data, batch size or
            settings.
    """
    checkpoint = read(path)
    if "optimizer" not in checkpoint:
        raise ValueError(f"{path} holds weights only; resume from {LAST}")
    with damage_named(path):
        check_encoder(runner.model, checkpoint["meta"], str(path))
        check_position(runner, checkpoint["meta"], path, allow_changes)
        check_settings(runner, checkpoint["meta"], path, allow_changes)
        restore(runner, checkpoint, path)
    loop = runner.train_loop
    print_log(f"Going on after step {loop.iter} of {loop.max_iters} from {path}", logger="current")


@contextmanager
def damage_named(path: str | Path) -> Iterator[None]:
    """Turn the errors of a garbled checkpoint into one that names the file."""
    try:
        yield
    except ValueError as error:
        if str(path) in str(error) or "checkpoint" in str(error):
            raise
        raise ValueError(f"{path} cannot be resumed: {error}") from error
    except (KeyError, IndexError, TypeError, AttributeError, RuntimeError) as error:
        raise ValueError(f"{path} is damaged or not whole: {type(error).__name__}: {error}") from error


def check_position(runner: Any, meta: dict[str, Any], path: str | Path, allow_changes: bool) -> None:
    """Refuse a checkpoint whose position means another place in this run.

    Raises:
        ValueError: another seed, number of samples or global batch, or a step beyond the end.
    """
    for key, value in position_of(runner).items():
        if meta[key] != value and not (allow_changes and key == "seed"):
            raise ValueError(f"cannot go on from {path}: {key} was {meta[key]} and is {value} now")
    loop = runner.train_loop
    if meta["step"] > loop.max_iters:
        raise ValueError(f"{path} is at step {meta['step']}, beyond the {loop.max_iters} steps of this config")
    there, here = meta.get("data"), data_key(loop.dataloader.dataset)
    if there and here and there != here and not allow_changes:
        raise ValueError(
            f"cannot go on from {path}: the training list names other samples or labels than when the run began; "
            "give the old list, or --allow-changes"
        )


def check_settings(runner: Any, meta: dict[str, Any], path: str | Path, allow_changes: bool) -> None:
    """Compare the resolved config with that of the run: say what differs, refuse what changes the mathematics.

    Raises:
        ValueError: such a difference, without `allow_changes`.
    """
    if "settings" not in meta:  # written by a version that did not keep them
        return
    changed = changes(meta["settings"], runner.settings or settings_of(runner.cfg))
    serious = [text for key, text in changed.items() if not matches(key, SAID + RATES + JUDGED)]
    if serious and not allow_changes:
        shown = "; ".join(serious[:6]) + (f"; and {len(serious) - 6} more" if len(serious) > 6 else "")
        raise ValueError(
            f"cannot go on from {path}, the config differs from the run's: {shown}. "
            "--allow-changes goes on with the new settings; another --work-dir begins a new run"
        )
    for key, text in changed.items():
        effect = "takes effect from here on" if matches(key, RATES) or text in serious else "changes no training step"
        print_log(f"resumed with another setting: {text} ({effect})", logger="current")


def changes(old: dict[str, str], new: dict[str, str]) -> dict[str, str]:
    """Return key -> `key: was A, is B` for settings that differ, without those of how a run is carried out."""
    keys = [k for k in sorted(old.keys() | new.keys()) if old.get(k) != new.get(k) and not matches(k, SILENT)]
    return {k: f"{k}: was {old.get(k, 'not set')}, is {new.get(k, 'not set')}" for k in keys}


def matches(key: str, patterns: tuple[str, ...]) -> bool:
    """Return whether a key is one of some patterns."""
    return any(fnmatchcase(key, pattern) for pattern in patterns)


def restore(runner: Any, checkpoint: dict[str, Any], path: str | Path) -> None:
    """Put a checkpoint's state into a runner."""
    meta, loop = checkpoint["meta"], runner.train_loop
    load_own_state(runner.model, checkpoint["state_dict"], str(path))
    runner.optim_wrapper.load_state_dict(checkpoint["optimizer"])
    for schedule, state in zip(runner.param_schedulers or (), checkpoint["schedules"], strict=True):
        schedule.load_state_dict(state)
    runner.call_hook("after_load_checkpoint", checkpoint=checkpoint)
    loop.meter.saved = own_sums(checkpoint.get("progress"), runner.rank, runner.world_size)
    loop._iter, loop.validated = meta["step"], meta["validated"]
    if len(checkpoint["random"]) == runner.world_size:
        set_random_state(checkpoint["random"][runner.rank])
    else:
        print_log("another number of processes: random states are not restored", logger="current")


def own_sums(progress: list | None, rank: int, world: int) -> list | None:
    """Return this process's part of the sums of an unfinished epoch: [step, of the epoch, of the log window].

    Args:
        progress: [step, [epoch, window] of each process], each as [sums, count, weight]. Older checkpoints hold
            [step, sums of the epoch in one process].
        rank: of this process.
        world: number of processes; another one than before: the first process takes all sums.
    """
    if not progress:
        return None
    step, parts = progress
    if isinstance(parts[0], dict):
        parts = [[parts, [{}, 0, 0.0]]]
    if len(parts) == world:
        return [step, *parts[rank]]
    return [step, *(share([part[i] for part in parts], rank == 0) for i in (0, 1))]


def share(states: list, first: bool) -> list:
    """Return the sum of [sums, count, weight] of several processes for the first process, zeros for another."""
    keys = dict.fromkeys(key for sums, _, _ in states for key in sums)
    if not first:
        return [dict.fromkeys(keys, 0.0), states[0][1], 0.0]
    whole = {key: sum(sums.get(key, 0.0) for sums, _, _ in states) for key in keys}
    return [whole, states[0][1], sum(weight for _, _, weight in states)]
