"""Small action sets as real encoded files, whose labels need time and whose looks do not give them away.

Classes come in time-reversed pairs that share one distribution of frames, so a method blind to order is right half the
time at best. One thing acts; another stands by (or drifts). No combination of shapes and colors occurs in two splits.
Actors, paths and backgrounds are drawn by the renderer that the shipped tiny CLIP was trained with.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import cast

import av
import numpy as np

from video.toys.layouts import LAYOUTS
from xmodal.registry import did_you_mean
from xmodal.toys.shapes import COLORS, Thing, background, render

Pair = tuple[Thing, Thing]  # the actor and the one that stands by
Track = Callable[[float], Pair]
Look = tuple[str, str, str, str]

ACTORS = ("circle", "triangle", "star", "heart")
STANDBYS = ("square", "cross", "ring", "diamond")
TURNING_ACTORS = ("cross", "triangle", "star", "heart")  # a circle cannot be seen to turn
TURNING_STANDBYS = ("square", "circle", "ring", "diamond")
SHARES = {"train": 0.6, "val": 0.15, "test": 0.25}
EASY = (
    "appearing", "growing", "moving down", "moving left", "moving right", "moving up", "shrinking", "vanishing"
)  # fmt: skip
HARD = tuple(sorted((*EASY, "approaching", "separating", "rotating clockwise", "rotating counterclockwise")))
ENCODERS = {
    # without mbtree, whose bits depend on where the encoder's memory lies: the same set in every process
    "h264": ("libx264", ".mp4", {"crf": "20", "preset": "veryfast", "g": "12", "x264-params": "mbtree=0"}),
    "vp9": ("libvpx-vp9", ".webm", {"crf": "30", "b": "0", "deadline": "realtime", "cpu-used": "8", "g": "12"}),
}


@dataclass(frozen=True)
class ActionSet:
    """Settings of an action set.

    Args:
        classes: names from `ACTIONS`; put both of a pair in, or order-blind methods are not capped.
        train: clips to train on.
        val: clips to choose hyperparameters on.
        test: clips to report.
        size: edge of a frame in pixels.
        frames: of a clip.
        fps: frames per second.
        codec: `h264` (mp4) or `vp9` (webm).
        moving: whether the thing that stands by drifts.
        layout: a name in `synthetic_layouts.LAYOUTS`.
        seed: of everything.

    Raises:
        ValueError: an unknown class, codec or layout; a size that the codecs cannot store.
    """

    classes: tuple[str, ...] = EASY
    train: int = 800
    val: int = 160
    test: int = 240
    size: int = 64
    frames: int = 32
    fps: int = 16
    codec: str = "h264"
    moving: bool = False
    layout: str = "list"
    seed: int = 0

    def __post_init__(self):
        for name in self.classes:
            if name not in ACTIONS:
                raise ValueError(f"no action is called {name!r}; {did_you_mean(name, ACTIONS)}")
        for kind, value, known in (("codec", self.codec, ENCODERS), ("layout", self.layout, LAYOUTS)):
            if value not in known:
                raise ValueError(f"no {kind} is called {value!r}; {did_you_mean(value, known)}")
        if self.size < 32 or self.size % 2:
            raise ValueError(f"size {self.size}: choose an even number of at least 32 pixels")
        if self.frames < 2:
            raise ValueError(f"frames {self.frames}: an action needs at least 2")
        object.__setattr__(self, "classes", tuple(sorted(self.classes)))


def place_in(rng: np.random.Generator, size: float) -> float:
    """A coordinate at which a thing of some size is inside the canvas."""
    return rng.uniform(size / 2, 1 - size / 2)


def slide(rng: np.random.Generator, actor: Thing, other: Thing, axis: str) -> Track:
    """From low to high x or y, over 65 to 100 % of the free way."""
    size = rng.uniform(10, 18) / 48
    free = 1 - size
    travel = free * rng.uniform(0.65, 1)
    start = size / 2 + rng.uniform(0, free - travel)
    actor = actor.moved(size=size, x=place_in(rng, size), y=place_in(rng, size))
    return lambda p: (actor.moved(**{axis: start + p * travel}), other)


def slide_x(rng: np.random.Generator, actor: Thing, other: Thing) -> Track:
    """To the right."""
    return slide(rng, actor, other, "x")


def slide_y(rng: np.random.Generator, actor: Thing, other: Thing) -> Track:
    """Down."""
    return slide(rng, actor, other, "y")


def grow(rng: np.random.Generator, actor: Thing, other: Thing) -> Track:
    """From about 8 to about 25 of 48 pixels."""
    small, large = rng.uniform(7, 10) / 48, rng.uniform(23, 27) / 48
    actor = actor.moved(x=place_in(rng, large), y=place_in(rng, large))
    return lambda p: (actor.moved(size=small + p * (large - small)), other)


def appear(rng: np.random.Generator, actor: Thing, other: Thing) -> Track:
    """Fade in, within a tenth of the clip, somewhere in its middle."""
    size = rng.uniform(12, 22) / 48
    actor = actor.moved(size=size, x=place_in(rng, size), y=place_in(rng, size))
    when = rng.uniform(0.3, 0.7)
    return lambda p: (actor.moved(alpha=float(np.clip((p - when) / 0.1 + 0.5, 0, 1))), other)


def approach(rng: np.random.Generator, actor: Thing, other: Thing) -> Track:
    """Both move towards each other, along any line, until they nearly touch."""
    size = rng.uniform(10, 15) / 48
    turn = rng.uniform(0, 2 * np.pi)
    step = np.array([np.cos(turn), np.sin(turn)])
    far = rng.uniform(0.85, 1.0) * (1 - size) / np.abs(step).max()
    slack = (1 - size - far * np.abs(step)).clip(0) / 2
    middle = 0.5 + rng.uniform(-slack, slack)

    def at(p: float) -> Pair:
        gap = far + p * (1.1 * size - far)
        (x, y), (u, v) = middle + step * gap / 2, middle - step * gap / 2
        return actor.moved(size=size, x=x, y=y), other.moved(size=size, x=u, y=v)

    return at


def rotate(rng: np.random.Generator, actor: Thing, other: Thing) -> Track:
    """Clockwise by about a radian, around upright."""
    size, half = rng.uniform(18, 25) / 48, rng.uniform(0.45, 0.6)
    actor = actor.moved(size=size, x=place_in(rng, size), y=place_in(rng, size))
    return lambda p: (actor.moved(angle=(2 * p - 1) * half), other)


# name -> (how the thing moves as p goes from 0 to 1, whether time is reversed)
ACTIONS: dict[str, tuple[Callable[[np.random.Generator, Thing, Thing], Track], bool]] = {
    "moving right": (slide_x, False),
    "moving left": (slide_x, True),
    "moving down": (slide_y, False),
    "moving up": (slide_y, True),
    "growing": (grow, False),
    "shrinking": (grow, True),
    "appearing": (appear, False),
    "vanishing": (appear, True),
    "approaching": (approach, False),
    "separating": (approach, True),
    "rotating clockwise": (rotate, False),
    "rotating counterclockwise": (rotate, True),
}


@lru_cache(maxsize=8)
def labels_of(spec: ActionSet, split: str) -> list[int]:
    """Labels of the clips of a split: balanced, in random order."""
    rng = np.random.default_rng([spec.seed, list(SHARES).index(split), 998])
    return rng.permutation(np.arange(getattr(spec, split)) % len(spec.classes)).tolist()


@lru_cache(maxsize=8)
def appearances(spec: ActionSet, split: str) -> list[Look]:
    """Shape and color of actor and bystander: the combinations that belong to one split alone."""
    turning = any(ACTIONS[name][0] is rotate for name in spec.classes)
    actors, standbys = (TURNING_ACTORS, TURNING_STANDBYS) if turning else (ACTORS, STANDBYS)
    every = [c for c in product(actors, COLORS, standbys, COLORS) if c[1] != c[3]]
    order = np.random.default_rng([spec.seed, 999]).permutation(len(every))
    edges = np.cumsum([0, *SHARES.values()]) * len(every)
    number = list(SHARES).index(split)
    return [every[i] for i in order[round(edges[number]) : round(edges[number + 1])]]


def overlaps(path: Track) -> bool:
    """Whether the two things touch anywhere on a path."""
    for p in np.linspace(0, 1, 5):
        a, b = path(float(p))
        if np.hypot(a.x - b.x, a.y - b.y) < 0.5 * (a.size + b.size):
            return True
    return False


def drift(rng: np.random.Generator, other: Thing) -> Callable[[float], Thing]:
    """The bystander's own straight way, whatever the action."""
    turn, far = rng.uniform(0, 2 * np.pi), rng.uniform(0.2, 0.5)
    low, high = other.size / 2, 1 - other.size / 2
    end = np.clip([other.x + far * np.cos(turn), other.y + far * np.sin(turn)], low, high)
    return lambda p: other.moved(x=other.x + p * (end[0] - other.x), y=other.y + p * (end[1] - other.y))


