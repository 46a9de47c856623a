"""Show a run: a progress bar in a terminal, plain lines in a pipe."""

import datetime
import sys
from typing import Any

from mmengine.hooks import Hook
from tqdm import tqdm

from xmodal.engine.summary import beginning, ending
from xmodal.metrics import one_line
from xmodal.registry import HOOKS

UNITS = {"clips": "clips", "image": "images", "coord": "clouds"}
BAR = "{desc} {percentage:3.0f}% |{bar:20}| {n_fmt}/{total_fmt} {rate_fmt}  {postfix}"
SPEED = ("lr", "data_time", "step_time", "per_second", "seconds")


def in_words(values: dict[str, float]) -> str:
    """Write losses with four decimals and other means with two."""
    shown = {k: v for k, v in values.items() if k not in SPEED}
    return "  ".join(f"{k} {v:.4f}" if "loss" in k else f"{k} {v:.2f}" for k, v in shown.items())


@HOOKS.register_module(name="progress")
class ProgressHook(Hook):
    """Show loss, accuracy, learning rate, data time, speed and time left of a run.

    Args:
        interval: steps between two lines and two points of the curves; in between nothing waits for a GPU.
    """

    priority = "BELOW_NORMAL"

    def __init__(self, interval: int = 50):
        if interval < 1:
            raise ValueError(f"default_hooks.progress.interval={interval}: at least 1 step between two lines")
        self.interval = interval
        self.bar: tqdm | None = None
        self.terminal = sys.stderr.isatty()
        self.unit = "samples"

    def open(self, runner: Any, text: str, total: int, done: int = 0) -> None:
        """Start a bar (rank 0, terminal)."""
        if self.terminal and runner.rank == 0:
            self.bar = tqdm(total=total, initial=done, desc=text, dynamic_ncols=True, leave=False, bar_format=BAR)

    def move(self) -> None:
        """Move the bar by one."""
        if self.bar is not None:
            self.bar.update()

    def close(self) -> None:
        """End the bar."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    def before_run(self, runner: Any) -> None:
        """Set how often the loop logs."""
        runner.log_interval = self.interval

    def before_train(self, runner: Any) -> None:
        """Say what will happen."""
        for line in beginning(runner):
            runner.logger.info(line)

    def after_train(self, runner: Any) -> None:
        """Say what came out, where it is, and what to run next."""
        for line in ending(runner):
            runner.logger.info(line)

    def before_train_epoch(self, runner: Any) -> None:
        """Start the bar of an epoch, or of the whole run where it is counted in steps."""
        loop = runner.train_loop
        self.text = f"epoch {loop.epoch + 1}/{loop.max_epochs}" if not loop.by_steps else "step"
        done = loop.iter if loop.by_steps else loop.iter % loop.steps_per_epoch
        self.open(runner, self.text, loop.max_iters if loop.by_steps else loop.steps_per_epoch, done)

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Note what a sample is called."""
        self.unit = next((UNITS[k] for k in UNITS if k in (data_batch or {})), "samples")

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Move the bar."""
        self.move()

    def after_log(self, runner: Any, step: int, values: dict[str, float]) -> None:
        """Print one line, or the numbers beside the bar."""
        loop = runner.train_loop
        eta = datetime.timedelta(seconds=int(values["step_time"] * (loop.max_iters - step)))
        speed = f"data {values['data_time']:.3f}s  {values['per_second']:.1f} {self.unit}/s"
        text = f"{in_words(values)}  lr {values['lr']:.2e}  {speed}  eta {eta}"
        if self.bar is not None:
            self.bar.set_postfix_str(text, refresh=False)
        elif runner.rank == 0 and (step % self.interval == 0 or step == loop.max_iters):
            in_epoch = f"step {(step - 1) % loop.steps_per_epoch + 1}/{loop.steps_per_epoch}"
            runner.logger.info(f"{self.text} {f'{step}/{loop.max_iters}' if loop.by_steps else in_epoch}  {text}")

    def after_log_epoch(self, runner: Any, step: int, values: dict[str, float]) -> None:
        """Print one line for the whole segment."""
        self.close()
        loop = runner.train_loop
        name = f"epoch {loop.epoch}/{loop.max_epochs}" if not loop.by_steps else f"step {loop.iter}/{loop.max_iters}"
        runner.logger.info(f"{name} trained in {values['seconds']:.1f}s  {in_words(values)}")

    def before_val_epoch(self, runner: Any) -> None:
        """Start the bar of a validation."""
        self.open(runner, "val", len(runner.val_loop.dataloader))

    def before_test_epoch(self, runner: Any) -> None:
        """Start the bar of a test."""
        self.open(runner, "test", len(runner.test_loop.dataloader))

    def after_val_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Move the bar."""
        self.move()

    after_test_iter = after_val_iter

    def after_log_eval(self, runner: Any, stage: str, metrics: dict[str, Any], seconds: float) -> None:
        """Print the metrics."""
        self.close()
        runner.logger.info(f"{stage}  {one_line(metrics)}  in {seconds:.1f}s")

    def on_interrupt(self, runner: Any) -> None:
        """Leave the terminal tidy."""
        self.close()
