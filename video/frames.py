"""Read videos that are stored as folders of frames: `img_00001.jpg`, `img_00002.jpg`, ..."""

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from video.decode import IndexedVideo, VideoError, VideoFile
from xmodal.data.annotations import IMAGE_ENDINGS
from xmodal.data.pictures import ImageError, read_picture
from xmodal.data.stores import is_folder, is_plain, names_in
from xmodal.data.trouble import reading, words_of

NUMBERED = re.compile(r"(?P<prefix>.*?)(?P<number>\d+)")
COLOR = ("", "img", "image", "frame", "frames", "rgb")  # prefixes of color frames, where flow lies beside them


def frames_in(folder: "str | os.PathLike[str]") -> list[str]:
    """Return the paths of the frames of a folder in the order of their numbers; empty when it holds none.

    Where files of several names are numbered (`img_00001.jpg`, `flow_x_00001.jpg`), the color frames are taken.
    """
    series: dict[str, list[tuple[int, str]]] = {}
    for name in names_in(folder):
        stem, ending = os.path.splitext(name)
        found = NUMBERED.fullmatch(stem)
        if found and ending.lower() in IMAGE_ENDINGS and not name.startswith("."):
            series.setdefault(found["prefix"], []).append((int(found["number"]), os.path.join(folder, name)))
    if not series:
        return []
    prefix = min(series, key=lambda p: (p.strip("_- .").lower() not in COLOR, -len(series[p]), p))
    return [path for _, path in sorted(series[prefix])]


def is_frame_folder(folder: "str | os.PathLike[str]") -> bool:
    """Return whether a folder holds one video as numbered images: at least two, and nothing else of that size."""
    return os.path.isdir(folder) and len(frames_in(folder)) > 1


def frame_folders(root: "str | os.PathLike[str]") -> Iterator[str]:
    """Yield the folders below a folder that hold a video each as numbered images."""
    for folder, folders, _ in os.walk(os.fspath(root)):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if folder != os.fspath(root) and is_frame_folder(folder):
            folders.clear()
            yield folder


class FrameFolder(IndexedVideo):
    """Read frames of a folder by index, as `VideoFile` does of a file.

    Args:
        folder: with numbered images of one size.

    Raises:
        VideoError: no folder, or no numbered images in it.
    """

    backend, why_in_sequence = "frames", ""
    fps = 0.0  # not known

    def __init__(self, folder: str | os.PathLike) -> None:
        self.path = os.fspath(folder)
        with self._reading():
            self.frames = frames_in(folder)
        if not self.frames:
            raise VideoError(self.path, "no numbered images (img_00001.jpg, ...) in the folder", "frames")

    def _reading(self):
        return reading(self.path, VideoError, lambda e: VideoError(self.path, words_of(e), "frames"))

    @property
    def num_frames(self) -> int:
        """Return the number of frames."""
        return len(self.frames)

    @property
    def codec(self) -> str:
        """Return the kind of the images."""
        return Path(self.frames[0]).suffix.lower().lstrip(".")

    def _frames(self, unique: np.ndarray, convert: Callable[[np.ndarray], Any]) -> list[Any]:
        with self._reading():
            return [convert(self._frame(self.frames[i])) for i in unique]

    def _frame(self, path: str) -> np.ndarray:
        try:
            image = np.array(read_picture(path))
        except ImageError as error:
            raise VideoError(self.path, f"{Path(path).name}: {error}", "frames") from error
        if self._size not in (None, image.shape[:2]):
            raise VideoError(self.path, f"{Path(path).name} has another size than other frames", "frames")
        return image


def open_video(path: str | os.PathLike, decoder: str = "own") -> VideoFile | FrameFolder:
    """Open a video file, or a folder of frames.

    Args:
        path: the file or the folder.
        decoder: of files, see `VideoFile`.

    Raises:
        VideoError: see `VideoFile` and `FrameFolder`.
    """
    file = not is_plain(path) and bool(os.path.splitext(path)[1])  # by its ending: asking a store takes a request
    return FrameFolder(path) if not file and is_folder(path) else VideoFile(path, decoder=decoder)
