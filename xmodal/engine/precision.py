"""Precisions of training and evaluation on any device."""

from typing import Any

import torch

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def check_amp(amp: str | None, device: str) -> None:
    """Refuse a precision that the device cannot train in.

    Raises:
        ValueError: an unknown precision, or fp16 without a GPU.
    """
    if amp is not None and amp not in DTYPES:
        raise ValueError(f"amp {amp!r}: choose bf16, fp16 or None")
    if amp == "fp16" and device == "cpu":
        raise ValueError("fp16 needs a GPU; on a CPU use bf16 or full precision")


def autocast(device: torch.device, amp: str | None) -> Any:
    """Return the autocast context of a precision.

    Why: mmengine's trains on CUDA only. Until: its AmpOptimWrapper takes a CPU.
    """
    return torch.autocast(device.type, dtype=DTYPES.get(amp or ""), enabled=amp is not None)
