"""Turn decoded frames upright and into RGB, with the pixels that the `ffmpeg` command shows."""

import math
import threading
from fractions import Fraction
from typing import Any

import numpy as np

DIRECT = ("yuv420p", "yuvj420p")  # are converted without interpolating colors: all ways give the same pixels
QUARTERS = (0, 90, 180, 270)
_kept = threading.local()  # the filters of each thread's last frame


def upright(frame: Any, size: tuple[int, int] | None = None) -> np.ndarray:
    """Convert a decoded frame to (H, W, 3) uint8 RGB, turned and mirrored as its display matrix says.

    Frames of more than 8 bits, of other color samplings, interlaced or mirrored ones go through FFmpeg's filters: the
    plain conversion of a library interpolates colors, and the fields of interlaced frames, in ways of its own.

    Args:
        frame: from PyAV.
        size: height and width of the result, where the frame may differ (bicubic); default: the frame's.
    """
    angle, mirrored = turned(frame)
    plain = frame.format.name in DIRECT and not frame.interlaced_frame and angle in QUARTERS and not mirrored
    if not plain or (size is not None and size_of(frame) != size):
        return filtered(frame, size)
    image = to_rgb(frame).to_ndarray()  # (H, W, 3)
    turns = -angle // 90
    return np.ascontiguousarray(np.rot90(image, turns)) if turns else image


def matrix_of(frame: Any) -> np.ndarray | None:
    """Return the display matrix of a frame (9,), row by row; None where it has none."""
    found = frame.side_data.get("DISPLAYMATRIX")
    return None if found is None else np.frombuffer(bytes(found), np.int32)


def turned(frame: Any) -> tuple[int, bool]:
    """Return by how many degrees a frame is to be turned clockwise, 0 to 359, and whether it is mirrored too."""
    matrix = matrix_of(frame)
    if matrix is None:
        return 0, False
    a, b, _, c, d = matrix[:5].astype(float)
    if not (a or c) or not (b or d):
        return 0, False  # no rotation can be told from it
    angle = math.degrees(math.atan2(b / math.hypot(b, d), a / math.hypot(a, c)))
    return round(angle) % 360, a * d - b * c < 0


def size_of(frame: Any) -> tuple[int, int]:
    """Return height and width of a decoded frame as shown."""
    sideways = turned(frame)[0] in (90, 270)
    return (frame.width, frame.height) if sideways else (frame.height, frame.width)


def steps_of(frame: Any) -> list[tuple[str, str]]:
    """Return the filters and their arguments with which the `ffmpeg` command turns a frame."""
    angle, matrix = turned(frame)[0], matrix_of(frame)
    if matrix is None:
        return []
    mirrored_up, flips = matrix[3], [("hflip", "")] * bool(matrix[0] < 0) + [("vflip", "")] * bool(matrix[4] < 0)
    quarters = {
        0: flips,
        90: [("transpose", "cclock_flip" if mirrored_up > 0 else "clock")],
        180: flips,
        270: [("transpose", "clock_flip" if mirrored_up < 0 else "cclock")],
    }
    return quarters.get(angle, [("rotate", f"{angle}*PI/180")])


def filtered(frame: Any, size: tuple[int, int] | None = None) -> np.ndarray:
    """Convert a frame with FFmpeg's filters, see `upright`.

    Each thread keeps the filters of the last frame for frames of the same kind: making them costs several times as much
    as a small frame's conversion.
    """
    kind = (
        frame.format.name, frame.width, frame.height, frame.time_base, frame.colorspace, frame.color_range,
        frame.interlaced_frame, tuple(steps_of(frame)), size,
    )  # fmt: skip
    found, kept = getattr(_kept, "last", (None, None))
    graph: Any = kept if found == kind else graph_of(frame, size)
    _kept.last = (None, None)  # an error leaves none behind
    graph.push(frame)
    image = graph.pull().to_ndarray()
    _kept.last = (kind, graph)
    return image


def graph_of(frame: Any, size: tuple[int, int] | None) -> Any:
    """Make the filters for frames of one kind, which run in the thread that asks."""
    from av.filter import Graph

    graph = Graph()
    graph.threads = 1
    last = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format.name, time_base=frame.time_base or Fraction(1)
    )
    scale = "flags=bicubic" if size is None else f"{size[1]}:{size[0]}:flags=bicubic"
    for name, arguments in [*steps_of(frame), ("scale", scale), ("format", "rgb24"), ("buffersink", "")]:
        step = graph.add(name, arguments)
        last.link_to(step)
        last = step
    graph.configure()
    return graph


def to_rgb(frame: Any) -> Any:
    """Convert a frame's colors in the thread that asks: starting others costs more than the work of a small frame."""
    try:
        return frame.reformat(format="rgb24", threads=1)
    except TypeError:  # older versions of PyAV start none
        return frame.reformat(format="rgb24")
