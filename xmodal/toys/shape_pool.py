"""Many pictures of the shape world at once, as arrays: what pretraining and zero-shot measurements read."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from xmodal.encoders.tokenizer import WordTokenizer
from xmodal.registry import DATASETS
from xmodal.toys.shapes import COLORS, SHAPES, Scene, Thing, phrase, picture, vocabulary

CONTEXT = 20
NAMES = list(COLORS)
TOKENIZER = WordTokenizer(vocabulary(), CONTEXT)


@dataclass(frozen=True)
class Pool:
    """N pictures with everything that was said about them.

    Args:
        images: (N, 3, S, S) u8.
        captions: (N, CONTEXT) i64, word numbers.
        phrases: (N, 2, CONTEXT) i64, one for each thing.
        shape: (N, 2) i64, -1 where there is no second thing.
        color: (N, 2) i64, likewise.
        geometry: (N, 2, 4) f32: x, y, size as fractions of the canvas, angle in radians.
        texts: N captions.
    """

    images: np.ndarray
    captions: np.ndarray
    phrases: np.ndarray
    shape: np.ndarray
    color: np.ndarray
    geometry: np.ndarray
    texts: list[str]

    @classmethod
    def draw(cls, count: int, seed: int, size: int = 48) -> "Pool":
        """Draw `count` pictures; picture i depends on (seed, i) alone."""
        images = np.empty((count, 3, size, size), np.uint8)
        phrases = np.full((count, 2, CONTEXT), 0, np.int64)
        labels = np.full((count, 2, 2), -1, np.int64)
        geometry = np.zeros((count, 2, 4), np.float32)
        texts = []
        for i in range(count):
            rng = np.random.default_rng([seed, i])
            image, scene = picture(rng, size)
            images[i] = image.transpose(2, 0, 1)  # (3, S, S)
            texts.append(scene.caption)
            describe(scene, rng, phrases[i], labels[i], geometry[i])
        captions = TOKENIZER(texts).numpy()
        return cls(images, captions, phrases, labels[..., 0], labels[..., 1], geometry, texts)


def describe(
    scene: Scene, rng: np.random.Generator, phrases: np.ndarray, labels: np.ndarray, geometry: np.ndarray
) -> None:
    """Write phrases (2, CONTEXT), labels (2, 2) and geometry (2, 4) of a scene's things in place."""
    for j, thing in enumerate(scene.things):
        phrases[j] = TOKENIZER(phrase(thing, rng))[0].numpy()
        labels[j] = label_of(thing)
        geometry[j] = thing.x, thing.y, thing.size, thing.angle


def label_of(thing: Thing) -> tuple[int, int]:
    """Numbers of a thing's shape and color."""
    return SHAPES.index(thing.shape), NAMES.index(thing.color)


@DATASETS.register_module(name="shape_things")
class ShapeThings(Dataset):
    """Pictures of a `Pool` with their labels; brightness and contrast are drawn in every epoch.

    A sample: `image` (3, S, S) f32, `text` (CONTEXT,), `phrases` (2, CONTEXT), `shape` (2,), `color` (2,), `geometry`
    (2, 4), `sample_id`.

    Args:
        count: pictures.
        world: number of the world; picture i depends on (world, i) alone.
        size: pixels.
        gain: contrast is multiplied by 1 - gain to 1 + gain.
        shift: brightness changes by up to so many gray levels.
        seed: of brightness and contrast.
    """

    def __init__(
        self, count: int, world: int = 0, size: int = 48, gain: float = 0.15, shift: float = 12.0, seed: int = 0
    ):
        self.pool, self.gain, self.shift, self.seed = Pool.draw(count, world, size), gain, shift, seed

    def __len__(self) -> int:
        return len(self.pool.images)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        epoch, i = key if isinstance(key, tuple) else (0, key)
        gain, shift = np.random.default_rng([self.seed, epoch, i]).uniform(-1, 1, 2)
        image = self.pool.images[i] * np.float32(1 + gain * self.gain) + np.float32(shift * self.shift)
        pool = self.pool
        sample = {"image": np.clip(image, 0, 255), "text": pool.captions[i], "phrases": pool.phrases[i]}
        sample |= {"shape": pool.shape[i], "color": pool.color[i], "geometry": pool.geometry[i]}
        return {**sample, "sample_id": f"shape-{i}"}
