"""Pictures of the shape world with a class for every pixel."""

from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from xmodal.registry import DATASETS
from xmodal.toys.shapes import SHAPES, Thing, draw, picture

CLASSES = ["background", *SHAPES]


def segment_of(things: tuple[Thing, ...], size: int) -> np.ndarray:
    """Classes (size, size) i64: 0 is the background, 1 + number of the shape that covers at least half of a pixel."""
    segment = np.zeros((size, size), np.int64)
    for thing in things:
        cover = np.zeros((size, size, 3), np.float32)
        draw(cover, Thing(thing.shape, "white", thing.x, thing.y, thing.size, thing.angle))
        segment[cover[..., 0] > cover.max() / 2] = 1 + SHAPES.index(thing.shape)
    return segment


@DATASETS.register_module(name="shape_segments")
class ShapeSegments(Dataset):
    """Drawn pictures of one or two shapes; picture i depends on (world, i) alone.

    Args:
        count: pictures.
        size: side in pixels.
        world: number of the world; another one is unseen.
        flip: mirror half of the pictures, drawn from (seed, epoch, index): for training.
        seed: of the flips.

    Returns:
        Items `image` (3, size, size) u8 RGB, `segment` (size, size) i64, `sample_id`.
    """

    def __init__(self, count: int, size: int = 96, world: int = 0, flip: bool = False, seed: int = 0):
        self.count, self.size, self.world, self.flip, self.seed = count, size, world, flip, seed
        self.classes = CLASSES

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        """The item of an index, or of an (epoch, index)."""
        epoch, index = key if isinstance(key, tuple) else (0, key)
        if not 0 <= index < self.count:
            raise IndexError(f"pictures go from 0 to {self.count - 1}, asked for {index}")
        image, scene = picture(np.random.default_rng([30, self.world, index]), self.size)
        pixels = torch.from_numpy(image).permute(2, 0, 1)  # (3, S, S)
        segment = torch.from_numpy(segment_of(scene.things, self.size))
        if self.flip and np.random.default_rng([self.seed, epoch, index]).random() < 0.5:
            pixels, segment = pixels.flip(-1), segment.flip(-1)
        return {"image": pixels.contiguous(), "segment": segment, "sample_id": f"shapes-{self.world}-{index}"}
