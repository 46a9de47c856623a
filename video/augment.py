"""RandAugment over clips: timm's operations, one draw for all frames."""

import random
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from xmodal.registry import TRANSFORMS

_STRING = re.compile(r"rand(-(m\d+|n\d+|p[\d.]+|mstd([\d.]+|inf)|mmax\d+|inc[01]|t[a-z]\w*))*")


@TRANSFORMS.register_module(name="rand_augment")
class RandAugment:
    """RandAugment on uint8 frames; operations, signs and magnitudes are shared by the clip.

    Paper: RandAugment, arXiv 1909.13719.

    Args:
        config: timm's string, e.g. `rand-m7-n4-mstd0.5-inc1` (magnitude 7, 4 operations, its deviation, increasing).
        fill: color of what moves into the frame, RGB 0 to 255.
    """

    def __init__(self, config: str = "rand-m7-n4-mstd0.5-inc1", fill: tuple[int, int, int] = (128, 128, 128)) -> None:
        from timm.data.auto_augment import rand_augment_transform

        if not _STRING.fullmatch(config):
            raise ValueError(f"not a RandAugment string: {config!r}; write it like 'rand-m7-n4-mstd0.5-inc1'")
        self.config = config
        options = {"img_mean": tuple(fill), "interpolation": Image.Resampling.BICUBIC}
        self.policy = rand_augment_transform(config, options)

    def draw(self, rng: np.random.Generator) -> list[tuple[str, Callable[[Any], Any]]]:
        """Draw the operations of a clip: their names, and functions from image to image."""
        weights = self.policy.choice_weights
        picks = rng.choice(len(self.policy.ops), self.policy.num_layers, replace=weights is None, p=weights)
        drawn = []
        for op in (self.policy.ops[i] for i in picks):
            if rng.random() > op.prob:
                continue
            drawn.append((op.name, _bind(op, _magnitude(op, rng), rng)))
        return drawn

    def __call__(self, clip: Tensor, label: int, rng: np.random.Generator) -> tuple[Tensor, int]:
        """Apply what was drawn to each frame of (T, 3, H, W)."""
        operations = self.draw(rng)
        if not operations:
            return clip, label
        frames = clip.permute(0, 2, 3, 1).numpy()  # (T, H, W, 3)
        out = np.empty(frames.shape, np.uint8)
        for frame, target in zip(frames, out, strict=True):
            image = Image.fromarray(frame)
            for _, operation in operations:
                image = operation(image)
            target[...] = np.asarray(image)
        return torch.from_numpy(out).permute(0, 3, 1, 2), label  # (T, 3, H, W)


def _magnitude(op: Any, rng: np.random.Generator) -> float:
    magnitude = float(op.magnitude)
    if op.magnitude_std == float("inf"):
        magnitude = rng.uniform(0, magnitude)
    elif op.magnitude_std > 0:
        magnitude = rng.normal(magnitude, op.magnitude_std)
    return max(0.0, min(magnitude, op.magnitude_max or 10.0))


def _bind(op: Any, magnitude: float, rng: np.random.Generator) -> Callable[[Any], Any]:
    with _python_random(rng):  # timm draws the sign from Python's global generator
        arguments = op.level_fn(magnitude, op.hparams) if op.level_fn is not None else ()
    return lambda image: op.aug_fn(image, *arguments, **op.kwargs)


@contextmanager
def _python_random(rng: np.random.Generator) -> Iterator[None]:
    state = random.getstate()
    random.seed(int(rng.integers(2**32)))
    try:
        yield
    finally:
        random.setstate(state)
