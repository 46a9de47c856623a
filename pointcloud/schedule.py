"""Step schedule of learning rates, as in the recipes of segmentation networks."""

from typing import Any

from xmodal.engine.schedule import SCHEDULES, Schedule


@SCHEDULES.register_module(name="steps")
class StepSchedule(Schedule):
    """After the warm-up the base rate, times `factor_each` at every milestone.

    Args:
        milestones: shares of the run behind the warm-up, 0 to 1.
        factor_each: what remains of the rate at each.
        **options: see `Schedule`.
    """

    def __init__(
        self, *args: Any, milestones: tuple[float, ...] = (0.6, 0.8), factor_each: float = 0.1, **options: Any
    ):
        if not all(0 < m < 1 for m in milestones):
            raise ValueError(f"milestones {tuple(milestones)} are shares of the run, between 0 and 1")
        self.milestones, self.factor_each = tuple(milestones), factor_each
        super().__init__(*args, **options)

    def decay(self, progress: float) -> float:
        """A product of steps."""
        return self.factor_each ** sum(progress >= m for m in self.milestones)
