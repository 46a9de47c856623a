"""Split a long video into overlapping windows and sample frames in each of them."""

import re

import numpy as np
from torch import Tensor

from video.datasets import VideoDataset, cut_views
from video.frames import open_video

ROOM = 2**28  # bytes of frames that are held for windows of a video that is read in sequence
TOGETHER = 8  # windows that are read at once where frames are read at random
Span = tuple[int, int]


def seconds_of(text: str, what: str = "--window") -> float:
    """Read a length of time: `2s`, `2`, `500ms`, `1.5min`.

    Raises:
        ValueError: none, or not above zero.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*(ms|s|min|)\s*", text)
    value = float(found[1]) * {"ms": 1e-3, "s": 1.0, "": 1.0, "min": 60.0}[found[2]] if found else 0.0
    if value <= 0:
        raise ValueError(f"{what} takes a length of time such as 2s, 500ms or 1.5min, got {text!r}")
    return value


def spans_of(num_frames: int, fps: float, window: float, stride: float) -> list[Span]:
    """Cut a video into windows.

    Args:
        num_frames: of the video.
        fps: its average frames per second.
        window: seconds of a window; a shorter video is one window.
        stride: seconds from the begin of a window to that of the next.

    Returns:
        First frame and the one behind the last of each window. All windows have one length; the last ends with the
        video.
    """
    length = min(max(round(window * fps), 1), num_frames)
    starts: list[int] = []
    while not starts or starts[-1] + length < num_frames:
        start = min(round(len(starts) * stride * fps), num_frames - length)
        if starts and start <= starts[-1]:
            start = starts[-1] + 1
        starts.append(start)
    return [(start, start + length) for start in starts]


class Windows:
    """The windows of one video.

    Args:
        dataset: says how a video is sampled and cut.
        path: the video.
        window: seconds.
        stride: seconds.

    Attributes:
        fps: average frames per second.
        seconds: length of the video.
        spans: see `spans_of`.

    Raises:
        VideoError: a video that cannot be read.
        ValueError: a folder of frames, which has no times.
    """

    def __init__(self, dataset: VideoDataset, path: str, window: float, stride: float):
        self.dataset, self.path = dataset, path
        with open_video(path, dataset.decoder) as video:
            if not video.fps:
                raise ValueError("a folder of frames has no times, which windows need")
            self.fps, self.seconds = float(video.fps), video.num_frames / float(video.fps)
            self.spans = spans_of(video.num_frames, self.fps, window, stride)
            in_sequence = video.backend == "pyav"
        clip = 4 * 3 * dataset.crops.size**2 * dataset.sampling.num_frames * dataset.temporal_views * 2  # bytes, wide
        self.together = max(ROOM // clip, 1) if in_sequence else TOGETHER

    def parts(self) -> list[list[Span]]:
        """Return the windows in groups that are read at once: a file that is read in sequence is read few times."""
        return [self.spans[at : at + self.together] for at in range(0, len(self.spans), self.together)]

    def read(self, spans: list[Span]) -> Tensor:
        """Read some windows; returns their clips (W, V, T, 3, S, S)."""
        data = self.dataset
        views = [start + data.sampling.test(stop - start, data.temporal_views) for start, stop in spans]  # (V, T) each
        with open_video(self.path, data.decoder) as video:
            clips = cut_views(video, np.concatenate(views), data.crops, data.short_side)  # ((crops W V), T, 3, S, S)
        return clips.unflatten(0, (-1, len(spans), len(views[0]))).transpose(0, 1).flatten(1, 2)
