"""The captioned shape world as a data set for contrastive pretraining: captions, labels, or both in one batch."""

from typing import Any

import numpy as np
from torch.utils.data import Dataset

from xmodal.encoders.tokenizer import WordTokenizer
from xmodal.registry import DATASETS
from xmodal.toys.shape_pool import NAMES, TOKENIZER
from xmodal.toys.shapes import SHAPES, Scene, background, phrase, picture, random_thing, render

CLASSES = [f"{color} {shape}" for color in NAMES for shape in SHAPES]
TEMPLATES = ("a photo of a {}", "a picture of a {}", "an image of a {}", "a drawing of a {}")


def shape_tokenizer() -> WordTokenizer:
    """The tokenizer of the shape world's words."""
    return TOKENIZER


def close_up(rng: np.random.Generator, size: int = 48) -> tuple[np.ndarray, Scene]:
    """A picture (size, size, 3) that one thing fills to 62-94 %, and its phrase (with its size) as the caption."""
    thing = random_thing(rng)
    words, diameter = phrase(thing, rng), 0.45 + 0.9 * thing.size
    x, y = rng.uniform(diameter / 2, 1 - diameter / 2, 2)
    things = (thing.moved(x=x, y=y, size=diameter),)
    return render(things, background(rng, size), rng.uniform(0, 6), rng), Scene(things, words)


@DATASETS.register_module(name="shape_captions")
class ShapeCaptions(Dataset):
    """Pictures of the shape world, drawn once; picture i depends on (world, i) alone.

    Args:
        count: pictures.
        labeled: share of the pictures of one thing that carry a label (their text is a template around `<color>
            <shape>`, drawn anew every epoch) instead of their caption.
        world: number of the world; another one is unseen.
        size: pixels.
        alone: pictures of one thing only, labeled from 0: a zero-shot test set of 64 classes.
        close: pictures that one thing fills, see `close_up`; far easier to learn from.
        seed: of templates.

    Raises:
        ValueError: a share outside 0..1.
    """

    def __init__(
        self,
        count: int,
        labeled: float = 0.5,
        world: int = 0,
        size: int = 48,
        alone: bool = False,
        close: bool = False,
        seed: int = 0,
    ):
        if not 0 <= labeled <= 1:
            raise ValueError(f"labeled={labeled}: give a share between 0 and 1")
        self.alone, self.seed, self.classes = alone, seed, CLASSES
        self.images = np.empty((count, 3, size, size), np.uint8)
        self.texts: list[str] = []
        self.labels = np.zeros(count, np.int64)  # 0 for a caption
        number = -1
        for i in range(count):
            while True:
                number += 1
                rng = np.random.default_rng([world, number])
                image, scene = (close_up if close else picture)(rng, size)
                if len(scene.things) == 1 or not alone:
                    break
            self.images[i] = image.transpose(2, 0, 1)  # (3, S, S)
            self.texts.append(scene.caption)
            thing = scene.things[0]
            if len(scene.things) == 1 and (alone or rng.random() < labeled):
                self.labels[i] = 1 + NAMES.index(thing.color) * len(SHAPES) + SHAPES.index(thing.shape)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        label, text = int(self.labels[index]), self.texts[index]
        if label and not self.alone:
            rng = np.random.default_rng([self.seed, epoch, index])
            text = TEMPLATES[rng.integers(len(TEMPLATES))].format(CLASSES[label - 1])
        label = label - 1 if self.alone else label
        return {"image": self.images[index], "caption": text, "label": label, "sample_id": f"shape-{index}"}
