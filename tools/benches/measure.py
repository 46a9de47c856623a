"""Alternate measurements in one process: medians, ratios, what the backward pass keeps, a step's peak and profile."""

import gc
import os
import platform
import resource
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from xmodal.engine.memory import peak_megabytes, saved_megabytes

os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # the profiler's own chatter
SIZES: dict[str, dict[str, int]] = {
    "b16": dict(image_size=224, patch_size=16, dim=768, depth=12, num_heads=12),
    "s16": dict(image_size=224, patch_size=16, dim=384, depth=12, num_heads=6),
    "l14": dict(image_size=224, patch_size=14, dim=1024, depth=24, num_heads=16),
    "tiny": dict(image_size=48, patch_size=8, dim=128, depth=4, num_heads=4),
}
CLASSES = 100
KINDS = {
    "matrix products": ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "mkldnn_linear"),
    "attention": ("scaled_dot_product", "_softmax"),
    "convolution": ("convolution",),
    "norms": ("layer_norm", "batch_norm"),
    "activations": ("silu", "gelu", "sigmoid"),
    "copies": ("copy_", "cat", "fill_", "zero_", "clone", "index", "flip"),
}


@dataclass
class Variant:
    """Something to time.

    Args:
        name: shown in the table.
        run: one step, the unit of the measurement; returns the loss when there is a backward pass.
        setup: makes what `run` is given, once, before the first step.
        wall: take the clock on the wall instead of this process's CPU seconds (work done by other processes).
    """

    name: str
    run: Callable[[Any], Any]
    setup: Callable[[], Any]
    wall: bool = False
    state: Any = None
    seconds: list[float] = field(default_factory=list)
    saved_mb: float = 0.0
    peak_mb: float | None = None


@dataclass
class Wanted:
    """A claim about a ratio of two variants, shown beside what was measured.

    Args:
        what: `time`, `kept` or `peak`.
        of: name of a variant.
        to: name of another.
        at_most: largest ratio wanted.
    """

    what: str
    of: str
    to: str
    at_most: float


def of_models(rows: dict[str, tuple[Callable, Callable]], args: Any, data: Any) -> list[Variant]:
    """Variants of one batch: by name the step, and what makes its model of the arguments."""
    return [Variant(name, run, lambda make=make: (make(args), data)) for name, (run, make) in rows.items()]


def images_for(args: Any) -> dict[str, torch.Tensor]:
    """Return random images and labels, `batch` of them."""
    side, generator = SIZES[args.size]["image_size"], torch.Generator().manual_seed(1)
    image = torch.randn(args.batch, 3, side, side, generator=generator)
    return dict(image=image, label=torch.arange(args.batch) % CLASSES)


def train_step(state: tuple[Any, dict[str, torch.Tensor]]) -> torch.Tensor:
    """Run a training step without the optimizer; returns the loss."""
    model, batch = state
    model.zero_grad(set_to_none=True)
    loss = model(mode="loss", **batch)["loss"]
    loss.backward()
    return loss


def process_cost(run: Callable[[], Any]) -> tuple[float, float]:
    """Run something; returns CPU seconds and the growth of this process's peak memory in megabytes."""
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    run()
    seconds = time.process_time() - start
    return seconds, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def seconds_of(variant: Variant) -> float:
    """Time of one step: on a GPU or where asked on the wall, else the CPU seconds of this process."""
    on_gpu = torch.cuda.is_available()
    clock = time.perf_counter if on_gpu or variant.wall else time.process_time
    gc.collect()
    start = clock()
    variant.run(variant.state)
    if on_gpu:
        torch.cuda.synchronize()
    return clock() - start


def run_alternating(variants: list[Variant], repeats: int, warmup: int = 1, peak: bool = False) -> list[Variant]:
    """Time all variants `repeats` times, one after the other in each round.

    Args:
        variants: what to time.
        repeats: rounds that count.
        warmup: rounds before.
        peak: also follow the allocations of one step.
    """
    for variant in variants:
        variant.state = variant.setup()
        modules = [m for m in torch.utils._pytree.tree_leaves(variant.state) if isinstance(m, torch.nn.Module)]
        own = {p.untyped_storage().data_ptr() for m in modules for p in (*m.parameters(), *m.buffers())}
        variant.saved_mb = saved_megabytes(lambda v=variant: v.run(v.state), own)  # type: ignore[misc]
        if peak:
            variant.peak_mb = peak_megabytes(lambda v=variant: v.run(v.state))  # type: ignore[misc]
    for round_ in range(warmup + repeats):
        for variant in variants:
            seconds = seconds_of(variant)
            if round_ >= warmup:
                variant.seconds.append(seconds)
    return variants


