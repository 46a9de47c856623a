"""Measure the share of each kind of operation in the time of a step."""

from collections.abc import Callable
from typing import Any

import torch

KINDS = {
    "matrix products": ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "mkldnn_linear"),
    "attention": ("scaled_dot_product", "_softmax"),
    "convolution": ("convolution",),
    "norms": ("layer_norm", "batch_norm"),
    "activations": ("silu", "gelu", "sigmoid"),
    "copies": ("copy_", "cat", "fill_", "zero_", "clone", "index", "flip"),
}


def kind_of(name: str) -> str:
    """The kind that an operation belongs to."""
    for kind, parts in KINDS.items():
        if any(name == part if part.startswith("aten::") else part in name for part in parts):
            return kind
    return "the rest"


def shares(step: Callable[[], Any]) -> dict[str, float]:
    """Share of each kind in the CPU time of a step (device time on a GPU), largest first."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    key = "self_cpu_time_total"
    if torch.cuda.is_available():
        activities.append(torch.profiler.ProfilerActivity.CUDA)
        key = "self_device_time_total"
    with torch.profiler.profile(activities=activities) as seen:
        step()
    spent: dict[str, float] = {}
    for event in seen.key_averages():
        kind = kind_of(event.key)
        spent[kind] = spent.get(kind, 0.0) + getattr(event, key)
    total = sum(spent.values())
    return {kind: value / total for kind, value in sorted(spent.items(), key=lambda item: -item[1])}


def line(name: str, found: dict[str, float]) -> str:
    """Shares as text, those below one half per cent left out."""
    return f"  {name}: " + ", ".join(f"{kind} {100 * share:.1f} %" for kind, share in found.items() if share > 0.005)
