"""The captioned shape world: colored shapes on procedural backgrounds, drawn at any resolution.

One renderer for the pictures that the shipped tiny CLIP was trained on and for the frames of the built-in action set:
whatever is shown with them is in-domain pretraining and no evidence about natural pictures. Positions and sizes are
fractions of the canvas; all randomness comes from the generator that is passed in.
"""

from dataclasses import dataclass, replace
from functools import lru_cache

import cv2
import numpy as np

SHAPES = ("circle", "square", "triangle", "star", "cross", "ring", "heart", "diamond")
COLORS = {
    "red": (214, 38, 38),
    "green": (44, 170, 52),
    "blue": (48, 84, 230),
    "yellow": (240, 215, 40),
    "purple": (150, 50, 190),
    "orange": (245, 135, 25),
    "cyan": (50, 205, 215),
    "white": (240, 240, 240),
}
SIZES = {"small": (9 / 48, 12 / 48), "medium": (14 / 48, 18 / 48), "large": (20 / 48, 26 / 48)}
POSITIONS = ("left", "right", "top", "bottom", "center")
TEMPLATES = ("a photo of", "a picture of", "an image of", "a drawing of", "there is")
TILT = 0.25  # radians from which a caption may say that a shape is tilted
ROUND = ("circle", "ring")  # shapes without a visible angle
ACTION_WORDS = (
    ("moving", "up", "down", "growing", "shrinking", "appearing", "vanishing", "approaching", "separating")
    + ("rotating", "clockwise", "counterclockwise", "to", "from", "and", "with", "video", "frame", "shape")
)  # fmt: skip


def vocabulary() -> list[str]:
    """All words of the captions and of action prompts, as `WordTokenizer` wants them."""
    words = ["<pad>", "<start>", "<unk>", "a", "an", "the", "of", "on", "in", "there", "is"]
    words += ["photo", "picture", "image", "drawing", *SIZES, *COLORS, *SHAPES, *POSITIONS, "above", "below", "tilted"]
    return [*words, *(w for w in ACTION_WORDS if w not in words), "<end>"]


@dataclass(frozen=True)
class Thing:
    """One shape of a scene.

    Args:
        shape: one of `SHAPES`.
        color: one of `COLORS`.
        x: center, from the left, as a fraction of the canvas.
        y: center, from the top.
        size: diameter as a fraction of the canvas.
        angle: radians, positive is clockwise on the screen.
        shade: added to every color channel, in gray levels.
        alpha: opacity, 0 to 1.
    """

    shape: str
    color: str
    x: float
    y: float
    size: float
    angle: float = 0.0
    shade: float = 0.0
    alpha: float = 1.0

    def moved(self, **changes: float) -> "Thing":
        """The same thing with some fields changed."""
        return replace(self, **changes)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Scene:
    """One or two things and the words for them; the first thing is the subject of the caption."""

    things: tuple[Thing, ...]
    caption: str


def outline(shape: str, n: int = 72) -> np.ndarray:
    """Corners (n, 2) of a shape in the unit disc, y down.

    Raises:
        ValueError: an unknown shape.
    """
    t = np.arange(n) * 2 * np.pi / n
    if shape in ROUND:
        return np.stack([np.cos(t), np.sin(t)], 1)
    if shape == "square":
        return 0.78 * np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
    if shape == "triangle":
        return np.array([[0, -1], [0.87, 0.5], [-0.87, 0.5]])
    if shape == "diamond":
        return np.array([[0, -1], [0.6, 0], [0, 1], [-0.6, 0]])
    if shape == "star":
        t, r = np.arange(10) * np.pi / 5, np.tile([1.0, 0.42], 5)
        return np.stack([r * np.sin(t), -r * np.cos(t)], 1)
    if shape == "cross":
        a, b = 0.32, 0.95
        right = [(a, -b), (a, -a), (b, -a), (b, a), (a, a), (a, b)]
        return np.array(right + [(-x, -y) for x, y in right])
    if shape == "heart":
        x = 16 * np.sin(t) ** 3
        y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
        return np.stack([x, 0.8 - y], 1) / 17.5
    raise ValueError(f"no shape is called {shape!r}; known are {', '.join(SHAPES)}")


