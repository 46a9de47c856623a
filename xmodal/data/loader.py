"""Build a `torch.utils.data.DataLoader` from a config."""

import atexit
import inspect
import os
import signal
from functools import partial
from multiprocessing import RawValue
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from xmodal.data.collate import collate
from xmodal.registry import DATASETS, build, check_arguments, resolve

EXITING = RawValue("b", 0)
atexit.register(setattr, EXITING, "value", 1)  # runs before multiprocessing ends its children


def build_dataset(cfg: Any, seed: int = 0) -> Any:
    """Build a data set; it receives the run's seed unless the config gives one."""
    if not isinstance(cfg, dict):
        return cfg
    kind = resolve(cfg["type"], DATASETS) if "type" in cfg else None
    takes_seed = kind is not None and "seed" in inspect.signature(kind).parameters
    return build(cfg, DATASETS, **({"seed": seed} if takes_seed else {}))


def build_loader(cfg: dict[str, Any], dataset: Dataset, sampler: Sampler, seed: int = 0) -> DataLoader:
    """Build a loader whose workers and order never touch the global random state.

    Args:
        cfg: `batch_size`, `num_workers` and any other argument of `DataLoader`; `dataset` in it is ignored.
        dataset: the built data set.
        sampler: yields its keys.
        seed: of the workers' base seeds.

    Raises:
        ValueError: a misspelt argument, or one that the engine sets itself.
    """
    options = {k: v for k, v in cfg.items() if k != "dataset"}
    for key in ("sampler", "shuffle", "batch_sampler", "generator"):
        if key in options:
            raise ValueError(
                f"a dataloader config cannot set {key!r}: the engine orders the samples (seeded, resumable)"
            )
    check_arguments(DataLoader, options)
    if "batch_size" not in options:
        raise ValueError("a dataloader config needs batch_size (samples per process)")
    options.setdefault("collate_fn", collate)
    options.setdefault("pin_memory", torch.cuda.is_available())
    if options.get("num_workers", 0):
        options.setdefault("worker_init_fn", partial(quiet_worker, EXITING))
    else:
        for key in ("persistent_workers", "prefetch_factor", "timeout", "multiprocessing_context"):
            options.pop(key, None)  # of worker processes, and there are none
    return DataLoader(dataset, sampler=sampler, generator=torch.Generator().manual_seed(seed), **options)


def quiet_worker(exiting: Any, _: int) -> None:
    """Leave Ctrl-C, SIGUSR1 and a first SIGTERM to the main process, which finishes its step and saves.

    A second SIGTERM, or one when the main process exits, ends the worker. It uses one torch thread.

    Args:
        exiting: a shared number, not 0 once the main process exits.
        _: number of the worker.
    """
    for number in (signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)

    def ended(number: int, frame: Any) -> None:
        if exiting.value:
            os._exit(0)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    signal.signal(signal.SIGTERM, ended)
    torch.set_num_threads(1)
