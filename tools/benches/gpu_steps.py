"""Training steps of the frozen-trunk methods on a card: time, memory, switches, largest batch."""

import argparse
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from itertools import repeat
from pathlib import Path
from statistics import median_high
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from tools.benches import video
from tools.benches.measure import SIZES
from xmodal.adapters.conv_adapter import conv_adapter
from xmodal.data.ahead import SideStream, copied_ahead
from xmodal.encoders.convnet import convnet
from xmodal.engine.config import load_config
from xmodal.engine.dry_run import TrialStep, needs_of
from xmodal.engine.memory import peak_megabytes, saved_megabytes
from xmodal.engine.optim import TrainedGroups
from xmodal.heads.classification import ClassificationHead
from xmodal.model import TransferModel

METHODS = {"st-adapter": video.st_adapter_model, "evl": video.evl_model}
CONFIGS = Path(__file__).parents[2] / "configs" / "video"
CARDS = (24, 40, 80)  # GB
CONTEXT = 1.0  # GB that CUDA and fragments take


def synchronize(device: str) -> None:
    """Wait for the device."""
    if device == "cuda":
        torch.cuda.synchronize()


def milliseconds(run: Callable[[], Any], args: argparse.Namespace, seconds: float = 2.0) -> float:
    """Median time of a step on the wall, after two that do not count."""
    times: list[float] = []
    begin = time.perf_counter()
    while len(times) < (2 if args.quick else 12) and (len(times) < 4 or time.perf_counter() - begin < seconds):
        synchronize(args.device)
        start = time.perf_counter()
        run()
        synchronize(args.device)
        times.append(time.perf_counter() - start)
    return 1000 * median_high(times[1 if args.quick else 2 :])


class Trained:
    """A model with its optimizer and a batch of uint8 clips on the host, as the loader gives them.

    Args:
        model: what trains.
        batch: its samples.
        device: where it trains.
        amp: precision of autocast.
        pinned: whether the batch lies in pinned memory.
        ahead: copy the batch of the next step beside the step.
        optimizer: further arguments of AdamW.
    """

    def __init__(
        self, model: nn.Module, batch: dict[str, Any], device: str, amp: str | None = "bf16", pinned: bool = True,
        ahead: bool = False, **optimizer: Any,
    ):  # fmt: skip
        self.model = model.to(device).train()
        self.batch = {k: v.pin_memory() for k, v in batch.items()} if pinned and device == "cuda" else batch
        adam = dict(type=torch.optim.AdamW, lr=1e-4, **optimizer)
        self.wrapper = TrainedGroups(dict(optimizer=adam, amp=amp))(self.model, say=False)
        given = repeat(self.batch)
        ahead = ahead and pinned and device == "cuda"
        self.batches = copied_ahead(given, SideStream(torch.device(device))) if ahead else given

    def step(self) -> None:
        """Take a training step, the copy of a batch included."""
        self.wrapper.begin(1.0, last=True)
        self.model.train_step(dict(next(self.batches)), optim_wrapper=self.wrapper)


def clips(size: str, frames: int, batch: int) -> dict[str, torch.Tensor]:
    """Make uint8 clips and labels."""
    side = SIZES[size]["image_size"]
    pixels = torch.randint(0, 256, (batch, 1, frames, 3, side, side), dtype=torch.uint8)
    return dict(clips=pixels, label=torch.zeros(batch, dtype=torch.long))


def trained(
    args: argparse.Namespace,
    method: str,
    size: str,
    frames: int,
    batch: int,
    trunk: str | None = "bf16",
    **options: Any,
) -> Trained:
    """Build a method with random weights."""
    compiled = {"compile_blocks": True} if options.pop("compile_blocks", False) else {}
    model = METHODS[method](SimpleNamespace(size=size, frames=frames), trunk_dtype=trunk, **compiled)
    return Trained(model, clips(size, frames, batch), args.device, **options)


def peak_gigabytes(run: Callable[[], Any], device: str) -> float:
    """Most memory that is allocated while something runs, weights included; on a CPU what a step keeps."""
    if device != "cuda":
        return saved_megabytes(run, set()) / 1024
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    run()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() / 2**30


def step(args: argparse.Namespace, backend: Any = None, batch: int = 8, **options: Any) -> dict[str, Any]:
    """Time and peak memory of a step."""
    built = trained(args, batch=batch, **options)
    with sdpa_kernel(backend) if backend is not None else nullcontext():
        peak = peak_gigabytes(built.step, args.device)
        found = milliseconds(built.step, args)
    return {"clips": batch, "ms a step": found, "clips/s": 1000 * batch / found, "peak GB": peak}


