"""Build everything of a run, take two small steps, and say what the run will need: memory, time, disk."""

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.config import Config
from mmengine.device import get_device
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from xmodal.data.collate import collate
from xmodal.data.sampler import order_of
from xmodal.engine.checkpoint import bare, own_state
from xmodal.engine.frozen_cache import cache_of
from xmodal.engine.memory import peak_megabytes, saved_megabytes
from xmodal.engine.optim import TrainedGroups
from xmodal.engine.sizes import check_input, dataset_for
from xmodal.model import CACHED
from xmodal.registry import MODELS, build

MB = 2**20
FEW = (2, 4)  # samples of the two steps; what a whole batch needs follows from them on a straight line


@dataclass(frozen=True)
class Step:
    """Measured memory (MB) and time (s) of one training step on some samples.

    Args:
        kept: of activations, from the forward pass to the backward pass.
        peak: most that the step has at once: activations, gradients, working memory.
        seconds: computing.
        flops: forward and backward.
    """

    kept: float
    peak: float
    seconds: float
    flops: float


@dataclass(frozen=True)
class Needs:
    """Memory, time and disk that a run needs.

    Args:
        weights: megabytes of all weights and buffers.
        trained: number of trained weights.
        total: number of weights.
        optimizer: megabytes of the optimizer's state.
        gradients: megabytes.
        step: of a batch, or of a part of one.
        inputs: megabytes of its samples.
        parts: of a batch.
        reading: seconds for a sample.
        saved: megabytes of the trained weights in a checkpoint.
        cache: megabytes on disk, 0 without a cache.
    """

    weights: float
    trained: int
    total: int
    optimizer: float
    gradients: float
    step: Step
    inputs: float
    parts: int
    reading: float
    saved: float
    cache: float = 0.0

    @property
    def peak(self) -> float:
        """Return the megabytes that a training step needs at most."""
        return self.weights + self.optimizer + self.inputs + self.step.peak

    @property
    def pieces(self) -> dict[str, float]:
        """Return what the peak is made of."""
        working = max(self.step.peak - self.step.kept - self.gradients, 0.0)
        return {
            "weights": self.weights,
            "gradients and optimizer": self.gradients + self.optimizer,
            "activations kept for the backward pass": self.step.kept,
            "batch and working memory": self.inputs + working,
        }


