"""Look at one video file: whether it can be read, and what it holds."""

import os
from typing import Any

from video.decode import VideoError
from video.frames import open_video
from xmodal.data.stores import identity, is_plain
from xmodal.data.trouble import retried


def check(job: tuple[str, bool]) -> dict[str, Any]:
    """Read one video and describe it, waiting while the machine is in trouble.

    Args:
        job: path, and whether every frame is decoded, not the first, middle and last only.

    Returns:
        Frames, fps, seconds, height, width, codec, reader, why, stamp; or `broken` and `found_by`.
    """
    try:
        return retried(lambda: describe(*job))
    except VideoError as error:
        return {"broken": error.reason, "found_by": error.backend}


def describe(path: str, full: bool) -> dict[str, Any]:
    """Read the first, middle and last frame of a video, or all."""
    stamp = stamp_of(path)
    with open_video(path) as video:
        last = video.num_frames - 1
        for frame in range(0, last + 1, 64) if full else ():
            video.read(range(frame, min(frame + 64, last + 1)), shrink=lambda image: image[:1, :1])
        for frame in (0, last // 2, last):
            video.read([frame])
        height, width = video.size
        return {
            "frames": video.num_frames,
            "fps": round(video.fps, 3),
            "seconds": round(video.num_frames / video.fps, 2) if video.fps else None,
            "height": height,
            "width": width,
            "codec": video.codec,
            "reader": video.backend,
            "why": video.why_in_sequence,
            "stamp": [*(stamp or ()), full],
        }


def stamp_of(path: str) -> list[int] | None:
    """Size and modification time, by which a file is known to be unchanged; None when there is no file."""
    if not is_plain(path):
        return list(identity(path))
    try:
        status = os.stat(path)
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns]
