"""Random access to H.264: decode from the preceding key frame only the pictures that a frame needs.

Pictures that no other refers to, about half of all, are skipped unless they are asked for; the pixels are those of
decoding everything.
"""

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import numpy as np

from video.sequential import Scan, open_video, upright

CONTAINERS = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")  # one packet is one frame, and seeking is exact


class KeyFrames:
    """Random-access reader built on PyAV; no file stays open between calls.

    Args:
        source: a path, or the bytes of a file.
        found: what its packets say.
    """

    name = "keyframes"

    def __init__(self, source: str | bytes, found: Scan) -> None:
        self._source, self._found = source, found
        self.num_frames, self.fps = found.num_frames, found.fps

    @staticmethod
    def suits(found: Scan) -> bool:
        """Return whether a file can be read this way."""
        exact = found.random_access and len(np.unique(found.times)) == found.num_frames and bool(found.keys)
        return exact and found.codec == "h264" and found.container in CONTAINERS and min(found.keys) == found.times[0]

    def frames(self, indices: np.ndarray) -> np.ndarray:
        """Decode frames (T, H, W, 3) at distinct indices."""
        wanted = self._found.times[indices]
        keys = np.array(sorted(self._found.keys))
        starts = keys[np.searchsorted(keys, wanted, side="right") - 1]
        images: dict[int, np.ndarray] = {}
        with open_video(self._source) as (container, stream):
            for start in np.unique(starts):
                targets = set(wanted[starts == start].tolist())
                for frame in self._group(container, stream, int(start), targets):
                    images[frame.pts] = upright(frame)
        missing = [int(i) for i, time in zip(indices, wanted, strict=True) if time not in images]
        if missing:
            raise ValueError(f"frames {missing} cannot be decoded")
        return np.stack([images[time] for time in wanted.tolist()])

    def _group(self, container: Any, stream: Any, start: int, targets: set[int]) -> Iterator[Any]:
        """The target frames between one key frame and the next."""
        container.seek(self._found.keys[start], stream=stream)
        decoder, waiting, begun = stream.codec_context, set(targets), False
        with closing(container.demux(stream)) as packets:  # one that is left half-read and open never frees its packet
            for packet in packets:
                begun |= packet.is_keyframe and packet.pts == start
                if not packet.size or not begun:
                    continue
                decoder.skip_frame = "DEFAULT" if packet.pts in targets else "NONREF"
                yield from (frame for frame in decoder.decode(packet) if frame.pts in targets)
                waiting.discard(packet.pts)
                if not waiting:
                    break
        yield from (frame for frame in decoder.decode(None) if frame.pts in targets)