class TrialStep:
    """A run that is built and not started.

    Args:
        cfg: of the run.
        train: its training set, where it is built already.
    """

    def __init__(self, cfg: Config, train: Any = None):
        self.cfg = cfg
        self.model = build(cfg.model, MODELS).to(get_device())
        loader, seed = cfg.train_dataloader, cfg.randomness.seed
        self.train = dataset_for(self.model, loader.dataset, seed) if train is None else train
        check_input(self.model, self.train, "train")
        self.cache = None
        if cfg.get("cache"):
            self.cache = cache_of(self.model, self.train, loader.dataset, "train", cfg.cache, seed)
        wrapper = {k: v for k, v in cfg.optim_wrapper.items() if k != "type"}
        self.wrapper = TrainedGroups(wrapper, wrapper.pop("paramwise_cfg", None))(self.model, say=False)
        self.batch, self.parts = cfg.train_dataloader.batch_size, int(cfg.train_cfg.get("batch_split", 1))

    def items(self, count: int) -> tuple[list[dict[str, Any]], float]:
        """Read samples as training does; returns them and the seconds for one."""
        start = time.perf_counter()
        order = order_of(len(self.train), self.cfg.randomness.seed, 0)
        found = [self.train[0, int(i)] for i in torch.from_numpy(order[: min(count, len(order))]).tolist()]
        seconds = (time.perf_counter() - start) / len(found)
        return [found[i % len(found)] for i in range(count)], seconds

    def collated(self, items: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Collate samples, or what the cache keeps of them."""
        if self.cache is None:
            return collate(items)
        self.model.eval()
        kept, grid = self.cache.compute(list(items))
        self.model.train()
        about = collate([{k: v for k, v in item.items() if k in ("label", "sample_id")} for item in items])
        values = {CACHED + k: torch.from_numpy(v) for k, v in kept.items()}
        return {**values, **about, "grid": [grid] * len(items)}

    def take_step(self, batch: dict[str, Any]) -> None:
        """Train on a batch."""
        self.wrapper.begin(1.0, last=True)
        self.model.train_step(dict(batch), optim_wrapper=self.wrapper)

    def measure(self, batch: dict[str, Any]) -> Step:
        """Measure a step; the optimizer has its state by then."""
        own = {t.untyped_storage().data_ptr() for t in (*self.model.parameters(), *self.model.buffers())}
        own |= {v.untyped_storage().data_ptr() for v in batch.values() if isinstance(v, Tensor)}
        self.model.train()
        self.take_step(batch)
        self.model.zero_grad(set_to_none=True)
        start = time.perf_counter()
        self.take_step(batch)
        seconds = time.perf_counter() - start
        self.model.zero_grad(set_to_none=True)
        peak = peak_megabytes(lambda: self.take_step(batch))
        self.model.zero_grad(set_to_none=True)
        kept = saved_megabytes(lambda: self.take_step(batch), own)
        with FlopCounterMode(display=False, custom_mapping=attention()) as counter:
            self.take_step(batch)
        return Step(kept, peak, seconds, counter.get_total_flops())


def attention() -> dict[Any, Any]:
    """Return how the operations of attention on the CPU are counted, which torch's counter leaves out."""

    def products(query: Sequence[int], key: Sequence[int], value: Sequence[int]) -> int:
        batch, heads, rows, width = query
        return 2 * batch * heads * rows * key[-2] * (width + value[-1])

    def forward(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
        return products(query, key, value)

    def backward(grad: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
        return 5 * products(query, key, value) // 2  # five products of these sizes, the forward pass has two

    names = {"_scaled_dot_product_flash_attention_for_cpu": forward,
             "_scaled_dot_product_flash_attention_for_cpu_backward": backward}  # fmt: skip
    return {getattr(torch.ops.aten, name): count for name, count in names.items() if hasattr(torch.ops.aten, name)}


def line(first: Step, second: Step, at: Sequence[int], count: int) -> Step:
    """Return what `count` samples need, on the straight line through two measurements at `at` samples."""
    if at[0] == at[1]:
        return second
    values = {}
    for name in ("kept", "peak", "seconds", "flops"):
        a, b = getattr(first, name), getattr(second, name)
        values[name] = max(b + (b - a) / (at[1] - at[0]) * (count - at[1]), 0.0)
    return Step(**values)


def needs_of(trial: TrialStep) -> Needs:
    """Measure two small steps of a trial, and return what the run needs."""
    size = -(-trial.batch // trial.parts)
    at = [min(few, size) for few in FEW]
    items, reading = trial.items(at[1])
    batches = [trial.collated(items[:count]) for count in at]
    steps = [trial.measure(batch) for batch in batches]
    model = bare(trial.model)
    trained = [p for p in model.parameters() if p.requires_grad]
    state = [v for each in trial.wrapper.optimizer.state.values() for v in each.values() if isinstance(v, Tensor)]
    inputs = sum(v.nbytes for v in batches[1].values() if isinstance(v, Tensor)) / at[1] * trial.batch
    return Needs(
        weights=sum(t.nbytes for t in distinct([*model.parameters(), *model.buffers()])) / MB,
        trained=sum(p.numel() for p in trained),
        total=sum(p.numel() for p in model.parameters()),
        optimizer=sum(v.nbytes for v in state) / MB,
        gradients=sum(p.nbytes for p in trained) / MB,
        step=line(steps[0], steps[1], at, size),
        inputs=inputs / MB,
        parts=trial.parts,
        reading=reading,
        saved=sum({id(v): v.nbytes for v in own_state(model).values()}.values()) / MB,
        cache=trial.cache.megabytes() if trial.cache is not None else 0.0,
    )


def distinct(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return one tensor of each storage."""
    return list({t.untyped_storage().data_ptr(): t for t in tensors}.values())


CHANGES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("", {}),
    ("model.recompute=true", {"recompute": True}),
    ("model.trunk_dtype=bf16", {"trunk_dtype": "bf16"}),
    ("model.trunk_dtype=bf16 model.recompute=true", {"trunk_dtype": "bf16", "recompute": True}),
)


def fitting(cfg: Config, limit: float, train: Any) -> list[tuple[str, float]]:
    """Return settings with which a step needs at most `limit` megabytes, and what each needs; least change first.

    Args:
        cfg: of the run.
        limit: megabytes.
        train: the training set.
    """
    from xmodal.model import TransferModel

    found = []
    image_model = isinstance(build_kind(cfg), type) and issubclass(build_kind(cfg), TransferModel)
    for words, change in CHANGES if image_model else CHANGES[:1]:
        changed = Config({**cfg.to_dict(), "model": {**cfg.to_dict()["model"], **change}})
        try:
            trial = TrialStep(changed, train)
            needs = needs_of(trial)
        except ValueError:
            continue
        split = parts_for(needs, trial, limit)
        if split is not None:
            parts, peak = split
            said = " ".join(filter(None, (words, f"train_cfg.batch_split={parts}" if parts > trial.parts else "")))
            found.append((said or "as it is", peak))
    return found


def build_kind(cfg: Config) -> Any:
    """Return the class of a config's model."""
    from xmodal.registry import resolve

    return resolve(cfg.model.type, MODELS)


def parts_for(needs: Needs, trial: TrialStep, limit: float) -> tuple[int, float] | None:
    """Return the smallest number of parts of a batch that fits, and what a step needs then; None where none does."""
    size = -(-trial.batch // trial.parts)
    slope = needs.step.peak / size
    parts = trial.parts
    while True:
        part = -(-trial.batch // parts)
        peak = needs.peak - slope * (size - part)
        if peak <= limit:
            return parts, peak
        if part <= 1:
            return None
        parts = min(2 * parts, trial.batch)


def encoder_name(model: nn.Module) -> str:
    """Return the name of a model's encoder."""
    return getattr(getattr(model, "encoder", None), "name", type(model).__name__)


def dry_run(cfg: Config, max_memory: float | None = None) -> tuple[Needs, list[str]]:
    """Say what a run will do and need, without starting it.

    Args:
        cfg: from `launch.prepare`.
        max_memory: bytes that a step may need; settings that fit are named.

    Returns:
        The needs, and the lines that say them.
    """
    trial = TrialStep(cfg)
    needs = needs_of(trial)
    lines = about(trial, needs)
    if max_memory is not None:
        limit = max_memory / MB
        fits = fitting(cfg, limit, trial.train)
        lines.append(f"within {size_of(limit)}:" + ("" if fits else " nothing fits, even one sample at a time with "
                     "recomputation: a smaller encoder or image_size, or fewer frames"))  # fmt: skip
        lines += [f"  {words}: {size_of(peak)}" for words, peak in fits]
    return needs, lines


def about(trial: TrialStep, needs: Needs) -> list[str]:
    """Return the lines on data, model, step, disk and time."""
    cfg, sets = trial.cfg, [f"{len(trial.train)} training samples"]
    for stage in ("val", "test"):
        if cfg.get(f"{stage}_dataloader"):
            data = dataset_for(trial.model, cfg[f"{stage}_dataloader"].dataset, cfg.randomness.seed)
            check_input(trial.model, data, stage, trial.train)
            sets.append(f"{len(data)} {stage}")
    classes = getattr(trial.train, "classes", None)
    names = (
        f"; {len(classes)} classes: {', '.join(map(str, classes[:5]))}{', ...' * (len(classes) > 5)}" if classes else ""
    )
    share = 100 * needs.trained / max(needs.total, 1)
    per_epoch = -(-len(trial.train) // trial.batch)
    steps = cfg.train_cfg.get("max_steps") or cfg.train_cfg.get("max_epochs", 1) * per_epoch
    workers = max(cfg.train_dataloader.get("num_workers", 0), 1)
    compute, reading = needs.step.seconds * needs.parts, needs.reading * trial.batch / workers
    reading = 0.0 if trial.cache is not None else reading
    slower = "computing" if compute >= reading else f"reading data ({workers} workers)"
    pieces = sorted(needs.pieces.items(), key=lambda item: -item[1])
    cut = f" in {needs.parts} parts" if needs.parts > 1 else ""
    return [
        f"data: {', '.join(sets)}{names}; a sample is read in {needs.reading:.3f} s",
        f"model: {encoder_name(trial.model)}, {needs.trained:,} weights trained ({share:.1f} %), "
        f"{needs.total - needs.trained:,} frozen",
        f"step: {trial.batch} samples{cut}, {needs.step.flops * needs.parts / 1e9:,.1f} GFLOPs, {compute:.2f} s "
        f"on this {get_device()}",
        f"memory of a step: {size_of(needs.peak)} = " + " + ".join(f"{word} {size_of(mb)}" for word, mb in pieces),
        f"  most of it: {pieces[0][0]}{advice(pieces[0][0])}",
        f"files: best.pth {size_of(needs.saved)}, last.pth {size_of(needs.saved + needs.optimizer)}"
        + (f", cache {size_of(needs.cache)}" if needs.cache else ""),
        f"run: {steps:,} steps of {max(compute, reading):.2f} s, about {duration(steps * max(compute, reading))} "
        f"without validations; {slower} decides",
    ]


def advice(word: str) -> str:
    """Return what makes the largest piece of the memory smaller."""
    return {
        "activations kept for the backward pass": "; train_cfg.batch_split=2 halves it, recompute=true keeps little",
        "batch and working memory": "; train_cfg.batch_split=2 halves it",
        "weights": "; model.trunk_dtype=bf16 halves the frozen ones",
    }.get(word, "")


def size_of(megabytes: float) -> str:
    """Write megabytes as MB or GB."""
    return f"{megabytes / 1024:.2f} GB" if megabytes >= 1024 else f"{megabytes:.1f} MB"


def duration(seconds: float) -> str:
    """Write seconds as seconds, minutes or hours."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def parse_size(text: str, what: str = "--max-memory") -> float:
    """Read `24GB`, `800MB`, `24G` or `24` (GB) as bytes.

    Raises:
        ValueError: something else.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(gb|gib|g|mb|mib|m|)\s*", text.lower())
    if not found or not float(found[1]):
        raise ValueError(f"{what} takes a size such as 24GB, got {text!r}")
    return float(found[1]) * (2**20 if found[2].startswith("m") else 2**30)
