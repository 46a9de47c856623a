"""Choose the frames of several consecutive clips of a video, as V-JEPA 2's frozen evaluation does.

With n frames, clips of T frames at step s in C segments, P = n // C and len = T * s:
    P > len: T positions of linspace(e - len, e), e = len or a random end in the segment, cut to its last frame
    else, overlapping clips: S = min(len, n) - 1, S // s positions of linspace(0, S), then S again and again; segment i
        begins at i * (n - len) // (C - 1) where n > len
    else: the same of linspace(0, P) within each segment
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from video.sampling import _check
from xmodal.registry import TRANSFORMS


def segment_indices(
    num_frames: int, stride: int, segments: int, length: int, overlap: bool = True, draw: Any = None
) -> np.ndarray:
    """Frame indices (C, T) of the clips of a video.

    Args:
        num_frames: T.
        stride: s.
        segments: C.
        length: n, frames in the video.
        overlap: let clips of short videos overlap.
        draw: from (low, high) to a random end of a window, high excluded; None for the start of each segment.
    """
    _check(num_frames=num_frames, stride=stride, segments=segments, length=length)
    part, span = length // segments, num_frames * stride
    clips = []
    for i in range(segments):
        if part > span:
            end = span if draw is None else draw(span, part)
            steps = np.clip(np.linspace(end - span, end, num_frames), end - span, end - 1) + i * part
        elif overlap:
            last = min(span, length) - 1
            shift = (length - span) // (segments - 1) if length > span and segments > 1 else 0
            steps = filled(last, last // stride, num_frames, last - 1) + i * shift
        else:
            steps = filled(part, part // stride, num_frames, part - 1) + i * part
        clips.append(steps.astype(np.int64))
    return np.clip(np.stack(clips), 0, length - 1)


def filled(last: int, count: int, num_frames: int, highest: int) -> np.ndarray:
    """`count` positions of linspace(0, last), the last one repeated up to `num_frames`, cut to 0 and `highest`."""
    count = min(count, num_frames)
    steps = np.concatenate([np.linspace(0, last, count), np.full(num_frames - count, float(last))])
    return np.clip(steps, 0, max(highest, 0)).astype(np.int64)


@TRANSFORMS.register_module(name="segments")
@dataclass(frozen=True)
class SegmentSampling:
    """Clips of consecutive segments of a video, for readers of several segments.

    Args:
        num_frames: frames in a clip.
        stride: nominal distance of neighboring frames, in frames of the video.
        segments: clips; the reader has the same number.
        random: draw windows in training, as released; False takes the start of each segment.
        overlap: let the clips of short videos overlap.

    Differs from the released code: test clips are always those at the start of each segment; there they are random too.
    """

    num_frames: int = 16
    stride: int = 4
    segments: int = 2
    random: bool = True
    overlap: bool = True

    def __post_init__(self) -> None:
        """Refuse impossible numbers."""
        _check(num_frames=self.num_frames, stride=self.stride, segments=self.segments)

    def train(self, length: int, rng: np.random.Generator) -> np.ndarray:
        """Frame indices (C, T) of the clips of a training video."""
        draw = rng.integers if self.random else None
        return segment_indices(self.num_frames, self.stride, self.segments, length, self.overlap, draw)

    def test(self, length: int, views: int = 1) -> np.ndarray:
        """Frame indices (C, T) of the test clips.

        Raises:
            ValueError: another number of views in time than segments.
        """
        if views != self.segments:
            raise ValueError(f"segments={self.segments}: set temporal_views={self.segments}, not {views}")
        return segment_indices(self.num_frames, self.stride, self.segments, length, self.overlap)
