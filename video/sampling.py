"""Choose frame indices: dense clips and uniform segments, for training and testing.

Every rule is a pure function of the video's length, so a reader can ask for exactly those frames. Training rules draw
from the `numpy` generator they are given and from nothing else.
"""

import itertools
from dataclasses import dataclass

import numpy as np

from xmodal.registry import TRANSFORMS


def uniform_ranges(num_frames: int, length: int) -> np.ndarray:
    """Split a video into equal segments and give the frames each segment may draw from.

    Neighboring segments share their border frame, and the borders are rounded half to even, as released.

    Args:
        num_frames: segments, one frame each.
        length: frames in the video.

    Returns:
        (T, 2) first and last frame of each segment, both inclusive.
    """
    _check(num_frames=num_frames, length=length)
    seg = float(length - 1) / num_frames
    borders = [round(seg * i) for i in range(num_frames + 1)]
    return np.array(list(itertools.pairwise(borders)), np.int64)  # (T, 2)


def uniform_train(num_frames: int, length: int, rng: np.random.Generator) -> np.ndarray:
    """Draw one frame per segment; returns (T,) frame indices."""
    ranges = uniform_ranges(num_frames, length)
    return rng.integers(ranges[:, 0], ranges[:, 1], endpoint=True)  # (T,)


def uniform_test(num_frames: int, length: int, views: int = 1) -> np.ndarray:
    """Take a fixed position of each segment, another one for each view.

    View k of v stands at (k+1)/(v+1) of each segment, so a single view is the released midpoint.

    Returns:
        (V, T) frame indices.

    Differs from the released code: that has one view only.
    """
    _check(views=views)
    lo, hi = uniform_ranges(num_frames, length).T
    steps = np.arange(1, views + 1)[:, None]  # (V, 1)
    return lo + (hi - lo) * steps // (views + 1)  # (V, T)


def dense_start_range(num_frames: int, stride: int, length: int) -> tuple[int, int]:
    """First and last frame at which a dense training clip may start, both inclusive; (0, 0) for short videos."""
    _check(num_frames=num_frames, stride=stride, length=length)
    return 0, max(length - 1 - stride * (num_frames - 1), 0)


def dense_train(num_frames: int, stride: int, length: int, rng: np.random.Generator) -> np.ndarray:
    """Draw a clip of frames `stride` apart; a video too short repeats the last frame that the stride reaches.

    Returns:
        (T,) frame indices.
    """
    first, last = dense_start_range(num_frames, stride, length)
    steps = np.arange(num_frames) * stride
    if last == 0:
        return np.minimum(steps, (length - 1) // stride * stride)
    return rng.integers(first, last, endpoint=True) + steps


def dense_test(num_frames: int, stride: int, length: int, views: int = 1) -> np.ndarray:
    """Spread clips of frames `stride` apart over the video; a video too short repeats its last frame.

    Returns:
        (V, T) frame indices.
    """
    _check(num_frames=num_frames, stride=stride, length=length, views=views)
    span = (num_frames - 1) * stride + 1
    slide = max(length - span, 0)
    starts = [slide // 2] if views == 1 else [round(slide / (views - 1) * i) for i in range(views)]
    steps = np.array(starts)[:, None] + np.arange(num_frames) * stride  # (V, T)
    return np.minimum(steps, length - 1)


@TRANSFORMS.register_module(name="uniform")
@dataclass(frozen=True)
class UniformSampling:
    """One frame from each of `num_frames` equal segments of the video.

    Args:
        num_frames: frames in a clip.
    """

    num_frames: int = 8

    def __post_init__(self) -> None:
        """Refuse impossible numbers."""
        _check(num_frames=self.num_frames)

    def train(self, length: int, rng: np.random.Generator) -> np.ndarray:
        """Frame indices (T,) of one training clip."""
        return uniform_train(self.num_frames, length, rng)

    def test(self, length: int, views: int = 1) -> np.ndarray:
        """Frame indices (V, T) of the test clips."""
        return uniform_test(self.num_frames, length, views)


@TRANSFORMS.register_module(name="dense")
@dataclass(frozen=True)
class DenseSampling:
    """A clip of `num_frames` frames that lie `stride` frames apart.

    Args:
        num_frames: frames in a clip.
        stride: distance of neighboring frames, in frames of the video.
    """

    num_frames: int = 8
    stride: int = 16

    def __post_init__(self) -> None:
        """Refuse impossible numbers."""
        _check(num_frames=self.num_frames, stride=self.stride)

    def train(self, length: int, rng: np.random.Generator) -> np.ndarray:
        """Frame indices (T,) of one training clip."""
        return dense_train(self.num_frames, self.stride, length, rng)

    def test(self, length: int, views: int = 1) -> np.ndarray:
        """Frame indices (V, T) of the test clips."""
        return dense_test(self.num_frames, self.stride, length, views)


def _check(**numbers: int) -> None:
    for name, number in numbers.items():
        if number < 1 or number != int(number):
            raise ValueError(f"{name} must be a whole number of at least 1, got {number!r}")
