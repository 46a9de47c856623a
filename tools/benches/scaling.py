"""Measure the cost of a training step against clips, frames, classes, precision and processes."""

import socket
import time
from types import SimpleNamespace
from typing import Any

import torch

from tools.benches import video
from tools.benches.measure import Variant, train_step


def grown(args, name: str, values, change) -> list[Variant]:
    """ST-Adapter's step for each of `values`."""
    variants = []
    for value in values:
        own = SimpleNamespace(**{**vars(args), **change(value)})
        classes = value if name == "classes" else 400
        variants.append(
            Variant(
                f"{name} {value}",
                train_step,
                lambda own=own, classes=classes: (video.st_adapter_model(own, classes=classes), video.clips_for(own)),
            )
        )
    return variants


def batch(args):
    """Clips in a step."""
    return grown(args, "clips", (1, 2, 4), lambda value: {"batch": value})


def frames(args):
    """Frames in a clip."""
    return grown(args, "frames", (4, 8, 16, 32), lambda value: {"frames": value})


def classes(args):
    """Classes of the head."""
    return grown(args, "classes", (8, 174, 400, 1000), lambda value: {})


def precision(args):
    """float32, the frozen trunk in bf16, autocast to bf16; and how far features and gradients move."""
    data = video.clips_for(args)

    def autocast_step(state):
        model, batch = state
        model.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(mode="loss", **batch)["loss"]
        loss.backward()
        return loss

    def model(**options):
        made = video.st_adapter_model(args, **options)
        torch.manual_seed(1)
        for name, parameter in made.named_parameters():
            if parameter.requires_grad and ".conv." in name:  # zero at the start, which would hide the adapters
                torch.nn.init.normal_(parameter, std=0.1)
        return made.eval()  # no dropout

    steps = {"float32": ({}, train_step), "bf16 trunk": ({"trunk_dtype": "bf16"}, train_step)}
    steps["bf16 autocast"] = ({}, autocast_step)
    exact = None
    for name, (options, step) in steps.items():
        made = model(**options)
        loss = float(step((made, data)))
        gradient = torch.cat([p.grad.flatten() for p in made.parameters() if p.grad is not None])
        exact = exact or (loss, gradient)
        moved = float((gradient - exact[1]).norm() / exact[1].norm())
        print(f"{name}: loss {loss:.4f}, off by {abs(loss - exact[0]):.1e}; gradient off by {moved:.1e} of its length")
    return [Variant(name, step, lambda o=options: (model(**o), data)) for name, (options, step) in steps.items()]


def ddp(args, steps: int = 4) -> list[dict[str, Any]]:
    """One process against two on this machine, one thread each; `--batch` clips in each."""
    rows = []
    for world in (1, 2):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        queue = torch.multiprocessing.get_context("spawn").SimpleQueue()
        torch.multiprocessing.spawn(one_of, (world, port, args, steps, queue), nprocs=world)
        seconds = queue.get()
        rows.append({"processes": world, "s a step": seconds, "clips/s": world * args.batch / seconds})
    return rows


def one_of(rank: int, world: int, port: int, args, steps: int, queue) -> None:
    """Train in one of `world` processes and report the seconds of a step."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    model = torch.nn.parallel.DistributedDataParallel(video.st_adapter_model(args))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    data = video.clips_for(args)
    for step in range(steps + 1):
        if step == 1:  # the first warms up
            torch.distributed.barrier()
            start = time.perf_counter()
        train_step((model, data))
        optimizer.step()
    torch.distributed.barrier()
    if rank == 0:
        queue.put((time.perf_counter() - start) / steps)
    torch.distributed.destroy_process_group()
