"""What a run shows: a bar in a terminal, plain lines in a pipe."""

import datetime
import math
import sys
import time
from typing import Any

import torch
import torch.distributed as dist
from mmengine.hooks import Hook
from tqdm import tqdm

from xmodal.data.collate import batch_size
from xmodal.metrics import one_line
from xmodal.registry import HOOKS

UNITS = {"clips": "clips", "image": "images", "coord": "clouds"}
BAR = "{desc} {percentage:3.0f}% |{bar:20}| {n_fmt}/{total_fmt} {rate_fmt}  {postfix}"


class Means:
    """Running means of scalars; they stay on their device until somebody looks."""

    def __init__(self) -> None:
        self.sums: dict[str, Any] = {}
        self.count, self.weight = 0, 0.0

    def add(self, values: dict[str, Any], weight: float = 1.0) -> None:
        """Add one step's values; `weight` is its number of samples."""
        self.count += 1
        self.weight += weight
        for key, value in values.items():
            value = value.detach().float() if isinstance(value, torch.Tensor) else float(value)
            self.sums[key] = self.sums.get(key, 0.0) + weight * value

    def state(self) -> list:
        """Sums, count and weight as plain numbers."""
        return [{k: float(v) for k, v in self.sums.items()}, self.count, self.weight]

    def look(self) -> dict[str, float]:
        """Means over the samples, and over the processes."""
        if not self.count:
            return {}
        keys = list(self.sums)
        total = torch.stack([torch.as_tensor(self.sums[k], dtype=torch.float32).cpu() for k in keys]).double()
        total = total / self.weight
        if dist.is_available() and dist.is_initialized():
            total = total.cuda() if dist.get_backend() == "nccl" else total
            dist.all_reduce(total)
            total = total / dist.get_world_size()
        return dict(zip(keys, total.tolist(), strict=True))


