"""Re-encode videos for fast random access: small, with many key frames."""

import os
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from video.decode import VideoError, VideoFile
from video.frames import open_video
from video.sequential import shown_frames
from xmodal.data.trouble import reading, words_of


def reencode(source: str, target: str | os.PathLike, short_side: int = 256, gop: int = 12, crf: int = 20) -> int:
    """Write an upright H.264 copy without sound.

    The copy appears under its name only when it is complete. Frame times are kept; videos smaller than `short_side` are
    not enlarged.

    Args:
        source: the video.
        target: where the MP4 goes.
        short_side: pixels; sizes are rounded down to even numbers.
        gop: frames from one key frame to the next.
        crf: quality of x264, lower is better.

    Returns:
        Frames written.

    Raises:
        VideoError: a video that cannot be read to its end.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    with VideoFile(source) as video:
        expected = video.num_frames

    def blame(error: Exception) -> VideoError:
        return VideoError(source, f"cannot be decoded and encoded to its end: {words_of(error)}", "pyav")

    try:
        with reading(source, VideoError, blame):
            written = _write(source, part, short_side, gop, crf)
            if written != expected:
                raise VideoError(source, f"only {written} of {expected} frames can be decoded", "pyav")
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)
    return written


def _write(source: str, part: Path, short_side: int, gop: int, crf: int) -> int:
    import av

    number, last = 0, -1
    with av.open(str(part), "w", format="mp4", options={"movflags": "+faststart"}) as out:
        stream: Any = None
        for image, time, rate in shown_frames(source):
            if stream is None:
                stream = out.add_stream("libx264", rate=rate)
                stream.height, stream.width = even_size(image.shape[0], image.shape[1], short_side)
                stream.pix_fmt, stream.gop_size = "yuv420p", gop
                stream.codec_context.time_base = Fraction(1, 90000)
                stream.codec_context.thread_count = 1
                stream.options = {"preset": "fast", "crf": str(crf), "keyint_min": str(gop), "sc_threshold": "0"}
            frame = _frame(image, stream.width, stream.height)
            last = frame.pts = max(round(time * 90000), last + 1)
            frame.time_base = Fraction(1, 90000)
            out.mux(stream.encode(frame))
            number += 1
        if stream is not None:
            out.mux(stream.encode())
    return number


def _frame(image: np.ndarray, width: int, height: int) -> Any:
    import av

    frame = av.VideoFrame.from_ndarray(image, format="rgb24")
    return frame.reformat(width, height, format="yuv420p", interpolation="BICUBIC")


def even_size(height: int, width: int, short_side: int) -> tuple[int, int]:
    """Height and width with the short side at most `short_side`, both even."""
    short = min(height, width)
    scale = min(short_side, short) / short
    return max(2, int(height * scale) // 2 * 2), max(2, int(width * scale) // 2 * 2)


def copy_names(paths: Sequence[str], root: str) -> list[str]:
    """Name copies below the output folder as below `root`, ending in .mp4, all different."""
    names = []
    for path in map(os.path.abspath, paths):
        inside = os.path.relpath(path, os.path.abspath(root))
        names.append(inside if not inside.startswith("..") else path.lstrip(os.sep).replace(":", ""))
    stems = [os.path.splitext(name)[0] for name in names]
    twice = {stem for stem in stems if stems.count(stem) > 1} if len(set(stems)) < len(set(names)) else set()
    return [f"{name if stem in twice else stem}.mp4" for name, stem in zip(names, stems, strict=True)]


def preview(source: str, target: Path, short_side: int = 120, frames: int = 48, fps: int = 12) -> Path:
    """Write an H.264 clip of at most ten seconds for a page, with evenly spaced frames of a video or frame folder.

    Args:
        source: the video.
        target: the `.mp4`.
        short_side: pixels at most.
        frames: at most.
        fps: at which it plays, where the video's rate is not known.

    Raises:
        VideoError: a video that cannot be read.
    """
    import av

    with open_video(source) as video:
        rate = float(video.fps) or fps
        last = min(video.num_frames, max(round(10 * rate), 1))
        wanted = np.unique(np.linspace(0, last - 1, min(frames, last)).round().astype(int))
        pictures = video.read(wanted, short_side=min(short_side, *video.size))
    rate = max(round(rate * len(wanted) / last), 1)
    with av.open(str(target), "w", options={"movflags": "+faststart"}) as out:
        stream: Any = out.add_stream("libx264", rate=rate, options={"preset": "fast", "crf": "28"})
        height, width = pictures[0].shape[:2]
        stream.height, stream.width = even_size(height, width, short_side)
        stream.pix_fmt, stream.codec_context.thread_count = "yuv420p", 1
        for number, image in enumerate(pictures):
            frame = _frame(image, stream.width, stream.height)
            frame.pts, frame.time_base = number, Fraction(1, rate)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return target
