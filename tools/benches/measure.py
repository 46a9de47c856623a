"""Alternating measurements in one process: medians, ratios, and what the backward pass keeps."""

import gc
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass
class Variant:
    """Something to time.

    Args:
        name: shown in the table.
        run: one step, the unit of the measurement; returns the loss when there is a backward pass.
        setup: makes what `run` is given, once, before the first step.
    """

    name: str
    run: Callable[[Any], Any]
    setup: Callable[[], Any]
    state: Any = None
    seconds: list[float] = field(default_factory=list)
    saved_mb: float = 0.0


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


def run_alternating(variants: list[Variant], repeats: int, warmup: int = 1) -> list[Variant]:
    """Time all variants `repeats` times, one after the other in each round; CPU seconds of this process on the CPU."""
    for variant in variants:
        variant.state = variant.setup()
        modules = [m for m in torch.utils._pytree.tree_leaves(variant.state) if isinstance(m, torch.nn.Module)]
        own = {p.untyped_storage().data_ptr() for m in modules for p in (*m.parameters(), *m.buffers())}
        variant.saved_mb = saved_megabytes(lambda v=variant: v.run(v.state), own)
    for round_ in range(warmup + repeats):
        for variant in variants:
            gc.collect()
            start = time.process_time() if not torch.cuda.is_available() else time.perf_counter()
            variant.run(variant.state)
            if torch.cuda.is_available():
                torch.cuda.synchronize()
                seconds = time.perf_counter() - start
            else:
                seconds = time.process_time() - start
            if round_ >= warmup:
                variant.seconds.append(seconds)
    return variants


def rows(variants: list[Variant]) -> list[dict[str, Any]]:
    """Median, spread, ratio to the first variant and saved memory of each."""
    base = statistics.median(variants[0].seconds)
    return [
        {
            "name": v.name,
            "median_s": round(statistics.median(v.seconds), 4),
            "min_s": round(min(v.seconds), 4),
            "ratio": round(statistics.median(v.seconds) / base, 3),
            "saved_mb": round(v.saved_mb, 1),
            "saved_ratio": round(v.saved_mb / variants[0].saved_mb, 3) if variants[0].saved_mb else None,
        }
        for v in variants
    ]


def table(area: str, measured: list[dict[str, Any]]) -> str:
    """The rows as text."""
    width = max(len(r["name"]) for r in measured)
    lines = [f"{area}", f"  {'':{width}}  {'CPU s':>9}  {'ratio':>6}  {'kept MB':>9}  {'ratio':>6}"]
    for r in measured:
        kept = "-" if r["saved_ratio"] is None else f"{r['saved_ratio']:.2f}"
        lines.append(f"  {r['name']:{width}}  {r['median_s']:9.3f}  {r['ratio']:6.2f}  {r['saved_mb']:9.1f}  {kept:>6}")
    return "\n".join(lines)


def where() -> dict[str, Any]:
    """Machine, threads and commit."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    return {"device": device, "threads": torch.get_num_threads(), "torch": torch.__version__, "commit": commit}
