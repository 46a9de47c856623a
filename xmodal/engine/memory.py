"""Measure what a training step keeps and needs at most."""

import os
from collections.abc import Callable
from typing import Any

import torch

os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # the profiler's own chatter


def saved_megabytes(step: Callable[[], Any], own: set[int]) -> float:
    """Megabytes that a forward pass keeps for its backward pass, weights (storages in `own`) left out."""
    seen: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        result = step()
    del result
    return sum(seen.values()) / 2**20


def peak_megabytes(step: Callable[[], Any]) -> float:
    """Most megabytes alive at once during a step that it allocated itself; weights and inputs made before are left out.

    On the CPU every allocation and release of torch is followed, which is exact and repeats itself; on CUDA torch's own
    counter is read.

    Args:
        step: what to watch. Its result is dropped before the watch ends.
    """
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as seen:
        step()
    alive = highest = 0
    events = [e for e in seen.profiler.kineto_results.events() if e.name() == "[memory]"]
    for event in sorted(events, key=lambda e: e.start_ns()):
        alive += event.nbytes()
        highest = max(highest, alive)
    return highest / 2**20
