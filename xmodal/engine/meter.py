"""Means and speed of a training run, for logs, curves and reports."""

import time
from typing import Any

import torch
import torch.distributed as dist


class Means:
    """Running means of scalars; they stay on their device until `look` is called."""

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
        """Return sums, count and weight as plain numbers."""
        return [{k: float(v) for k, v in self.sums.items()}, self.count, self.weight]

    @classmethod
    def of(cls, state: list) -> "Means":
        """Build them from what `state` returned."""
        means = cls()
        means.sums, means.count, means.weight = state
        return means

    def look(self) -> dict[str, float]:
        """Return the means over the samples and over the processes."""
        if not self.count:
            return {}
        keys = sorted(self.sums)  # the same order in every process
        sums = torch.stack([torch.as_tensor(self.sums[k], dtype=torch.float32).cpu() for k in keys]).double()
        total = torch.cat([sums, sums.new_tensor([self.weight])])
        if dist.is_available() and dist.is_initialized():
            total = total.cuda() if dist.get_backend() == "nccl" else total
            dist.all_reduce(total)
        means = dict(zip(keys, (total[:-1] / total[-1]).tolist(), strict=True))
        return {key: means[key] for key in self.sums}


class Meter:
    """Count the steps between two pauses of a training run (a segment) and between two log points (a window)."""

    def __init__(self) -> None:
        self.saved: list | None = None
        self.segment = Means()

    def begin(self, step: int) -> None:
        """Start a segment at a step; sums restored from a checkpoint of the same step are continued."""
        self.segment = Means()
        self.start = time.perf_counter()
        self._open_window()
        if self.saved and self.saved[0] == step:
            self.segment, self.window = (Means.of(state) for state in self.saved[1:])
        self.saved = None
        self.mark = self.start

    def state(self) -> list:
        """Return the sums of the segment and of the window."""
        return [self.segment.state(), self.window.state()]

    def _open_window(self) -> None:
        self.window, self.steps, self.samples, self.data_time = Means(), 0, 0, 0.0
        self.window_start = time.perf_counter()

    def batch_is_here(self) -> None:
        """Count the time since the last step as data time."""
        self.data_time += time.perf_counter() - self.mark

    def add(self, values: dict[str, Any], size: int, world_size: int) -> None:
        """Add one step on `size` samples of this process."""
        self.window.add(values, size)
        self.segment.add(values, size)
        self.steps += 1
        self.samples += size * world_size
        self.mark = time.perf_counter()

    def log(self) -> tuple[dict[str, float], dict[str, float]]:
        """Close the window; return its means and its speed (`data_time`, `step_time` in seconds, `per_second`)."""
        values, seconds = self.window.look(), time.perf_counter() - self.window_start
        speed = {
            "data_time": self.data_time / self.steps,
            "step_time": seconds / self.steps,
            "per_second": self.samples / max(seconds, 1e-9),
        }
        self._open_window()
        return values, speed

    def end(self) -> dict[str, float]:
        """Return the means of the segment and its `seconds`; empty where it had no step."""
        if not self.segment.count:
            return {}
        return {**self.segment.look(), "seconds": time.perf_counter() - self.start}