def rows(variants: list[Variant]) -> list[dict[str, Any]]:
    """Median, spread, ratio to the first variant and memory of each."""
    base = statistics.median(variants[0].seconds)
    return [
        {
            "name": v.name,
            "median_s": round(statistics.median(v.seconds), 4),
            "min_s": round(min(v.seconds), 4),
            "ratio": round(statistics.median(v.seconds) / base, 3),
            "saved_mb": round(v.saved_mb, 1),
            "saved_ratio": round(v.saved_mb / variants[0].saved_mb, 3) if variants[0].saved_mb else None,
            "peak_mb": None if v.peak_mb is None else round(v.peak_mb, 1),
        }
        for v in variants
    ]


def verdicts(measured: Sequence[dict[str, Any]], wanted: Sequence[Wanted]) -> list[dict[str, Any]]:
    """Compare each claim with what was measured; those about a peak that was not measured are left out."""
    by_name = {row["name"]: row for row in measured}
    key = {"time": "median_s", "kept": "saved_mb", "peak": "peak_mb"}
    out = []
    for want in wanted:
        a, b = (by_name[name][key[want.what]] for name in (want.of, want.to))
        if a is not None and b:
            got = round(a / b, 3)
            out.append({**vars(want), "ratio": got, "holds": got <= want.at_most})
    return out


def table(area: str, measured: list[dict[str, Any]]) -> str:
    """The rows as text."""
    width = max(len(r["name"]) for r in measured)
    lines = [f"{area}", f"  {'':{width}}  {'seconds':>9}  {'ratio':>6}  {'kept MB':>9}  {'ratio':>6}  {'peak MB':>9}"]
    for r in measured:
        kept = "-" if r["saved_ratio"] is None else f"{r['saved_ratio']:.2f}"
        peak = "-" if r["peak_mb"] is None else f"{r['peak_mb']:.1f}"
        times = f"{r['median_s']:9.3f}  {r['ratio']:6.2f}"
        lines.append(f"  {r['name']:{width}}  {times}  {r['saved_mb']:9.1f}  {kept:>6}  {peak:>9}")
    return "\n".join(lines)


def claims_text(found: list[dict[str, Any]]) -> str:
    """The claims as lines."""
    return "\n".join(
        f"  {c['what']}: {c['of']} / {c['to']} = {c['ratio']:.3f}, wanted at most {c['at_most']:.3g}: "
        f"{'holds' if c['holds'] else 'MISSED'}"
        for c in found
    )


def plain_table(area: str, measured: list[dict[str, Any]]) -> str:
    """Rows of any columns as text."""
    names = list(measured[0])
    cells = [names, *([f"{r[n]:.4g}" if isinstance(r[n], float) else str(r[n]) for n in names] for r in measured)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(names))]
    return "\n".join([area, *("  " + "  ".join(c.rjust(w) for c, w in zip(row, widths, strict=True)) for row in cells)])


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


def profile_line(name: str, found: dict[str, float]) -> str:
    """Shares as text, those below one half per cent left out."""
    return f"  {name}: " + ", ".join(f"{kind} {100 * share:.1f} %" for kind, share in found.items() if share > 0.005)


def where() -> dict[str, Any]:
    """Machine, how busy it is, threads and commit."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    return {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else cpu_name(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "commit": commit,
    }


def cpu_name() -> str:
    """Model of the processor, and whether it has bfloat16 instructions."""
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    models = [line.split(":")[1].strip() for line in info.splitlines() if line.startswith("model name")]
    name = models[0] if models else platform.processor() or platform.machine()
    return name + (" with bf16 instructions" if "avx512_bf16" in info or "amx_bf16" in info else "")
