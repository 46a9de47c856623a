"""Overrides of mmengine 0.10.7 with their reasons; tests/engine/test_compat.py fails when one is no longer needed."""

import itertools
import os
import socket
import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import mmengine
import torch
import torch.distributed as dist
from mmengine.logging import print_log
from mmengine.model import MMDistributedDataParallel
from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import LOOPS
from mmengine.runner import Runner as StockRunner
from torch import nn

from xmodal.engine import checkpoint as checkpoints
from xmodal.engine import classes
from xmodal.engine.finetune import load_start
from xmodal.engine.logs import note, share_files
from xmodal.engine.optim import TrainedGroups
from xmodal.engine.resume import resume
from xmodal.engine.schedule import SCHEDULES, Schedule
from xmodal.engine.sharding import shard_frozen
from xmodal.engine.sizes import check_input
from xmodal.registry import HOOKS, METRICS, MODELS, build, check_arguments, did_you_mean, resolve

RUNS = itertools.count(1)


def quiet() -> None:
    """Hide warnings that every run would show and nobody can act on (until mmengine follows torch and setuptools)."""
    for message in (".*pkg_resources.*", ".*weights_only.*", ".*lr_scheduler.step.*", ".*pin_memory.*no accelerator.*"):
        warnings.filterwarnings("ignore", message=message)
    warnings.filterwarnings("ignore", category=FutureWarning, module="mmengine")
    warnings.filterwarnings("ignore", category=DeprecationWarning, module="mmengine")