def largest(args: argparse.Namespace, method: str, size: str) -> dict[str, Any]:
    """Largest batch of 8 frames that cards hold, on the line through two batches; one that fits here is tried."""
    few = (1, 2) if args.quick else (4, 8)
    first, second = (peak_gigabytes(trained(args, method, size, 8, n).step, args.device) for n in few)
    each = max((second - first) / (few[1] - few[0]), 1e-6)
    found = {f"{card} GB": int((card - CONTEXT - first) / each) + few[0] for card in CARDS}
    room = torch.cuda.get_device_properties(0).total_memory / 2**30 if args.device == "cuda" else 0.0
    fits = [card for card in CARDS if card <= room]
    tried = "-"
    if fits:
        peak = peak_gigabytes(trained(args, method, size, 8, found[f"{fits[0]} GB"]).step, args.device)
        tried = f"{peak:.1f} GB with {found[f'{fits[0]} GB']}"
    return {"GB a clip": each, **found, "tried": tried}


def foretold(args: argparse.Namespace) -> dict[str, Any]:
    """The peak that `--dry-run` foretells for a batch, and that of its step (on a CPU what it allocates)."""
    name, side = ("st-adapter_tiny-clip_8u_actions8", 48) if args.quick else ("st-adapter_vit-b16-clip_8x16_k400", 224)
    options = [] if args.quick else ["model.encoder.pretrained=random"]
    cfg = load_config(CONFIGS / f"{name}.py", options)
    cfg.train_dataloader.batch_size = 6 if args.quick else 32
    trial = TrialStep(cfg, Noise(side))
    needs = needs_of(trial)
    batch = trial.collated(trial.items(trial.batch)[0])
    if args.device == "cuda":
        measured = peak_gigabytes(lambda: trial.take_step(batch), args.device)
    else:
        measured = (peak_megabytes(lambda: trial.take_step(batch)) + needs.peak - needs.step.peak) / 1024
    said = needs.peak / 1024
    return {"clips": trial.batch, "foretold GB": said, "measured GB": measured, "ratio": said / measured}


class Noise:
    """Clips of 8 frames of noise, as a training set gives them."""

    num_frames, num_classes = 8, 4

    def __init__(self, side: int):
        self.size = side

    def __len__(self) -> int:
        return 64

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        pixels = torch.randint(0, 256, (1, 8, 3, self.size, self.size), dtype=torch.uint8)
        return {"clips": pixels, "label": key[1] % self.num_classes, "sample_id": str(key[1])}


def convolutions(args: argparse.Namespace, **options: Any) -> dict[str, Any]:
    """A step of a head on a frozen ResNet-50."""
    side, batch = (64, 2) if args.quick else (224, 64)
    tower = convnet("resnet50.tv2_in1k", pretrained=False)
    head = dict(type=ClassificationHead, num_classes=100)
    model = TransferModel(tower, head, [dict(type=conv_adapter)], **options)
    images = torch.randint(0, 256, (batch, 3, side, side), dtype=torch.uint8)
    built = Trained(model, dict(image=images, label=torch.zeros(batch, dtype=torch.long)), args.device)
    return {"images": batch, "ms a step": milliseconds(built.step, args)}


def step_cases(args: argparse.Namespace) -> dict[str, Callable[[], dict[str, Any]]]:
    """Return the cases by name."""
    sizes, frames, base = (("tiny",), (2,), "tiny") if args.quick else (("b16", "l14"), (8, 16, 32), "b16")
    many = 1 if args.quick else 8
    found: dict[str, Callable[[], dict[str, Any]]] = {}
    for method in METHODS:
        for size in sizes:
            for count in frames:
                batch = max(1, many * 8 // count // (2 if size == "l14" else 1))
                found[f"step {method} {size} {count} frames, bf16"] = partial(
                    step, args, method=method, size=size, frames=count, batch=batch
                )
    one: dict[str, Any] = dict(method="st-adapter", size=base, frames=frames[0], batch=many)
    switches: dict[str, dict[str, Any]] = {
        "float32": dict(amp=None, trunk=None),
        "autocast alone": dict(trunk=None),
        "AdamW not fused": dict(fused=False),
        "pageable batch": dict(pinned=False),
        "copied ahead": dict(ahead=True),
        "compiled blocks": dict(compile_blocks=True),
        "attention: math": dict(backend=SDPBackend.MATH),
        "attention: memory-efficient": dict(backend=SDPBackend.EFFICIENT_ATTENTION),
        "attention: flash": dict(backend=SDPBackend.FLASH_ATTENTION),
    }
    if args.device == "cpu":
        del switches["compiled blocks"], switches["attention: memory-efficient"]
    found["switch all"] = partial(step, args, **one)
    found |= {f"switch {name}": partial(step, args, **{**one, **how}) for name, how in switches.items()}
    for name, how in {"as given": {}, "channels last": {"channels_last": True}}.items():
        found[f"cnn {name}"] = partial(convolutions, args, **how)
    found["memory dry-run"] = partial(foretold, args)
    for method in METHODS:
        for size in sizes:
            found[f"largest {method} {size}"] = partial(largest, args, method, size)
    return found
