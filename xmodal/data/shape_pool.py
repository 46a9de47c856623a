"""Many pictures of the shape world at once, as arrays: what pretraining and zero-shot measurements read."""

from dataclasses import dataclass

import numpy as np

from xmodal.data.shapes import COLORS, SHAPES, Scene, Thing, phrase, picture, vocabulary
from xmodal.encoders.tokenizer import WordTokenizer

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
    """Numbers of a thing's shape and colour."""
    return SHAPES.index(thing.shape), NAMES.index(thing.color)