def progress(rng: np.random.Generator, frames: int) -> np.ndarray:
    """Progress (T,) from 0 to 1: rest, even movement, rest; its reverse in time has the same distribution."""
    start, stop = rng.uniform(0, 0.25), rng.uniform(0.75, 1)
    return np.clip((np.linspace(0, 1, frames) - start) / (stop - start), 0, 1)


def make_clip(spec: ActionSet, split: str, index: int) -> tuple[np.ndarray, int, Look]:
    """Draw clip `index` of a split.

    Returns:
        Frames (T, S, S, 3) u8 RGB, the label, and the shapes and colors used.
    """
    rng = np.random.default_rng([spec.seed, list(SHARES).index(split), index])
    label = labels_of(spec, split)[index]
    kind, reverse = ACTIONS[spec.classes[label]]
    looks = appearances(spec, split)
    look = looks[rng.integers(len(looks))]
    tilt, shade = rng.uniform(-0.4, 0.4, 2), rng.uniform(-18, 18, 2)
    actor = Thing(look[0], look[1], 0.5, 0.5, 0.3, tilt[0], shade[0])
    for _ in range(30):
        size = rng.uniform(9, 15) / 48
        other = Thing(look[2], look[3], place_in(rng, size), place_in(rng, size), size, tilt[1], shade[1])
        path = kind(rng, actor, other)
        if not overlaps(path):
            break
    way = drift(rng, path(0)[1]) if spec.moving and kind is not approach else None
    own = progress(rng, spec.frames)
    swap, noise = rng.uniform() < 0.5, rng.uniform(0, 3)
    ground = background(rng, spec.size)
    pictures = []
    for p, q in zip(progress(rng, spec.frames), own, strict=True):
        a, b = path(1 - float(p) if reverse else float(p))
        things = (a, way(float(q)) if way else b)
        pictures.append(render(things[::-1] if swap else things, ground, noise, rng))
    return np.stack(pictures), label, look


