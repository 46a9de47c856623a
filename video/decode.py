"""Read frames of video files by index.

H.264 is read from its key frames (`keyframes.py`), other codecs by decord (only the frames asked, one thread, so that
damaged files decode the same everywhere). PyAV takes over, sequentially, where that fails or would return other frames
than asked: trims copied without re-encoding keep hidden frames that decord counts, and open groups of pictures shift
its frames after a seek. A scan of the packets, which decodes nothing, tells beforehand. Whatever goes wrong with a file
arrives as `VideoError`.
"""

import importlib.metadata
import importlib.util
import io
import os
import re
from collections.abc import Sequence
from functools import cache
from typing import Any, Protocol

import numpy as np
import torch

from video.keyframes import KeyFrames
from video.sequential import Scan, Sequential, scan

_WHERE = re.compile(r"\[[\d:]+\] /\S+:\d+: ")  # when and in which C++ line decord noticed
_NO_GUESSES = 1e-9  # share of frames that decord may fill with a neighbor before it must say so


class VideoError(Exception):
    """A video file that cannot be read.

    Args:
        path: the file.
        reason: what is wrong with it, in words.
        backend: who found out: `file`, `decord` or `pyav`.
    """

    def __init__(self, path: str, reason: str, backend: str) -> None:
        super().__init__(path, reason, backend)
        self.path, self.reason, self.backend = path, reason, backend

    def __str__(self) -> str:
        return f"{self.path}: {self.reason} [{self.backend}]"


class _Backend(Protocol):
    name: str
    num_frames: int
    fps: float

    def frames(self, indices: np.ndarray) -> np.ndarray: ...