def init_distributed(launcher: str) -> None:
    """Join the process group on a machine without a GPU. Why: mmengine's init_dist calls torch.cuda.set_device.

    Until: `init_dist("pytorch", backend="gloo")` works without a driver.
    """
    if launcher == "none" or torch.cuda.is_available() or dist.is_initialized():
        return
    if launcher == "slurm":
        tasks = {"RANK": "SLURM_PROCID", "WORLD_SIZE": "SLURM_NTASKS", "LOCAL_RANK": "SLURM_LOCALID"}
        for name, source in tasks.items():
            os.environ.setdefault(name, os.environ.get(source, "0"))
        os.environ.setdefault("MASTER_ADDR", os.environ.get("SLURM_LAUNCH_NODE_IPADDR", socket.gethostname()))
        os.environ.setdefault("MASTER_PORT", "29500")
    missing = [name for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise ValueError(f"--launcher {launcher} needs {', '.join(missing)}: start this with torchrun")
    dist.init_process_group("gloo")


def _checked_loop(loop: Any) -> Any:
    if isinstance(loop, dict) and "type" in loop:
        loop = dict(loop)
        loop["type"] = resolve(loop["type"], LOOPS)
        check_arguments(loop["type"], {k: v for k, v in loop.items() if k != "type"})
    return loop


class Runner(StockRunner):
    """mmengine's Runner with the overrides of this suite.

    Its hook list has ours instead of mmengine's: theirs call `.item()` on every scalar of every iteration and keep them
    in HistoryBuffers, which cost O(n) an iteration and end up in the checkpoints (until update_scalar is O(1)).
    """

    def __init__(self, *args: Any, **kwargs: Any):
        self.stop_requested = False
        self.allow_changes = False  # of settings, on resuming
        self.settings: dict[str, str] | None = None  # kept in checkpoints; None: those of `cfg`
        self.config_text: str | None = None  # kept in checkpoints
        self.start_from: tuple[str, bool] | None = None  # weights to start from, and whether the head starts anew
        self.training = False
        self.trained_classes: list[str] | None = None  # of the checkpoint that is tested
        self.log_interval = 50  # steps between two points of the curves; ProgressHook sets it
        # Why: runners started within one second share logger and visualizer by name. Until: names are not timestamps
        name = kwargs.get("experiment_name") or Path(getattr(kwargs.get("cfg"), "filename", None) or "run").stem
        kwargs["experiment_name"] = f"{name}_{next(RUNS)}"
        super().__init__(*args, **kwargs)

    @property
    def device(self) -> torch.device:
        """Return the device of the model."""
        return next(self.model.parameters()).device

    def setup_env(self, env_cfg: dict) -> None:
        """Set up the environment as mmengine does, after `init_distributed`."""
        quiet()
        init_distributed(self._launcher)
        super().setup_env(env_cfg)

    def build_model(self, model: Any) -> nn.Module:
        """Build with our registry. Why: it names misspelt arguments. Until: mmengine's does."""
        return build(model, MODELS)

    def wrap_model(self, model_wrapper_cfg: Any, model: nn.Module) -> nn.Module:
        """Wrap for DDP. Why: mmengine passes device_ids for modules on the CPU too. Until: it does not.

        Afterwards each process draws its own random numbers (dropout, mixing); all have started from equal weights.
        """
        if model_wrapper_cfg is not None:
            return super().wrap_model(model_wrapper_cfg, model)
        device = mmengine.device.get_device()
        if self.cfg.get("shard_trunk"):
            shard_frozen(model, device)
        if not self.distributed:
            return model.to(device)
        if (kind := self.cfg.get("sync_bn")) is not None:
            model = mmengine.model.convert_sync_batchnorm(model, kind)
        ids = [int(os.environ["LOCAL_RANK"])] if device == "cuda" else None
        wrapped = MMDistributedDataParallel(module=model.to(device), device_ids=ids, broadcast_buffers=False)
        torch.manual_seed((self.seed or 0) + 1_000_003 * self.rank)
        return wrapped

    def _init_model_weights(self) -> None:
        """Do nothing. Why: mmengine re-initializes weights where a child has init_weights, as timm models do.

        Until: it leaves weights alone that were loaded.
        """

    def _maybe_compile(self, target: str) -> None:
        """Do nothing. Why: mmengine compiles the whole step. Ours: TransferModel(compile_blocks=True)."""

    def build_optim_wrapper(self, optim_wrapper: Any) -> Any:
        """Build with our constructor unless the config names one. Why: mmengine's makes one group a weight."""
        if isinstance(optim_wrapper, dict) and "constructor" not in optim_wrapper:
            cfg = dict(optim_wrapper)
            cfg.pop("type", None)
            return TrainedGroups(cfg, cfg.pop("paramwise_cfg", None))(self.model)
        return super().build_optim_wrapper(optim_wrapper)

    def _build_param_scheduler(self, scheduler: Any, optim_wrapper: Any) -> list:
        """Build our schedules as well as mmengine's. Why: no warm-up of theirs starts from exactly 0."""
        built: list[Any] = []
        for cfg in scheduler if isinstance(scheduler, Sequence) else [scheduler]:
            kind = cfg.get("type") if isinstance(cfg, dict) else None
            if isinstance(kind, str) and ("." in kind or kind in SCHEDULES.module_dict):
                kind = resolve(kind, SCHEDULES)
            if isinstance(kind, type) and issubclass(kind, Schedule):
                loop = self.train_loop
                given = {
                    "total_steps": loop.max_iters,
                    "epoch_length": loop.steps_per_epoch,
                    "optimizer": optim_wrapper,
                }
                built.append(build({**cfg, "type": kind}, SCHEDULES, **given))
            else:
                built += super()._build_param_scheduler(cfg, optim_wrapper)
        return built

    def build_evaluator(self, evaluator: Any) -> Any:
        """Build metrics with our registry first."""
        if isinstance(evaluator, dict):
            evaluator = [evaluator]
        if isinstance(evaluator, Sequence):
            evaluator = [build(cfg, METRICS) for cfg in evaluator]
        return super().build_evaluator(evaluator)

    def build_train_loop(self, loop: Any) -> Any:
        """Build the training loop; misspelt arguments are refused by name."""
        self._train_loop = super().build_train_loop(_checked_loop(loop))
        classes.check_training(self)
        check_input(self.model, self._train_loop.dataloader.dataset, "train")
        return self._train_loop

    def build_val_loop(self, loop: Any) -> Any:
        """Build the loop, its classes numbered as in training."""
        built = super().build_val_loop(_checked_loop(loop))
        self.name_classes(built, "val")
        return built

    def name_classes(self, loop: Any, stage: str) -> None:
        """Number the classes of an evaluation loop's data as in training, and tell their names to its metrics."""
        names = classes.agree(self, stage, loop.dataloader.dataset)
        check_input(self.model, loop.dataloader.dataset, stage, classes.train_set(self))
        loop.evaluator.dataset_meta = {"classes": names} if names else None

    def build_test_loop(self, loop: Any) -> Any:
        """Build the loop."""
        return super().build_test_loop(_checked_loop(loop))

    def register_default_hooks(self, hooks: dict | None = None) -> None:
        """Register what the config lists and nothing else; None leaves a hook out."""
        for cfg in (hooks or {}).values():
            if cfg is not None:
                self.register_hook(cfg)

    def register_hook(self, hook: Any, priority: Any = None) -> None:
        """Build hooks with our registry, then mmengine's."""
        if isinstance(hook, dict):
            cfg = dict(hook)
            priority = cfg.pop("priority", priority)
            kind = cfg["type"]
            ours = not isinstance(kind, str) or "." in kind or kind in HOOKS.module_dict
            if not ours and kind not in MMENGINE_HOOKS.module_dict:
                known = {*HOOKS.module_dict, *MMENGINE_HOOKS.module_dict}
                raise ValueError(f"no hook is called {kind!r}; {did_you_mean(kind, known)}")
            hook = build(cfg, HOOKS if ours else MMENGINE_HOOKS)
        super().register_hook(hook, priority)

    def load_or_resume(self) -> None:
        """Resume or load our checkpoints. Why: mmengine's do not open with torch >= 2.6. Until: weights_only=True can.

        `resume` without `load_from` takes `last.pth` of the work directory if there is one.
        """
        if self._has_loaded:  # type: ignore[has-type]
            return
        self._has_loaded = True
        last = os.path.join(self.work_dir, checkpoints.LAST)
        if self._resume and (self._load_from or os.path.exists(last)):
            resume(self, self._load_from or last, self.allow_changes)
        elif self.training and self.start_from is not None:
            load_start(self.model, self.start_from[0], classes.names_of(classes.train_set(self)), self.start_from[1])
        elif self._resume:
            print_log(f"nothing to resume in {self.work_dir}: starting from the beginning", logger="current")
        elif self._load_from:
            meta = checkpoints.load_weights(self.model, self._load_from)
            self.trained_classes = meta.get("classes")
            print_log(f"Weights of step {meta['step']} from {self._load_from}", logger="current")
        if not self.training:
            self.name_classes(self.test_loop, "test")

    def train(self) -> nn.Module:
        """Train."""
        if self.cfg.get("activation_checkpointing") is not None:
            # Why: mmengine's is re-entrant: adapters behind a frozen trunk get no gradient. Until: use_reentrant=False
            raise ValueError("activation_checkpointing loses gradients behind a frozen trunk; use model.recompute=True")
        self.training = True
        try:
            return super().train()
        except (Exception, KeyboardInterrupt) as error:
            with suppress(OSError):  # the disk may be what failed
                note(self.logger, f"{'stopped' if isinstance(error, KeyboardInterrupt) else 'error'}: {error}")
                if isinstance(error, Exception):
                    self.call_hook("on_failure", error=error)
            raise
        finally:
            self.training = False

    def build_logger(self, *args: Any, **kwargs: Any) -> Any:
        """Build the logger; what the packages warn of goes into its file too. Why: mmengine's has its own lines alone.

        The list of hooks that mmengine prints is left out.
        """
        logger = super().build_logger(*args, **kwargs)
        logger.addFilter(lambda record: not str(record.msg).startswith("Hooks will be executed"))
        share_files(logger)
        return logger

    def dump_config(self) -> None:
        """Do nothing. Why: mmengine's file is overwritten by a test. Ours: `config.py`, written by `launch.train`."""

    def _log_env(self, env_cfg: dict) -> None:
        """Say little. Why: mmengine prints a hundred lines that take seconds to collect; see report.json."""

    def get_hooks_info(self) -> str:
        """Names of the hooks in one line."""
        return "  " + ", ".join(type(hook).__name__ for hook in self._hooks)
