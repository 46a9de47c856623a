"""Copy the next batch to the GPU while the current one is computed."""

from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor

LARGE = 2**20  # bytes: what is smaller goes along with the step


class Courier(Protocol):
    """Interface of what copies batches to a device: begin a copy, then wait for it."""

    def send(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Begin to copy a batch and return it, with tensors that must not be used yet."""

    def receive(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Let the computation wait for a batch that was sent."""


class SideStream:
    """A CUDA stream on which large tensors in pinned memory are copied beside the computation.

    Whole numbers (labels, sizes) stay on the host, where they are checked before the step takes them along.

    Args:
        device: a CUDA device.
    """

    def __init__(self, device: torch.device):
        self.device, self.stream = device, torch.cuda.Stream(device)

    def send(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Begin to copy pixels, coordinates and features on the side stream."""
        with torch.cuda.stream(self.stream):
            return {k: v.to(self.device, non_blocking=True) if is_worth(v) else v for k, v in batch.items()}

    def receive(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Let the current stream wait for the copies, whose memory is free again only behind its use there."""
        now = torch.cuda.current_stream(self.device)
        now.wait_stream(self.stream)
        for value in batch.values():
            if isinstance(value, Tensor) and value.is_cuda:
                value.record_stream(now)
        return batch


def is_worth(value: Any) -> bool:
    """Return whether a value is a large pinned tensor of pixels or real numbers."""
    if not isinstance(value, Tensor) or not (value.is_floating_point() or value.dtype == torch.uint8):
        return False
    return value.numel() * value.element_size() >= LARGE and value.is_pinned()


def copied_ahead(batches: Iterable[dict[str, Any]], courier: Courier) -> Iterator[dict[str, Any]]:
    """Yield batches in their order; the next one is sent before the current one is handed out."""
    before: dict[str, Any] | None = None
    for batch in batches:
        sent = courier.send(batch)
        if before is not None:
            yield courier.receive(before)
        before = sent
    if before is not None:
        yield courier.receive(before)
