"""Scan a video's packets without decoding, and decode videos in sequence from the start, with PyAV."""

import io
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Scan:
    """Facts of a video from its packets, without decoding.

    Args:
        num_frames: frames shown.
        fps: average rate.
        codec: FFmpeg's name of it.
        hidden: frames that an edit list hides; decord counts and returns them.
        leading: frames shown before the key frame that they follow in the file (open groups of pictures, common in
            HEVC); a decoder that seeks to that key frame drops them, and decord then returns shifted frames.
        broken_start: the first key frame has such frames, which nobody can decode.
        container: FFmpeg's name of the format.
        times: presentation times of the frames in order, in the stream's own unit; empty where some are unknown.
        keys: presentation time of each key frame and the decoding time to seek to.
    """

    num_frames: int
    fps: float
    codec: str
    hidden: int
    leading: bool
    broken_start: bool
    container: str = ""
    times: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64), repr=False)
    keys: dict[int, int] = field(default_factory=dict, repr=False)

    @property
    def random_access(self) -> bool:
        """Return whether seeking to key frames and counting from there finds the right frames."""
        return not (self.hidden or self.leading)


def scan(source: str | bytes) -> Scan:
    """Read all packets of the first video stream and decode none."""
    shown = hidden = 0
    key = first_key = None
    leading = broken_start = False
    times: list[int | None] = []
    keys: dict[int, int] = {}
    with open_video(source) as (container, stream):
        for packet in container.demux(stream):
            if not packet.size:
                continue
            hidden += packet.is_discard
            shown += not packet.is_discard
            times.append(packet.pts)
            if packet.is_keyframe:
                key = packet.pts
                first_key = key if first_key is None else first_key
                if key is not None:
                    keys[key] = key if packet.dts is None else packet.dts
            elif key is not None and packet.pts is not None and packet.pts < key:
                leading = True
                broken_start |= key == first_key
        fps = float(stream.average_rate or stream.guessed_rate or 0)
        codec, form = stream.codec_context.codec.canonical_name, container.format.name
    if shown == 0:
        raise ValueError("no frames")
    known = sorted(time for time in times if time is not None)
    whole = np.array(known if len(known) == len(times) else [], np.int64)
    return Scan(shown, fps, codec, hidden, leading, broken_start, form, whole, keys)


@contextmanager
def open_video(source: str | bytes) -> Iterator[tuple[Any, Any]]:
    """Open with PyAV: the container and its first video stream, decoded by one thread."""
    import av

    av.logging.set_level(None)
    with av.open(io.BytesIO(source) if isinstance(source, bytes) else source) as container:
        if not container.streams.video:
            raise ValueError("no video stream")
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        yield container, stream


def decoded(container: Any, stream: Any) -> Iterator[Any]:
    """Yield all frames; closes the packets when the reader stops early, or PyAV never frees the last."""
    with closing(container.demux(stream)) as packets:
        for packet in packets:
            yield from packet.decode()


class Sequential:
    """Sequential reader built on PyAV: slower, correct on every file; no file stays open between calls."""

    name = "pyav"

    def __init__(self, source: str | bytes, found: Scan | None = None) -> None:
        self._source = source
        found = found or scan(source)
        self.fps = found.fps
        self.num_frames = self._count() if found.broken_start else found.num_frames

    def _count(self) -> int:
        with open_video(self._source) as (container, stream):
            return sum(1 for _ in decoded(container, stream))

    def frames(self, indices: np.ndarray) -> np.ndarray:
        """Decode frames (T, H, W, 3) at distinct indices."""
        wanted = {int(i): row for row, i in enumerate(indices)}
        out: np.ndarray | None = None
        last, number = max(wanted), -1
        with open_video(self._source) as (container, stream):
            for number, frame in enumerate(decoded(container, stream)):
                if number in wanted:
                    image = upright(frame)
                    out = np.empty((len(wanted), *image.shape), np.uint8) if out is None else out
                    out[wanted[number]] = image
                if number == last:
                    break
        if out is None or number < last:
            raise ValueError(f"frame {last} of {self.num_frames} cannot be decoded, only {number + 1} can")
        return out


def upright(frame: Any) -> np.ndarray:
    """A decoded frame as (H, W, 3) uint8 RGB, turned as its display matrix says."""
    image = frame.to_ndarray(format="rgb24")  # (H, W, 3)
    return np.ascontiguousarray(np.rot90(image, round(frame.rotation / 90))) if frame.rotation else image


def shown_frames(source: str) -> Iterator[tuple[np.ndarray, float, Fraction]]:
    """All frames of a video in order.

    Yields:
        (H, W, 3) uint8 RGB, upright; seconds since the first frame; average rate of the video.

    Raises:
        Exception: several kinds, FFmpeg's among them, at the frame that cannot be decoded.
    """
    with open_video(source) as (container, stream):
        rate = stream.average_rate or stream.guessed_rate or Fraction(25)
        start: float | None = None
        for number, frame in enumerate(decoded(container, stream)):
            time = float(number / rate) if frame.time is None else frame.time
            start = time if start is None else start
            yield upright(frame), time - start, rate