class VideoFile:
    """Read frames of a video file by index.

    Open it, read, let go: a reader is never kept from one sample to the next.

    Args:
        source: a path, or the bytes of a file.
        name: what errors call it; the path when not given.

    Raises:
        VideoError: missing, empty, without a video stream or unreadable.
    """

    def __init__(self, source: str | os.PathLike | bytes, name: str | None = None) -> None:
        is_bytes = isinstance(source, bytes)
        self.source: str | bytes = source if isinstance(source, bytes) else os.fspath(source)
        self.path = name or ("<bytes>" if is_bytes else str(self.source))
        _check_file(self.source, self.path)
        self._size: tuple[int, int] | None = None
        self._scan, self._backend = _open(self.source, self.path)

    @property
    def num_frames(self) -> int:
        """Return the number of visible frames; frames hidden by a trim do not count."""
        return self._backend.num_frames

    @property
    def fps(self) -> float:
        """Return the average frames per second."""
        return self._backend.fps

    @property
    def backend(self) -> str:
        """Return the reader of this file: `keyframes`, `decord` or `pyav`."""
        return self._backend.name

    @property
    def codec(self) -> str:
        """Return the codec by FFmpeg's name."""
        return self._scan.codec

    @property
    def size(self) -> tuple[int, int]:
        """Return height and width as shown, rotation applied."""
        if self._size is None:
            self.read([0])
        assert self._size is not None
        return self._size

    def read(self, indices: Sequence[int] | np.ndarray, short_side: int | None = None) -> np.ndarray:
        """Decode frames.

        Args:
            indices: frame numbers in any order, repeats allowed, from 0 to `num_frames` - 1.
            short_side: shrink or enlarge to this short side (bilinear with antialiasing, same for every backend).

        Returns:
            (T, H, W, 3) uint8 RGB.

        Raises:
            IndexError: an index outside the video; clamping is the sampler's business.
            VideoError: a frame that cannot be decoded.
        """
        wanted = np.asarray(indices, np.int64).reshape(-1)
        if isinstance(self._backend, _Closed):
            raise ValueError(f"{self.path} is closed")
        if wanted.size == 0:
            raise ValueError("read() needs at least one frame index")
        if wanted.min() < 0 or wanted.max() >= self.num_frames:
            raise IndexError(f"{self.path} has frames 0 to {self.num_frames - 1}, asked for {wanted.tolist()}")
        unique, inverse = np.unique(wanted, return_inverse=True)
        frames = self._frames(unique)
        self._size = frames.shape[1:3]
        if short_side is not None:
            frames = resize_short_side(frames, short_side)
        return frames[inverse]  # (T, H, W, 3)

    def _frames(self, unique: np.ndarray) -> np.ndarray:
        try:
            frames = self._backend.frames(unique)
            if frames.shape[0] == len(unique) and frames.shape[-1] == 3:
                return frames
            reason: object = f"decoded to shape {frames.shape}"
        except Exception as error:  # decord raises RuntimeError, IndexError, its own Exception and AssertionError
            if self._backend.name == "pyav":
                raise _as_video_error(error, self.path, "pyav") from None
            reason = error
        try:
            other = Sequential(self.source, self._scan)
            frames = other.frames(unique)
        except Exception as error:  # PyAV raises FFmpegError (several kinds), ValueError and IndexError
            raise VideoError(self.path, f"{_words(reason)}; {_words(error)}", f"{self.backend}, pyav") from None
        self._backend = other if other.num_frames >= self._backend.num_frames else self._backend
        return frames

    def close(self) -> None:
        """Close the file."""
        self._backend = _Closed(self.num_frames, self.fps)

    def __enter__(self) -> "VideoFile":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def resize_short_side(frames: np.ndarray, short_side: int) -> np.ndarray:
    """Resize (T, H, W, 3) uint8 frames to a short side in pixels, bilinear with antialiasing; the long side is cut."""
    height, width = frames.shape[1:3]
    if min(height, width) == short_side:
        return frames
    short = min(height, width)
    size = (height * short_side // short, width * short_side // short)
    images = torch.from_numpy(frames).permute(0, 3, 1, 2)  # (T, 3, H, W)
    images = torch.nn.functional.interpolate(images, size, mode="bilinear", antialias=True)
    return images.permute(0, 2, 3, 1).contiguous().numpy()  # (T, h, w, 3)


def _check_file(source: str | bytes, path: str) -> None:
    if isinstance(source, str):
        if os.path.isdir(source):
            raise VideoError(path, "is a folder", "file")
        try:
            size = os.path.getsize(source)
            with open(source, "rb"):
                pass
        except OSError as error:
            raise VideoError(path, (error.strerror or str(error)).lower(), "file") from None
    else:
        size = len(source)
    if size == 0:
        raise VideoError(path, "is empty (0 bytes)", "file")


def _open(source: str | bytes, path: str) -> tuple[Scan, _Backend]:
    """Choose the reader: random access where it is exact, sequential decoding otherwise."""
    try:
        found = scan(source)
        if KeyFrames.suits(found):
            return found, KeyFrames(source, found)
        if found.random_access:
            reader = _decord_if_sound(source, found)
            if reader is not None:
                return found, reader
        return found, Sequential(source, found)
    except ImportError:
        raise
    except Exception as error:  # PyAV raises FFmpegError (several kinds, some are OSError), ValueError and IndexError
        raise _as_video_error(error, path, "pyav") from None


def _decord_if_sound(source: str | bytes, found: Scan) -> "_Decord | None":
    try:
        reader = _Decord(source)
    except ImportError:
        raise
    except Exception:  # decord raises RuntimeError, AssertionError and its own; PyAV has the last word
        return None
    return reader if reader.num_frames == found.num_frames else None


def _as_video_error(error: Exception, path: str, backend: str) -> VideoError:
    return error if isinstance(error, VideoError) else VideoError(path, _words(error), backend)


def _words(error: object) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return _WHERE.sub("", text).strip().splitlines()[-1][:200]


class _Closed:
    name = "closed"

    def __init__(self, num_frames: int, fps: float) -> None:
        self.num_frames, self.fps = num_frames, fps

    def frames(self, indices: np.ndarray) -> np.ndarray:
        raise NotImplementedError


class _Decord:
    """Random-access reader built on decord."""

    name = "decord"

    def __init__(self, source: str | bytes) -> None:
        handle = io.BytesIO(source) if isinstance(source, bytes) else source
        self._reader = _decord().VideoReader(handle, num_threads=1, fault_tol=_NO_GUESSES)
        self.num_frames = len(self._reader)
        self.fps = float(self._reader.get_avg_fps())

    def frames(self, indices: np.ndarray) -> np.ndarray:
        return self._reader.get_batch(indices).asnumpy()


@cache
def _decord() -> Any:
    """Import decord once, after torch, without the 400 MB of CUDA libraries that decord2 would load."""
    both = [name for name in ("decord", "decord2") if importlib.util.find_spec("decord") and _installed(name)]
    if len(both) == 2:
        raise ImportError("decord and decord2 are both installed and overwrite each other; pip uninstall decord")
    find_spec = importlib.util.find_spec
    importlib.util.find_spec = lambda name, *a, **k: None if name == "nvidia" else find_spec(name, *a, **k)
    try:
        import decord
    finally:
        importlib.util.find_spec = find_spec
    decord.logging.set_level(decord.logging.QUIET)
    return decord


def _installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
