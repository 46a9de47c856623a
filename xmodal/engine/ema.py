"""Exponential moving average (EMA) of the trained weights."""

from typing import Any

import torch
from mmengine.hooks import Hook
from torch import Tensor

from xmodal.engine.checkpoint import bare, own_keys
from xmodal.registry import HOOKS


@HOOKS.register_module(name="ema")
class EMAHook(Hook):
    """Average the trained weights after every step and, by default, validate the average.

    Args:
        decay: of the average; the first steps use (1 + n) / (10 + n) while that is smaller.
        evaluate: validate the averaged weights (and keep the best of those).

    Raises:
        ValueError: a decay outside 0..1.
    """

    priority = "NORMAL"

    def __init__(self, decay: float = 0.9998, evaluate: bool = True):
        if not 0 < decay < 1:
            raise ValueError(f"EMA decay {decay} is not between 0 and 1")
        self.decay, self.evaluate = decay, evaluate
        self.average: dict[str, Tensor] = {}
        self.swapped = False

    def current(self, runner: Any) -> dict[str, Tensor]:
        """Return the model's tensors that are averaged."""
        model = bare(runner.model)
        keys = own_keys(model)
        return {k: v.detach() for k, v in model.state_dict().items() if k in keys and v.is_floating_point()}

    def before_train(self, runner: Any) -> None:
        """Start from the weights as they are, unless a checkpoint brought an average."""
        now = self.current(runner)
        if not self.average:
            self.average = {k: v.clone() for k, v in now.items()}
        self.average = {k: v.to(now[k].device) for k, v in self.average.items()}

    @torch.no_grad()
    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Move the average."""
        done = runner.iter + 1
        weight = 1 - min(self.decay, (1 + done) / (10 + done))
        now = self.current(runner)
        torch._foreach_lerp_([self.average[k] for k in now], list(now.values()), weight)

    @torch.no_grad()
    def swap(self, runner: Any) -> None:
        """Exchange the weights and their average."""
        first: dict[int, str] = {}  # a weight under two names (tied towers) is exchanged once
        for key, value in self.current(runner).items():
            if (twin := first.setdefault(value.data_ptr(), key)) != key:
                self.average[key].copy_(self.average[twin])
                continue
            kept = value.clone()
            value.copy_(self.average[key])
            self.average[key].copy_(kept)
        self.swapped = not self.swapped

    def before_val_epoch(self, runner: Any) -> None:
        """Put the average in place."""
        if self.evaluate and runner.training and self.average:
            self.swap(runner)

    def after_val_epoch(self, runner: Any, metrics: Any = None) -> None:
        """Put the weights back."""
        if self.swapped:
            self.swap(runner)

    def before_save_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """Save the average beside the weights."""
        checkpoint["ema_state_dict"] = {k: v.detach().cpu().clone() for k, v in self.average.items()}
        checkpoint["meta"]["evaluated"] = "ema" if self.evaluate else "weights"

    def after_load_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """Go on with the saved average.

        Raises:
            ValueError: the checkpoint has none.
        """
        if "ema_state_dict" not in checkpoint:
            raise ValueError("this config averages weights (ema), the checkpoint holds no average")
        self.average = {k: v.clone() for k, v in checkpoint["ema_state_dict"].items()}
