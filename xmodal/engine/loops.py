"""Training loop counted in epochs or steps, and evaluation loops; the optimizer step is the position of a run."""

import logging
import math
import time
from collections.abc import Iterator
from typing import Any

import torch
from mmengine.dist import get_rank, get_world_size
from mmengine.logging import print_log
from mmengine.runner import BaseLoop
from torch import nn

from xmodal.data.ahead import SideStream, copied_ahead
from xmodal.data.collate import batch_size, split
from xmodal.data.loader import build_loader
from xmodal.data.sampler import EpochSampler, EvalSampler, StreamSampler, balanced_chances
from xmodal.engine.checkpoint import not_finite, random_state
from xmodal.engine.divergence import keep_bad_step
from xmodal.engine.meter import Meter
from xmodal.engine.optim import NotFiniteError
from xmodal.engine.precision import autocast
from xmodal.engine.sharding import is_sharded, rounds_behind
from xmodal.engine.sizes import dataset_for
from xmodal.metrics import gather


class Interrupted(KeyboardInterrupt):
    """Raised when the user stops a run, after it was saved at a step boundary."""


class TrainLoop(BaseLoop):
    """Train for `max_epochs` or for `max_steps`.

    In epochs every sample comes once an epoch and the last batch may be short; in steps all batches are full, drawn
    from seeded orders one after the other. An iteration is one optimizer step on one batch of the loader. `batch_split`
    cuts that batch into parts whose gradients are added, with the same result and less memory; rates, logs and
    checkpoints count steps and never see it.

    Args:
        runner: the runner.
        dataloader: config of the training loader; `balanced=True` in it draws all classes equally often,
            `copy_ahead=True` copies a batch to a GPU beside the step before.
        max_epochs: length in epochs.
        max_steps: length in steps; give one of the two.
        val_interval: epochs (or steps) between validations; the end is always validated.
        val_begin: first epoch (or step) to validate.
        batch_split: parts of a batch.

    Raises:
        ValueError: both lengths or none.
    """

    def __init__(
        self,
        runner: Any,
        dataloader: dict,
        max_epochs: int | None = None,
        max_steps: int | None = None,
        val_interval: int = 1,
        val_begin: int = 0,
        batch_split: int = 1,
    ):
        if (max_epochs is None) == (max_steps is None):
            raise ValueError(f"train_cfg needs max_epochs or max_steps, got {max_epochs} and {max_steps}")
        self.by_steps, self.val_interval, self.val_begin = max_steps is not None, val_interval, val_begin
        self.batch_split = batch_split
        rank, world = get_rank(), get_world_size()
        dataset = dataset_for(getattr(runner, "model", None), dataloader["dataset"], runner.seed)
        dataloader = dict(dataloader)
        balanced, ahead = dataloader.pop("balanced", False), dataloader.pop("copy_ahead", False)
        device = torch.device(getattr(runner, "device", "cpu"))
        self.courier = SideStream(device) if ahead and device.type == "cuda" else None
        chances = balanced_chances(getattr(dataset, "labels", ())) if balanced else None
        self.batch = int(dataloader.get("batch_size", 1))
        if self.batch < 1:
            raise ValueError(f"train_dataloader.batch_size={self.batch}: at least 1")
        sampler = EpochSampler(len(dataset), runner.seed, rank, world, chances=chances)
        self.steps_per_epoch = -(-len(sampler) // self.batch)
        if dataloader.get("drop_last"):
            self.steps_per_epoch = len(sampler) // self.batch
        if self.steps_per_epoch < 1:
            raise ValueError(f"{len(dataset)} samples do not fill one batch of {self.batch} x {world} (drop_last)")
        if max_steps is not None:
            sampler = StreamSampler(len(dataset), max_steps * self.batch, runner.seed, rank, world, chances=chances)
        self._max_steps = max_steps if max_steps is not None else int(max_epochs or 0) * self.steps_per_epoch
        self.sampler = sampler
        super().__init__(runner, build_loader(dataloader, dataset, sampler, runner.seed))
        self._iter = 0
        self.validated = True  # of the step a run starts from
        self.stop_training = False
        self._stream: Iterator | None = None
        self.meter = Meter()

    @property
    def iter(self) -> int:
        """Finished optimizer steps."""
        return self._iter

    @property
    def epoch(self) -> int:
        """Finished passes over the data."""
        return self._iter // self.steps_per_epoch

    @property
    def max_iters(self) -> int:
        """Length of the run in steps."""
        return self._max_steps

    @property
    def max_epochs(self) -> int:
        """Length of the run in epochs, rounded up."""
        return -(-self._max_steps // self.steps_per_epoch)

    def segment_end(self, step: int) -> int:
        """Return the step at which the segment that contains `step` ends (checkpoint, perhaps validation)."""
        ends = [(step // self.steps_per_epoch + 1) * self.steps_per_epoch, self._max_steps]
        if self.by_steps:
            ends.append((step // self.val_interval + 1) * self.val_interval)
        return min(ends)

    def validation_due(self, step: int) -> bool:
        """Return whether a validation follows `step`."""
        if self.runner.val_loop is None or step == 0:
            return False
        if step == self._max_steps:
            return True
        if not self.by_steps and step % self.steps_per_epoch:
            return False
        count = step if self.by_steps else step // self.steps_per_epoch
        return count >= self.val_begin and count % self.val_interval == 0

    def run(self) -> nn.Module:
        """Train from the current step to the end."""
        self.runner.optim_wrapper.wants_stop = lambda: self.runner.stop_requested
        self.runner.call_hook("before_train")
        if not self.validated and self.validation_due(self._iter):  # killed between the checkpoint and the validation
            self.runner.val_loop.run()
        while self._iter < self._max_steps and not self.stop_training:
            self.run_segment()
            if self.validation_due(self._iter):
                self.runner.val_loop.run()
        self.runner.call_hook("after_train")
        return self.runner.model

    def run_segment(self) -> None:
        """Train up to the next pause; hooks see it as an epoch."""
        end = self.segment_end(self._iter)
        self.meter.begin(self._iter)
        self.runner.call_hook("before_train_epoch")
        self.runner.model.train()
        for batch in self._batches():
            self.run_iter(self._iter % self.steps_per_epoch, batch)
            if self._iter >= end:
                break  # in steps the stream goes on after the pause
            if self.stopping():
                self.stop()
        if means := self.meter.end():
            self.runner.call_hook("after_log_epoch", step=self._iter, values=means)
        self.runner.call_hook("after_train_epoch")
        if self.stopping():
            self.stop()

    def stopping(self) -> bool:
        """Return whether the user stopped the run: the same on all processes, which have taken the same steps."""
        return self.runner.optim_wrapper.stop_agreed if self.runner.distributed else self.runner.stop_requested

    def stop(self) -> None:
        """Save and end.

        Raises:
            Interrupted: always.
        """
        self.runner.call_hook("on_interrupt")
        raise Interrupted(f"stopped after step {self._iter}")

    def _batches(self) -> Iterator[dict]:
        if self.by_steps:
            if self._stream is None:
                self.sampler.seek(0, self._iter * self.batch)
                self._stream = self._read()
            return self._stream
        self.sampler.seek(self.epoch, self._iter % self.steps_per_epoch * self.batch)
        return self._read()

    def _read(self) -> Iterator[dict]:
        return iter(self.dataloader if self.courier is None else copied_ahead(self.dataloader, self.courier))

    def run_iter(self, batch_idx: int, batch: dict) -> None:
        """Take one optimizer step.

        Raises:
            FloatingPointError: the loss or a gradient is not finite; the weights have not moved.
        """
        self.meter.batch_is_here()
        self.runner.call_hook("before_train_iter", batch_idx=batch_idx, data_batch=batch)
        if not batch_size(batch):
            raise ValueError(f"no sample of a training batch could be read: {batch.get('skipped')}")
        random = random_state()
        try:
            outputs = self.step(batch)
        except NotFiniteError as error:
            raise FloatingPointError(keep_bad_step(self.runner, batch, random, error.what)) from error
        self.log(outputs, batch)
        self.runner.call_hook("after_train_iter", batch_idx=batch_idx, data_batch=batch, outputs=outputs)
        self._iter += 1

    def step(self, batch: dict) -> dict[str, Any]:
        """Take one optimizer step, over the parts of a batch; returns what the model reports, on its device."""
        outputs: dict[str, Any] = {}
        wrapper, pieces = self.runner.optim_wrapper, split(batch, self.batch_split)
        for number, (piece, share) in enumerate(pieces, start=1):
            wrapper.begin(share, last=number == len(pieces))
            for key, value in self.runner.model.train_step(piece, optim_wrapper=wrapper).items():
                outputs[key] = outputs.get(key, 0.0) + share * value.detach()
        return outputs

    def log(self, outputs: dict[str, Any], batch: dict) -> None:
        """Count a step; every `log_interval` steps and at the end of an epoch hand means to the hooks (`after_log`)."""
        norm = self.runner.optim_wrapper.grad_norm
        values = outputs if norm is None else {**outputs, "grad_norm": norm}
        self.meter.add(values, batch_size(batch), self.runner.world_size)
        step = self._iter + 1
        at_end = step == self._max_steps or step % self.steps_per_epoch == 0
        if step % self.runner.log_interval and not at_end:
            return
        means, speed = self.meter.log()
        lr = max(group["lr"] for group in self.runner.optim_wrapper.optimizer.param_groups)
        numbers = {**means, "lr": lr, **speed}
        self.runner.call_hook("after_log", step=step, values=numbers)
        self.runner.visualizer.add_scalars({k: v for k, v in numbers.items() if math.isfinite(v)}, step=step)

    def unfinished(self, step: int) -> list | None:
        """Return the sums of an unfinished segment for a checkpoint of this step, None at the end of one."""
        at_end = step % self.steps_per_epoch == 0 or (self.by_steps and step % self.val_interval == 0)
        return None if at_end else [step, self.meter.state()]


class _EvalLoop(BaseLoop):
    stage = ""

    def __init__(self, runner: Any, dataloader: dict, evaluator: Any, amp: str | None = None):
        dataset = dataset_for(getattr(runner, "model", None), dataloader["dataset"], runner.seed)
        sampler = EvalSampler(len(dataset), get_rank(), get_world_size())
        super().__init__(runner, build_loader(dataloader, dataset, sampler, runner.seed))
        self.evaluator = runner.build_evaluator(evaluator)
        self.amp, self.company = amp, None

    @torch.no_grad()
    def run(self) -> dict[str, Any]:
        """Evaluate; returns the metrics."""
        call, stage, start = self.runner.call_hook, self.stage, time.perf_counter()
        call(f"before_{stage}")
        call(f"before_{stage}_epoch")
        self.runner.model.eval()
        bad: list[str] = []
        behind = rounds_behind(len(self.dataloader), self.runner) if is_sharded(self.runner.model) else 0
        for batch_idx, batch in enumerate(self.dataloader):
            call(f"before_{stage}_iter", batch_idx=batch_idx, data_batch=batch)
            predictions = self.predict(batch)
            bad += [str(p.get("sample_id")) for p in predictions if not_finite(p)]
            self.evaluator.process(data_samples=predictions, data_batch=batch)
            call(f"after_{stage}_iter", batch_idx=batch_idx, data_batch=batch, outputs=predictions)
            if self.runner.stop_requested:
                raise Interrupted(f"stopped while {'validating' if stage == 'val' else 'testing'}")
        for _ in range(behind):
            self.keep_company()
        metrics = self.evaluator.evaluate(len(self.dataloader.dataset))
        if bad := [name for part in gather(bad) for name in part]:
            metrics = self.no_metrics(bad, metrics)
        call("after_log_eval", stage=stage, metrics=metrics, seconds=time.perf_counter() - start)
        numbers = {f"{stage}/{k}": v for k, v in metrics.items() if isinstance(v, float)}
        if numbers:
            self.runner.visualizer.add_scalars(numbers, step=self.runner.iter)
        call(f"after_{stage}_epoch", metrics=metrics)
        call(f"after_{stage}")
        return metrics

    def no_metrics(self, bad: list[str], metrics: dict[str, Any]) -> dict[str, Any]:
        """Return metrics without figures: some predictions are not finite, and no accuracy is made of those.

        Raises:
            FloatingPointError: in a test.
        """
        text = f"the predictions of {len(bad)} samples are not finite ({', '.join(bad[:3])}{', ...' * (len(bad) > 3)})"
        if not self.runner.training:
            raise FloatingPointError(f"{text}: no accuracy is reported; test in float32, or train with a lower lr")
        print_log(f"{text}: this validation has no figures", logger="current", level=logging.WARNING)
        return {k: float("nan") if isinstance(v, float) else v for k, v in metrics.items()} | {"not_finite": len(bad)}

    def predict(self, batch: dict) -> list[dict]:
        """Predict one batch; empty when no sample of it could be read."""
        if not batch_size(batch):
            if is_sharded(self.runner.model):
                self.keep_company()
            return []
        with autocast(self.runner.device, self.amp):
            return self.runner.model.val_step(batch)

    def keep_company(self) -> None:
        """Predict a sample for nothing, while other processes call the blocks of which this one holds a share."""
        if self.company is None:
            dataset = self.dataloader.dataset
            self.company = next(item for n in range(len(dataset)) if "skipped" not in (item := dataset[n]))
        self.predict(self.dataloader.collate_fn([self.company]))


class ValLoop(_EvalLoop):
    """Validation between epochs. `amp` ("bf16", "fp16" or None) is the precision."""

    stage = "val"


class TestLoop(_EvalLoop):
    """The test at the end. `amp` ("bf16", "fp16" or None) is the precision."""

    __test__ = False  # not a test class of pytest
    stage = "test"