def write_clip(path: Path, frames: np.ndarray, fps: int = 16, codec: str = "h264") -> None:
    """Encode frames (T, H, W, 3) u8 RGB to a file."""
    name, _, options = ENCODERS[codec]
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = cast(av.VideoStream, container.add_stream(name, rate=fps, options=options))
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], "yuv420p"
        stream.codec_context.thread_count = 1
        for picture in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))


def make_actions(
    out: str | Path, spec: ActionSet | None = None, tell: Callable[[str], None] = lambda line: None
) -> Path:
    """Write an action set and return its folder; a folder that already holds the very same set is left alone.

    Args:
        out: folder; `actions.json` in it tells what it holds.
        spec: what to make.
        tell: called with a line now and then.

    Raises:
        ValueError: the folder holds another set.
    """
    out, spec = Path(out), spec or ActionSet()
    facts = json.loads(json.dumps(asdict(spec)))
    about = out / "actions.json"
    if about.exists():
        held = json.loads(about.read_text())["set"]
        if held == facts:
            return out
        differ = sorted(k for k in facts if held.get(k) != facts[k])
        raise ValueError(f"{out} holds another action set ({', '.join(differ)} differ): choose another folder")
    layout = LAYOUTS[spec.layout](out, spec.classes, ENCODERS[spec.codec][1])
    looks: dict[str, list] = {}
    for split in SHARES:
        rows: list[tuple[Path, int]] = []
        looks[split] = []
        for index in range(getattr(spec, split)):
            frames, label, look = make_clip(spec, split, index)
            path = layout.path(split, index, label)
            write_clip(path, frames, spec.fps, spec.codec)
            rows.append((path, label))
            looks[split].append(look)
        layout.annotate(split, rows)
        tell(f"{split}: {len(rows)} clips")
    about.write_text(json.dumps({"set": facts, "looks": looks}) + "\n")
    return out