@HOOKS.register_module(name="progress")
class ProgressHook(Hook):
    """Show loss, accuracy, rate, data time, speed and time left; hand the numbers to the report and to the visualizer.

    Args:
        interval: steps between two lines (and two looks at the loss: in between nothing waits for a GPU).

    Raises:
        FloatingPointError: while training, when the loss is no longer a number.
    """

    priority = "BELOW_NORMAL"

    def __init__(self, interval: int = 50):
        self.interval = interval
        self.bar: tqdm | None = None
        self.saved: list | None = None
        self.segment = Means()
        self.terminal = sys.stderr.isatty()

    def open(self, runner: Any, text: str, total: int, done: int = 0) -> None:
        """Start a bar (rank 0, terminal)."""
        if self.terminal and runner.rank == 0:
            self.bar = tqdm(total=total, initial=done, desc=text, dynamic_ncols=True, leave=False, bar_format=BAR)

    def close(self) -> None:
        """End the bar."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    def before_train(self, runner: Any) -> None:
        """Note when it began."""
        self.began = time.perf_counter()

    def before_train_epoch(self, runner: Any) -> None:
        """Start counting a segment."""
        loop = runner.train_loop
        self.text = f"epoch {loop.epoch + 1}/{loop.max_epochs}" if not loop.by_steps else "step"
        self.segment, self.window = Means(), Means()
        if self.saved and self.saved[0] == runner.iter:  # resumed in the middle of this epoch
            self.segment.sums, self.segment.count, self.segment.weight = self.saved[1]
        self.saved = None
        self.samples, self.data_time, self.shown = 0, 0.0, 0
        done = loop.iter if loop.by_steps else loop.iter % loop.steps_per_epoch
        self.open(runner, self.text, loop.max_iters if loop.by_steps else loop.steps_per_epoch, done)
        self.segment_start = self.window_start = self.mark = time.perf_counter()

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """The batch is here: that was data time."""
        self.data_time += time.perf_counter() - self.mark

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Count, and every `interval` steps show."""
        values = dict(outputs or {})
        if runner.optim_wrapper.grad_norm is not None:
            values["grad_norm"] = runner.optim_wrapper.grad_norm
        size = batch_size(data_batch or {})
        self.window.add(values, size)
        self.segment.add(values, size)
        self.samples += size * runner.world_size
        self.unit = next((UNITS[k] for k in UNITS if k in (data_batch or {})), "samples")
        loop = runner.train_loop
        if self.bar is not None:
            self.bar.update()
        step = runner.iter + 1
        if step % self.interval == 0 or step == loop.max_iters:
            self.show(runner, step)
        self.mark = time.perf_counter()

    def show(self, runner: Any, step: int) -> None:
        """One line, or the numbers beside the bar."""
        values, now, loop = self.window.look(), time.perf_counter(), runner.train_loop
        per_step = (now - self.window_start) / self.window.count
        numbers = {
            **values,
            "lr": max(group["lr"] for group in runner.optim_wrapper.optimizer.param_groups),
            "data_time": self.data_time / self.window.count,
            "step_time": per_step,
            "per_second": self.samples / max(now - self.window_start, 1e-9),
        }
        if not all(math.isfinite(v) for k, v in values.items() if "loss" in k):
            raise FloatingPointError(f"the loss is {values.get('loss')} by step {step}: lower lr, or use bf16 for fp16")
        runner.call_hook("after_log", step=step, values=numbers)
        runner.visualizer.add_scalars({k: v for k, v in numbers.items() if math.isfinite(v)}, step=step)
        eta = datetime.timedelta(seconds=int(per_step * (loop.max_iters - step)))
        text = "  ".join(f"{k} {v:.4f}" if "loss" in k else f"{k} {v:.2f}" for k, v in values.items())
        speed = f"{numbers['per_second']:.1f} {self.unit}/s"
        text += f"  lr {numbers['lr']:.2e}  data {numbers['data_time']:.3f}s  {speed}  eta {eta}"
        if self.bar is not None:
            self.bar.set_postfix_str(text, refresh=False)
        elif runner.rank == 0:
            at = (
                f"{(step - 1) % loop.steps_per_epoch + 1}/{loop.steps_per_epoch}"
                if not loop.by_steps
                else f"{step}/{loop.max_iters}"
            )
            runner.logger.info(f"{self.text} {'step ' if not loop.by_steps else ''}{at}  {text}")
        self.window, self.window_start, self.samples, self.data_time = Means(), now, 0, 0.0

    def after_train_epoch(self, runner: Any, metrics: Any = None) -> None:
        """One line for the whole segment."""
        self.close()
        values, seconds = self.segment.look(), time.perf_counter() - self.segment_start
        if not self.segment.count:
            return
        loop = runner.train_loop
        text = "  ".join(f"{k} {v:.4f}" if "loss" in k else f"{k} {v:.2f}" for k, v in values.items())
        name = f"epoch {loop.epoch}/{loop.max_epochs}" if not loop.by_steps else f"step {loop.iter}/{loop.max_iters}"
        runner.logger.info(f"{name} trained in {seconds:.1f}s  {text}")
        runner.call_hook("after_log_epoch", step=runner.iter, values={**values, "seconds": seconds})

    def _before_eval(self, runner: Any, loop: Any) -> None:
        self.eval_start = time.perf_counter()
        self.open(runner, loop.stage, len(loop.dataloader))

    def _after_eval(self, runner: Any, loop: Any, metrics: dict | None) -> None:
        self.close()
        seconds = time.perf_counter() - self.eval_start
        runner.logger.info(f"{loop.stage}  {one_line(metrics or {})}  in {seconds:.1f}s")
        numbers = {f"{loop.stage}/{k}": v for k, v in (metrics or {}).items() if isinstance(v, float)}
        if numbers:
            runner.visualizer.add_scalars(numbers, step=runner.iter)
        runner.call_hook("after_log_eval", stage=loop.stage, metrics=metrics or {}, seconds=seconds)

    def before_val_epoch(self, runner: Any) -> None:
        """Start the bar."""
        self._before_eval(runner, runner.val_loop)

    def before_test_epoch(self, runner: Any) -> None:
        """Start the bar."""
        self._before_eval(runner, runner.test_loop)

    def after_val_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Move the bar."""
        if self.bar is not None:
            self.bar.update()

    after_test_iter = after_val_iter

    def after_val_epoch(self, runner: Any, metrics: Any = None) -> None:
        """Show the metrics."""
        self._after_eval(runner, runner.val_loop, metrics)

    def after_test_epoch(self, runner: Any, metrics: Any = None) -> None:
        """Show the metrics."""
        self._after_eval(runner, runner.test_loop, metrics)

    def before_save_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """Keep the sums of an unfinished epoch."""
        loop, step = runner.train_loop, checkpoint["meta"]["step"]
        if step % loop.steps_per_epoch and not (loop.by_steps and step % loop.val_interval == 0):
            checkpoint["progress"] = [step, self.segment.state()]

    def after_load_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """Go on with the sums."""
        self.saved = checkpoint.get("progress")

    def on_interrupt(self, runner: Any) -> None:
        """Leave the terminal tidy."""
        self.close()
