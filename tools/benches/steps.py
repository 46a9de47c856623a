"""The sizes, the inputs and the step that the benches share; a state is (model, batch)."""

import resource
import time
from collections.abc import Callable
from typing import Any

import torch

SIZES: dict[str, dict[str, int]] = {
    "b16": dict(image_size=224, patch_size=16, dim=768, depth=12, num_heads=12),
    "s16": dict(image_size=224, patch_size=16, dim=384, depth=12, num_heads=6),
    "l14": dict(image_size=224, patch_size=14, dim=1024, depth=24, num_heads=16),
    "tiny": dict(image_size=48, patch_size=8, dim=128, depth=4, num_heads=4),
}
CLASSES = 100


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