@lru_cache(maxsize=64)
def mask(shape: str, size: int) -> np.ndarray:
    """The antialiased mask (size, size) of a shape, float32 from 0 to 1; its disc has diameter 0.8 size."""
    fine = 8 * size
    canvas = np.zeros((fine, fine), np.uint8)
    corners = (outline(shape) * 0.4 + 0.5) * fine
    cv2.fillPoly(canvas, [corners.round().astype(np.int32)], 255, lineType=cv2.LINE_AA)
    if shape == "ring":
        cv2.circle(canvas, (fine // 2, fine // 2), round(0.4 * fine * 0.55), 0, -1, lineType=cv2.LINE_AA)
    return cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA).astype(np.float32) / 255


def draw(canvas: np.ndarray, thing: Thing) -> None:
    """Paint a thing over a canvas (H, W, 3), float32 gray levels, in place."""
    h, w = canvas.shape[:2]
    diameter = thing.size * w
    if diameter < 0.5 or thing.alpha <= 0:
        return
    side = next((s for s in (16, 32, 64, 128) if 0.8 * s >= diameter), 256)
    scale = diameter / (0.8 * side)
    c, s = scale * np.cos(thing.angle), scale * np.sin(thing.angle)
    x, y = thing.x * w - 0.5, thing.y * h - 0.5
    half = (side - 1) / 2
    matrix = np.array([[c, -s, x - c * half + s * half], [s, c, y - s * half - c * half]])
    cover = cv2.warpAffine(mask(thing.shape, side), matrix, (w, h), flags=cv2.INTER_LINEAR)[..., None] * thing.alpha
    color = np.clip(np.array(COLORS[thing.color], np.float32) + thing.shade, 0, 255)
    canvas += cover * (color - canvas)


def texture(rng: np.random.Generator, size: int) -> np.ndarray:
    """A procedural texture (size, size, 3), float32 around 0: noise, stripes, checks, a slope or clutter."""
    v, u = np.mgrid[0:size, 0:size].astype(np.float32) / size
    kind = rng.integers(5)
    if kind == 0:
        cells = int(rng.integers(2, 9))
        image = cv2.resize(
            rng.normal(size=(cells, cells, 3)).astype(np.float32), (size, size), interpolation=cv2.INTER_CUBIC
        )
    elif kind == 1:
        turn, waves = rng.uniform(0, np.pi), rng.uniform(1, 6)
        ramp = np.sin(2 * np.pi * waves * (u * np.cos(turn) + v * np.sin(turn)) + rng.uniform(0, 6.3))
        image = ramp[..., None] * rng.normal(size=3)
    elif kind == 2:
        squares = rng.uniform(2, 7)
        board = (np.floor(u * squares + rng.uniform()) + np.floor(v * squares + rng.uniform())) % 2 - 0.5
        image = board[..., None] * rng.normal(size=3)
    elif kind == 3:
        turn = rng.uniform(0, 2 * np.pi)
        image = (u * np.cos(turn) + v * np.sin(turn))[..., None] * rng.normal(size=3)
    else:
        image = clutter(rng, size)
    image = cv2.GaussianBlur(image.astype(np.float32), (0, 0), size * rng.uniform(0.01, 0.04))
    return (image - image.mean()) / (image.std() + 1e-3)


def clutter(rng: np.random.Generator, size: int) -> np.ndarray:
    """Random polygons of random colors."""
    image = np.zeros((size, size, 3), np.float32)
    for _ in range(rng.integers(4, 12)):
        corners = (rng.uniform(0, 1, 2) + rng.normal(0, 0.18, (rng.integers(3, 6), 2))) * size
        cv2.fillPoly(image, [corners.round().astype(np.int32)], rng.normal(size=3).tolist())
    return image


def background(rng: np.random.Generator, size: int) -> np.ndarray:
    """A dim, low-contrast background (size, size, 3), float32 gray levels: one texture or the sum of two."""
    image = texture(rng, size)
    if rng.uniform() < 0.5:
        image = (image + texture(rng, size)) * 0.7
    tint = rng.uniform(20, 120) + rng.normal(0, 12, 3)
    return np.clip(image * rng.uniform(4, 22) + tint, 0, 200).astype(np.float32)


def render(
    things: tuple[Thing, ...], ground: np.ndarray, noise: float = 0.0, rng: np.random.Generator | None = None
) -> np.ndarray:
    """Paint things over a background (the last one on top).

    Args:
        things: what to paint.
        ground: (H, W, 3) float32 gray levels, left as it is.
        noise: standard deviation of pixel noise, in gray levels; needs `rng`.
        rng: for the noise.

    Returns:
        The picture (H, W, 3), uint8 RGB.
    """
    canvas = ground.copy()
    for thing in things:
        draw(canvas, thing)
    if noise and rng is not None:
        canvas += noise * rng.standard_normal(canvas.shape, dtype=np.float32)
    return np.clip(canvas + 0.5, 0, 255).astype(np.uint8)


def random_thing(rng: np.random.Generator) -> Thing:
    """A thing of any shape, color and size, wholly inside the canvas."""
    low, high = list(SIZES.values())[rng.integers(len(SIZES))]
    size = rng.uniform(low, high)
    x, y = rng.uniform(size / 2, 1 - size / 2, 2)
    shape, color = SHAPES[rng.integers(len(SHAPES))], list(COLORS)[rng.integers(len(COLORS))]
    return Thing(shape, color, x, y, size, angle=rng.uniform(-0.55, 0.55), shade=rng.uniform(-18, 18))


def random_scene(rng: np.random.Generator) -> Scene:
    """One thing (in 40 % of scenes) or two that do not overlap, and a caption."""
    first = random_thing(rng)
    if rng.uniform() < 0.4:
        return Scene((first,), caption((first,), rng))
    for _ in range(20):
        second = random_thing(rng)
        apart = np.hypot(first.x - second.x, first.y - second.y)
        if apart > 0.52 * (first.size + second.size):
            return Scene((first, second), caption((first, second), rng))
    return Scene((first,), caption((first,), rng))


def phrase(thing: Thing, rng: np.random.Generator) -> str:
    """Words for one thing: `a [size] [tilted] [color] shape`."""
    words = ["a"]
    if rng.uniform() < 0.5:
        words += [name for name, (low, high) in SIZES.items() if low <= thing.size <= high]
    if abs(thing.angle) > TILT and thing.shape not in ROUND and rng.uniform() < 0.3:
        words.append("tilted")
    if rng.uniform() < 0.85:
        words.append(thing.color)
    return " ".join([*words, thing.shape])


def caption(things: tuple[Thing, ...], rng: np.random.Generator) -> str:
    """A caption: a phrase and its place, or two phrases and their relation; sometimes behind a template."""
    first = phrase(things[0], rng)
    lead = f"{TEMPLATES[rng.integers(len(TEMPLATES))]} " if rng.uniform() < 0.25 else ""
    if len(things) == 1:
        where = place_of(things[0]) if rng.uniform() < 0.7 else ""
        return f"{lead}{first} {where}".strip()
    dx, dy = things[0].x - things[1].x, things[0].y - things[1].y
    beside, over = "left of" if dx < 0 else "right of", "above" if dy < 0 else "below"
    return f"{lead}{first} {beside if abs(dx) > abs(dy) else over} {phrase(things[1], rng)}"


def place_of(thing: Thing) -> str:
    """Words for where a thing is: `on the left`, ..., `in the center`."""
    dx, dy = thing.x - 0.5, thing.y - 0.5
    if max(abs(dx), abs(dy)) < 0.12:
        return "in the center"
    if abs(dx) > abs(dy):
        return "on the left" if dx < 0 else "on the right"
    return "on the top" if dy < 0 else "on the bottom"


def picture(rng: np.random.Generator, size: int = 48) -> tuple[np.ndarray, Scene]:
    """A picture (size, size, 3), uint8 RGB, and its scene."""
    scene = random_scene(rng)
    ground = background(rng, size)
    return render(scene.things, ground, rng.uniform(0, 6), rng), scene
