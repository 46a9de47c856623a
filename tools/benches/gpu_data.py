"""Point operations, cloud networks, decoding and the wait for data on a card."""

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pointcloud import ops
from pointcloud.datasets.base import finish
from pointcloud.toys.scenes import room
from tools.benches import data, points
from tools.benches.gpu_steps import METHODS, Trained, milliseconds, peak_gigabytes, trained
from video.datasets import VideoDataset
from video.sampling import UniformSampling
from video.transforms import RandomResizedCrop
from xmodal.data.collate import collate
from xmodal.data.loader import build_loader
from xmodal.engine.config import load_config
from xmodal.registry import MODELS, build

Cases = dict[str, Callable[[], dict[str, Any]]]
FOLDER = Path(__file__).parents[2] / "configs" / "pointcloud"
CLOUDS = {"epcl": "epcl_vit-b32-clip_20k_sunrgbd-det", "3detr": "detr3d-m_20k_sunrgbd-det"}


def point_cases(args: argparse.Namespace) -> Cases:
    """Return the point operations, with a row for every backend."""
    sizes = (256,) if args.quick else (4096, 50_000)
    return {
        f"points {name} {size:,} ({points.NOTES[name]})": partial(operation, args, name, size)
        for name in points.OPERATIONS
        for size in sizes
    }


def operation(args: argparse.Namespace, name: str, size: int) -> dict[str, Any]:
    """Time an operation on every backend; compare the indices with the plain ones."""
    cloud, run = points.scene(size).to(args.device), points.OPERATIONS[name]
    indices = {}
    found: dict[str, Any] = {}
    for backend in ops.BACKENDS[1:]:
        if ops.available_backends()[backend]:
            found[f"{backend} ms"] = "-"
            continue
        result = run(cloud, backend)
        indices[backend] = result[1] if isinstance(result, tuple) else result
        found[f"{backend} ms"] = milliseconds(lambda b=backend: run(cloud, b), args)  # type: ignore[misc]
    plain = indices["torch"]
    found["equal indices"] = all(bool((other == plain).all()) for other in indices.values())
    return found


def cloud_cases(args: argparse.Namespace) -> Cases:
    """Return the steps of cloud networks."""
    return {f"cloud {name}": partial(cloud_step, args, stem) for name, stem in CLOUDS.items()}


def cloud_step(args: argparse.Namespace, stem: str) -> dict[str, Any]:
    """Time and memory of a training step on furnished rooms."""
    options = ["model.encoder.pretrained=random"] if "epcl" in stem else []
    cfg, count, size = load_config(FOLDER / f"{stem}.py", options), 8, 20_000
    if args.quick:
        count, size = 2, 600
        cfg.model.network.decoder.update(num_queries=8, depth=1)
        cfg.model.network.backbone.update({"num_groups": 16} if "epcl" in stem else {"num_points": 64})
    rooms = []
    for seed in range(count):
        cloud = room(np.random.default_rng(seed), size, low=2, high=3)
        cloud["box_label"] = cloud["box_label"] % cfg.model.network.num_classes
        item = finish({k: v for k, v in cloud.items() if k not in ("feat", "segment")}, str(seed), None, 8)
        rooms.append({k: v for k, v in item.items() if k in ("coord", "lengths", "boxes", "box_label", "box_mask")})
    batch = {k: v for k, v in collate(rooms).items() if isinstance(v, torch.Tensor)}
    built = Trained(build(cfg.model, MODELS), batch, args.device, amp=None)
    peak = peak_gigabytes(built.step, args.device)
    return {"clouds": count, "points": size, "ms a step": milliseconds(built.step, args), "peak GB": peak}


def film(args: argparse.Namespace) -> Path:
    """Return a film of 340 x 256 with a key frame every 12."""
    seconds = 1 if args.quick else 10
    path = data.folder() / f"gpu{seconds}.mp4"
    return path if path.exists() else data.write_video(path, seconds, 12)


def decode_cases(args: argparse.Namespace) -> Cases:
    """Return the ways to decode eight frames."""
    return {
        "decode ours, CPU": partial(decode, args, None),
        "decode torchcodec, CPU": partial(decode, args, "cpu"),
        "decode torchcodec, NVDEC": partial(decode, args, "cuda"),
    }


def decode(args: argparse.Namespace, device: str | None) -> dict[str, Any]:
    """Time eight frames of a film; how far their pixels are from ours."""
    path = film(args)
    ours = data.ours(path)
    read: Callable[[], Any] = partial(data.ours, path)
    if device is not None:
        from torchcodec.decoders import VideoDecoder

        def read() -> Any:
            decoder = VideoDecoder(str(path), device=device, dimension_order="NHWC")
            rows = UniformSampling(num_frames=8).test(len(decoder), 1)[0]
            return decoder.get_frames_at([int(i) for i in rows]).data

    pixels = np.asarray(read().cpu() if device is not None else read()).astype(int)
    off = np.abs(pixels - ours.astype(int))
    return {"ms a clip": milliseconds(read, args), "largest difference": int(off.max()), "mean": float(off.mean())}


def waiting_cases(args: argparse.Namespace) -> Cases:
    """Return training from films, for each method."""
    return {f"waiting {method}": partial(waiting, args, method) for method in METHODS}


def waiting(args: argparse.Namespace, method: str) -> dict[str, Any]:
    """Share of a training step that waits for the loader, films decoded by worker processes."""
    import os

    workers, batch, size = (1, 2, "tiny") if args.quick else (min(16, os.cpu_count() or 1), 16, "b16")
    frames, steps, path = (2, 2, film(args)) if args.quick else (8, 20, film(args))
    listed = path.with_suffix(".txt")
    listed.write_text("".join(f"{path.name} {i % 4}\n" for i in range(batch * (steps + 1))))
    side = 48 if args.quick else 224
    films = VideoDataset(
        str(listed), root=str(path.parent), num_frames=frames, sampling=dict(type=UniformSampling), size=side,
        transforms=[dict(type=RandomResizedCrop, size=side)],
    )  # fmt: skip
    loader = build_loader(dict(batch_size=batch, num_workers=workers), films, range(len(films)))  # type: ignore[arg-type]
    built = trained(args, method, size, frames, batch)
    waited = total = 0.0
    last = None
    for number, found in enumerate(timed(loader)):
        seconds, batch_found = found
        start = time.perf_counter()
        built.batch = {k: v for k, v in batch_found.items() if k in ("clips", "label")}
        built.step()
        spent = time.perf_counter() - start
        if number:  # the first waits for the workers to start
            waited, total = waited + seconds, total + seconds + spent
        last = number
    return {
        "workers": workers,
        "clips": batch,
        "steps": last,
        "clips/s": batch * (last or 0) / total,
        "waits": waited / total,
    }


def timed(loader: Any) -> Any:
    """Yield the seconds that each batch was waited for, and the batch."""
    batches = iter(loader)
    while True:
        start = time.perf_counter()
        try:
            batch = next(batches)
        except StopIteration:
            return
        yield time.perf_counter() - start, batch
