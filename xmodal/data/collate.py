"""Collate samples into one flat dict per batch."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch.utils.data import default_collate


def collate(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Stack tensors of equal shape, list everything else, and set unreadable samples aside; nothing is padded.

    Args:
        samples: flat dicts with the same keys. `{"skipped": sample_id, "reason": str}` is a sample that could not be
            read; a `replaced` entry (such a dict, or a list of them) says which samples this one stands in for.

    Returns:
        Tensors and arrays stacked along a new first axis, numbers as a tensor, everything else as a list. `skipped` and
        `replaced` hold what was set aside and appear only when there is something. All skipped: `{"skipped": [...]}`.

    Raises:
        ValueError: samples with other keys or shapes than the first one.
    """
    skipped = [{"sample_id": s["skipped"], "reason": s.get("reason", "")} for s in samples if "skipped" in s]
    kept = [dict(s) for s in samples if "skipped" not in s]
    replaced: list[dict] = []
    for sample in kept:
        noted = sample.pop("replaced", None) or []
        replaced += [noted] if isinstance(noted, dict) else list(noted)
    batch: dict[str, Any] = {}
    for key in kept[0] if kept else ():
        batch[key] = _join(key, kept)
    for sample in kept:
        if sample.keys() != kept[0].keys():
            odd = sorted(sample.keys() ^ kept[0].keys())
            raise ValueError(f"samples of one batch have other keys: {odd} not in all (sample {_name(sample)})")
    if skipped:
        batch["skipped"] = skipped
    if replaced:
        batch["replaced"] = replaced
    return batch


def _join(key: str, samples: list[dict[str, Any]]) -> Any:
    values = [s.get(key) for s in samples]
    first = values[0]
    if isinstance(first, np.ndarray):
        values = [torch.from_numpy(v) for v in values]
        first = values[0]
    if isinstance(first, torch.Tensor):
        for sample, value in zip(samples, values, strict=True):
            if value is not None and value.shape != first.shape:
                raise ValueError(
                    f"{key} of sample {_name(sample)} has shape {tuple(value.shape)}, that of {_name(samples[0])} "
                    f"{tuple(first.shape)}: a batch needs one shape"
                )
        return default_collate(values) if all(isinstance(v, torch.Tensor) for v in values) else values
    if all(isinstance(v, bool | int | float | np.number) for v in values):
        return torch.as_tensor(values)
    return values


def _name(sample: dict[str, Any]) -> str:
    return repr(sample.get("sample_id", "without a sample_id"))


def split(batch: dict[str, Any], parts: int) -> list[tuple[dict[str, Any], float]]:
    """Cut a batch into at most `parts` pieces of whole samples.

    Args:
        batch: a collated batch.
        parts: how many pieces are wanted; fewer samples than that give fewer pieces.

    Returns:
        The pieces, each with its share of the samples (shares add up to 1).

    Raises:
        ValueError: a tensor whose first axis is not the batch.
    """
    if parts <= 1:
        return [(batch, 1.0)]
    size = batch_size(batch)
    cuts = np.linspace(0, size, min(parts, size) + 1).round().astype(int)
    pieces = []
    for start, stop in pairwise(cuts):
        piece = {}
        for key, value in batch.items():
            per_sample = isinstance(value, torch.Tensor | list) and key not in ("skipped", "replaced")
            if per_sample and len(value) != size:
                raise ValueError(f"batch_split cannot cut {key!r}: {len(value)} rows for {size} samples")
            piece[key] = value[start:stop] if per_sample else value
        pieces.append((piece, (stop - start) / size))
    return pieces


def batch_size(batch: dict[str, Any]) -> int:
    """Return the number of samples in a batch, 0 when all of them were skipped."""
    for key, value in batch.items():
        if key not in ("skipped", "replaced") and isinstance(value, torch.Tensor | list):
            return len(value)
    return 0
