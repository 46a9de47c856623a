"""Tip-Adapter's search for alpha and beta against the size of the cache and the number of pairs tried."""

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from tools.benches.measure import Variant
from xmodal.heads.base import unit
from xmodal.heads.cache import search_grid
from xmodal.heads.tip_adapter import TipAdapterHead

SCALE = (7.0, 3.0)


def task(classes: int, shots: int, images: int, width: int = 512) -> tuple[TipAdapterHead, Tensor, Tensor]:
    """A cache of `shots` features around each of `classes` centers, and validation features of as many images."""
    random = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=random)  # noqa: E731
    centers = draw(classes, width)
    label, checked = torch.arange(classes).repeat_interleave(shots), torch.arange(images) % classes
    keys, text = centers[label] + 2 * draw(len(label), width), unit(centers + 3 * draw(classes, width))
    head = TipAdapterHead.from_shots(keys, label, text, [str(i) for i in range(classes)])
    return head, centers[checked] + 2 * draw(images, width), checked


def ours(steps: tuple[int, int], given: tuple[TipAdapterHead, Tensor, Tensor]) -> None:
    """The vectorised search."""
    head, feature, label = given
    head.search(feature, label, SCALE, steps)


@torch.no_grad()
def pair_by_pair(steps: tuple[int, int], given: tuple[TipAdapterHead, Tensor, Tensor]) -> None:
    """Compute all logits again for every pair, as the released loops do."""
    head, feature, label = given
    betas, alphas = search_grid(SCALE, steps)
    best, feature = 0.0, unit(feature)
    affinity, base = feature @ head.keys.t(), head.zero_shot(feature)
    for beta in betas:
        for alpha in alphas:
            logits = base + (-(beta - beta * affinity)).exp() @ head.values * alpha
            best = max(best, float((logits.argmax(1) == label).float().mean()))


def tip_search(args: argparse.Namespace) -> list[Variant]:
    """Pairs, keys and images, each varied alone; the first row is the released formulation."""

    def row(classes: int, shots: int, images: int, points: int, run: Callable[..., Any] = ours) -> Variant:
        name = f"{points} pairs, {classes * shots} keys of {classes} classes, {images} images"
        if run is pair_by_pair:
            name += ", pair by pair"
        return Variant(name, partial(run, (points // 20, 20)), partial(task, classes, shots, images))

    return [
        row(16, 16, 64, 4000, pair_by_pair),
        row(16, 16, 64, 4000),
        row(16, 16, 64, 400),
        row(16, 1, 64, 4000),
        row(16, 16, 640, 4000),
        row(100, 4, 640, 4000),
        row(100, 16, 640, 4000),
    ]
