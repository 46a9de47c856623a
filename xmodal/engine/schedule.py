"""Learning rates as a pure function of the optimizer step, so that a resumed run has the same ones."""

import math
from typing import Any

from xmodal.registry import Registry

SCHEDULES = Registry("schedule", scope="xmodal")


class Schedule:
    """Linear warm-up from exactly 0, then `decay`. Steps are optimizer steps, however many parts a batch is cut into.

    Args:
        optimizer: an optimizer or its wrapper; each group keeps its own base rate.
        total_steps: length of the run.
        epoch_length: steps in an epoch.
        warmup_epochs: length of the warm-up in epochs, fractions allowed.
        warmup_steps: the same in steps; give one of the two.
        final: what is left of the rate at the end, as a share.
        start: where the warm-up begins, as a share.
        ahead: count steps from this number; 1 in code that moves the rate before each batch (V-JEPA 2).
        final_decay: weight decay at the end, reached by half a cosine over the whole run; None keeps it constant.

    Raises:
        ValueError: both lengths, or a warm-up as long as the run.
    """

    by_epoch = False  # mmengine's ParamSchedulerHook then calls `step` after every iteration

    def __init__(
        self,
        optimizer: Any,
        total_steps: int,
        epoch_length: int,
        warmup_epochs: float = 0,
        warmup_steps: int = 0,
        final: float = 0.0,
        start: float = 0.0,
        ahead: int = 0,
        final_decay: float | None = None,
    ):
        if warmup_epochs and warmup_steps:
            raise ValueError(f"warmup_epochs={warmup_epochs} and warmup_steps={warmup_steps}: give one of them")
        self.optimizer = getattr(optimizer, "optimizer", optimizer)
        self.total = total_steps
        self.warmup = warmup_steps or warmup_epochs * epoch_length
        self.final, self.start, self.ahead, self.final_decay = final, start, ahead, final_decay
        if self.warmup and self.warmup >= total_steps:
            key, length = ("steps", warmup_steps) if warmup_steps else ("epochs", warmup_epochs)
            most = total_steps // 10 if warmup_steps else total_steps / epoch_length / 10
            raise ValueError(
                f"param_scheduler.warmup_{key}={length:g} is a warm-up of {self.warmup:g} steps, and the run has "
                f"{total_steps}: set param_scheduler.warmup_{key}={most:.2g} (a tenth of the run), or train longer"
            )
        for group in self.optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
            if final_decay is not None:
                group.setdefault("initial_weight_decay", group["weight_decay"])
        self.last_step = 0
        self.apply()

    def decay(self, progress: float) -> float:
        """Share of the base rate after the warm-up; `progress` goes from 0 to 1."""
        raise NotImplementedError

    def factor(self, step: int) -> float:
        """Share of the base rate in optimizer step `step`, counted from 0."""
        if step < self.warmup:
            return self.start + (1 - self.start) * step / self.warmup
        progress = min((step - self.warmup) / max(self.total - self.warmup, 1), 1.0)
        return self.final + (1 - self.final) * self.decay(progress)

    def apply(self) -> None:
        """Set the rates of all groups."""
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * self.factor(self.last_step + self.ahead)
            if self.final_decay is not None:
                group["weight_decay"] = self.decay_at(self.last_step + self.ahead, group["initial_weight_decay"])

    def decay_at(self, step: int, first: float) -> float:
        """Weight decay in optimizer step `step`, from `first` to `final_decay`."""
        assert self.final_decay is not None
        share = 0.5 + 0.5 * math.cos(math.pi * min(step / max(self.total, 1), 1.0))
        return self.final_decay + (first - self.final_decay) * share

    def step(self) -> None:
        """Go to the next optimizer step."""
        self.last_step += 1
        self.apply()

    def state_dict(self) -> dict[str, int]:
        """Return the step."""
        return {"last_step": self.last_step}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go to a step."""
        self.last_step = state["last_step"]
        self.apply()


@SCHEDULES.register_module(name="cosine")
class CosineSchedule(Schedule):
    """.5 + .5 cos(pi (e - w) / (E - w)) over fractional epochs e, warm-up w, E in all (ST-Adapter w=2, EVL w=0)."""

    def decay(self, progress: float) -> float:
        """Half a cosine."""
        return 0.5 + 0.5 * math.cos(math.pi * progress)


@SCHEDULES.register_module(name="constant")
class ConstantSchedule(Schedule):
    """Constant base rate after the warm-up."""

    def decay(self, progress: float) -> float:
        """No decay."""
        return 1.0
