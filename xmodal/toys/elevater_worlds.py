"""Small data sets in the benchmark's layout, so that the whole protocol runs where nothing was downloaded.

They are drawn with the renderer of the tiny CLIP's own pictures, or with strokes, or are scikit-learn's digits: figures
on them say nothing about natural images.
"""

import io
import json
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from xmodal.toys.shapes import COLORS, SHAPES, picture, texture

Drawn = tuple[np.ndarray, list[int]]  # image (S, S, 3) u8 RGB and its classes
DIGITS = tuple("zero one two three four five six seven eight nine".split())  # noqa: SIM905
PARTS = ("left", "right")
FONTS = (cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_DUPLEX, cv2.FONT_HERSHEY_COMPLEX, cv2.FONT_HERSHEY_TRIPLEX)


def draw_shape(rng: np.random.Generator, size: int) -> Drawn:
    """A picture of one thing, labeled by its shape."""
    image, scene = one_thing(rng, size)
    return image, [SHAPES.index(scene.things[0].shape)]


def draw_color(rng: np.random.Generator, size: int) -> Drawn:
    """A picture of one thing, labeled by its color."""
    image, scene = one_thing(rng, size)
    return image, [list(COLORS).index(scene.things[0].color)]


def draw_place(rng: np.random.Generator, size: int) -> Drawn:
    """A picture of one thing, labeled by the half it lies in."""
    while True:
        image, scene = one_thing(rng, size)
        if abs(scene.things[0].x - 0.5) > 0.05:
            return image, [int(scene.things[0].x > 0.5)]


def draw_scene(rng: np.random.Generator, size: int) -> Drawn:
    """A picture of one or two things, labeled by every shape that occurs."""
    image, scene = picture(rng, size)
    return image, sorted({SHAPES.index(t.shape) for t in scene.things})


def one_thing(rng: np.random.Generator, size: int) -> tuple:
    """A picture of the shape world with one thing in it, and its scene."""
    while True:
        image, scene = picture(rng, size)
        if len(scene.things) == 1:
            return image, scene


def draw_digit(rng: np.random.Generator, size: int) -> Drawn:
    """A digit in one of four stroke fonts, tilted, scaled and moved, bright on a dark texture."""
    digit = int(rng.integers(10))
    sheet = np.zeros((96, 96), np.uint8)
    font, width = FONTS[rng.integers(len(FONTS))], int(rng.integers(3, 8))
    (w, h), _ = cv2.getTextSize(str(digit), font, 2.4, width)
    cv2.putText(sheet, str(digit), ((96 - w) // 2, (96 + h) // 2), font, 2.4, 255, width, cv2.LINE_AA)
    turn = cv2.getRotationMatrix2D((48, 48), float(rng.uniform(-20, 20)), float(rng.uniform(0.7, 1.15)))
    turn[:, 2] += rng.uniform(-8, 8, 2)  # type: ignore[arg-type]
    alpha = cv2.resize(cv2.warpAffine(sheet, turn, (96, 96)), (size, size), interpolation=cv2.INTER_AREA) / 255.0
    back = texture(rng, size).astype(np.float64).reshape(size, size, -1) * 0.4
    ink = rng.uniform(170, 255, 3)
    image = back + alpha[..., None] * (ink - back)
    return np.clip(image, 0, 255).astype(np.uint8), [digit]


# name -> (how to draw, class names, what dataset.json says)
WORLDS: dict[str, tuple[Callable[[np.random.Generator, int], Drawn], tuple[str, ...], dict]] = {
    "drawn-shapes": (draw_shape, SHAPES, {"metric": "accuracy", "templates": ["a photo of a {}", "a drawing of a {}"]}),
    "drawn-colors": (draw_color, tuple(COLORS), {"metric": "mean-per-class", "templates": ["a picture of a {} shape"]}),
    "drawn-digits": (draw_digit, DIGITS, {"metric": "accuracy", "templates": ["a photo of the {}"]}),
    "drawn-places": (draw_place, PARTS, {"metric": "roc_auc", "templates": ["a picture of a shape on the {}"]}),
    "drawn-scenes": (
        draw_scene,
        SHAPES,
        {"metric": "11point_mAP", "multilabel": True, "templates": ["a photo of a {}"]},
    ),
}


def write_world(root: str | Path, name: str, train: int = 600, test: int = 300, size: int = 48, seed: int = 0) -> Path:
    """Draw a data set and write it as the benchmark publishes its own; image i of a split depends on (seed, i) alone.

    Args:
        root: the folder above `classification`.
        name: one of `WORLDS`.
        train: training images.
        test: test images.
        size: pixels of an edge.
        seed: of everything.

    Returns:
        The data set's folder.

    Raises:
        ValueError: an unknown name.
    """
    if name not in WORLDS:
        raise ValueError(f"no generated data set is called {name!r}; there are {', '.join(WORLDS)}")
    draw, classes, about = WORLDS[name]
    number = list(WORLDS).index(name)
    splits = {
        split: (draw(np.random.default_rng([seed, number, split == "test", i]), size) for i in range(count))
        for split, count in (("train", train), ("test", test))
    }
    return write_dataset(root, f"{name}_20260101", classes, about, splits)


def write_digits(root: str | Path, train: int = 600, test: int = 300) -> Path:
    """Write scikit-learn's handwritten digits (8 px, 1,797 in all, no download): the first to train, the next to test.

    Args:
        root: the folder above `classification`.
        train: training images.
        test: test images.

    Returns:
        The data set's folder.

    Raises:
        ValueError: more images than there are.
    """
    from sklearn.datasets import load_digits

    found = load_digits()
    if train + test > len(found.images):
        raise ValueError(f"{train} + {test} digits were asked for, and there are {len(found.images)}")
    gray = np.rint(found.images * (255 / 16)).astype(np.uint8)
    drawn = [(np.repeat(image[..., None], 3, 2), [int(digit)]) for image, digit in zip(gray, found.target, strict=True)]
    splits = {"train": drawn[:train], "test": drawn[train : train + test]}
    about = {"metric": "accuracy", "templates": ["a photo of the {}"]}
    return write_dataset(root, "sklearn-digits_19980701", DIGITS, about, splits)


def write_dataset(
    root: str | Path, folder_name: str, classes: Sequence[str], about: dict, splits: Mapping[str, Iterable[Drawn]]
) -> Path:
    """Write images in the benchmark's layout; returns the folder."""
    folder = Path(root) / "classification" / folder_name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "labels.txt").write_text("\n".join(classes) + "\n")
    (folder / "dataset.json").write_text(json.dumps(about, indent=1) + "\n")
    for split, drawn in splits.items():
        lines = []
        with zipfile.ZipFile(folder / f"{split}.zip", "w") as archive:
            for i, (image, labels) in enumerate(drawn):
                data = io.BytesIO()
                Image.fromarray(image).save(data, "png")
                archive.writestr(f"{i:05d}.png", data.getvalue())
                lines.append(f"{split}.zip@{i:05d}.png {','.join(map(str, labels))}")
        (folder / f"{split}.txt").write_text("\n".join(lines) + "\n")
    return folder
