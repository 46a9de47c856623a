"""Random access: decode from the preceding key frame only the pictures that a frame needs.

Frames are found by their time stamps, so that a seek that misses yields nothing instead of another frame. Pictures of
H.264 that no other refers to, about half of all, are skipped unless they are asked for; the pixels are those of
decoding everything.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Any

import numpy as np

from video.sequential import PacketScan, open_video, refuse_ambiguous
from video.upright import QUARTERS, turned, upright


class KeyFrames:
    """Random-access reader built on PyAV; no file stays open behind a call.

    Args:
        source: a path, or the bytes of a file.
        found: what its packets say; `why_in_sequence` must be empty.
        opened: the source as `open_video` yields it, and what closes it: for the first call, which opens no other.
    """

    name = "keyframes"

    def __init__(self, source: str | bytes, found: PacketScan, opened: tuple[ExitStack, Any] | None = None) -> None:
        self._source, self._found, self._opened = source, found, opened
        self.num_frames, self.fps = found.num_frames, found.fps

    @contextmanager
    def _open(self) -> Iterator[tuple[Any, Any]]:
        opened, self._opened = self._opened, None
        if opened is None:
            with open_video(self._source) as found:
                yield found
        else:
            with opened[0]:
                yield opened[1]

    def frames(self, indices: np.ndarray, convert: Callable[[np.ndarray], Any] = np.asarray) -> list[Any]:
        """Decode frames at distinct indices; each is converted before the next is decoded."""
        wanted, keys = self._found.times[indices], np.array(list(self._found.keys))
        starts = keys[np.searchsorted(keys, wanted, side="right") - 1]
        images: dict[int, Any] = {}
        with self._open() as (container, stream):
            for start in np.unique(starts):
                targets = set(wanted[starts == start].tolist())
                for frame in self._group(container, stream, int(start), targets):
                    if (frame.height, frame.width) != self._found.size:
                        raise ValueError(f"a frame of {frame.width} x {frame.height} in a video of another size")
                    if frame.interlaced_frame:
                        raise ValueError("frames are interlaced")
                    images[frame.pts] = convert(upright(frame))
        missing = [int(i) for i, time in zip(indices, wanted, strict=True) if time not in images]
        if missing:
            raise ValueError(f"frames {missing} cannot be decoded")
        return [images[time] for time in wanted.tolist()]

    def _group(self, container: Any, stream: Any, start: int, targets: set[int]) -> Iterator[Any]:
        """The target frames between one key frame and the next."""
        container.seek(self._found.keys[start], stream=stream)
        decoder, waiting, begun = stream.codec_context, set(targets), False
        skips, last = self._found.codec == "h264", start
        with closing(container.demux(stream)) as packets:  # one that is left half-read and open never frees its packet
            for packet in packets:
                begun |= packet.is_keyframe and packet.pts == start
                if not packet.size or not begun:
                    continue
                decoder.skip_frame = "NONREF" if skips and packet.pts not in targets else "DEFAULT"
                waiting.discard(packet.pts)
                frames = decoder.decode(packet)
                last = self._in_order(frames, last)
                yield from (frame for frame in frames if frame.pts in targets)
                if not waiting:
                    break
        frames = decoder.decode(None)
        self._in_order(frames, last)
        yield from (frame for frame in frames if frame.pts in targets)

    def _in_order(self, frames: list[Any], last: int) -> int:
        """Return the time of the last frame.

        Raises:
            ValueError: frames come in another order than their time stamps, or refer to frames that are not there.
        """
        for frame in frames:
            if frame.pts is None or frame.pts < last:
                raise ValueError("time stamps that do not follow the order of the frames")
            refuse_ambiguous(self._found.codec, frame=frame)
            last = frame.pts
        return last


def is_mirrored(container: Any, stream: Any, found: PacketScan) -> bool:
    """Return whether the first frame is to be mirrored, or turned by no quarter: libraries do neither."""
    container.seek(min(found.keys.values()), stream=stream)
    angle, mirrored = turned(next(container.decode(stream)))
    return mirrored or angle not in QUARTERS
