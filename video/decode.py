"""Read frames of video files by index.

MP4 and Matroska are read from their key frames (`keyframes.py`, or on request by decord or torchcodec,
`libraries.py`) where their packets allow it; everything else, and what fails there, is decoded in sequence
(`sequential.py`). The choice is made once per file, by a scan of the packets that decodes nothing. Whatever is wrong
with a file arrives as `VideoError`; trouble of the machine as `TroubleError`.
"""

import contextlib
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import Any, Protocol, TypeVar

import numpy as np
import torch

from video.keyframes import KeyFrames, is_mirrored
from video.libraries import LIBRARIES, check_decoder
from video.sequential import Sequential, open_video, scan_packets
from xmodal.data.stores import is_plain, open_file
from xmodal.data.trouble import NotAFileError, reading, words_of

V = TypeVar("V", bound="IndexedVideo")
MAX_CLIP = 2**30  # bytes that one read may return


class VideoError(Exception):
    """A video file that cannot be read.

    Args:
        path: the file.
        reason: what is wrong with it, in words.
        backend: who found out: `file`, `keyframes`, `pyav`, or a library of `DECODERS`.
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

    def frames(self, indices: np.ndarray, convert: Callable[[np.ndarray], Any]) -> list[Any]: ...


class IndexedVideo:
    """Base class of readers of frames by index: a video file, or a folder of frames."""

    path: str
    _size: tuple[int, int] | None = None

    @property
    def num_frames(self) -> int:
        """Return the number of visible frames; frames hidden by a trim do not count."""
        raise NotImplementedError

    def _frames(self, unique: np.ndarray, convert: Callable[[np.ndarray], Any]) -> list[Any]:
        """Return the converted frames at distinct indices."""
        raise NotImplementedError

    def close(self) -> None:
        """Close what is open."""

    @property
    def size(self) -> tuple[int, int]:
        """Return height and width as shown, rotation applied."""
        if self._size is None:
            self.read([0])
        assert self._size is not None
        return self._size

    def read(
        self,
        indices: Sequence[int] | np.ndarray,
        short_side: int | None = None,
        shrink: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> np.ndarray:
        """Decode frames; each is made smaller before the next is decoded, so that large ones do not add up.

        Args:
            indices: frame numbers in any order, repeats allowed, from 0 to `num_frames` - 1.
            short_side: shrink or enlarge to this short side (bilinear with antialiasing, same for every backend).
            shrink: called on each frame (H, W, 3), behind `short_side`.

        Returns:
            (T, H, W, 3) uint8 RGB, or what `shrink` made of the frames, stacked.

        Raises:
            IndexError: an index outside the video; clamping is the sampler's business.
            VideoError: a frame that cannot be decoded, or more than `MAX_CLIP` bytes.
            TroubleError: the machine or its storage fails.
        """
        wanted = checked_indices(indices, self.num_frames, self.path)
        unique, inverse = np.unique(wanted, return_inverse=True)

        def convert(image: np.ndarray) -> np.ndarray:
            self._size = image.shape[:2]
            if short_side is not None:
                image = resize_short_side(image[None], short_side)[0]
            image = shrink(image) if shrink is not None else image
            if image.nbytes * len(wanted) > MAX_CLIP:
                shape = " x ".join(map(str, image.shape))
                raise _TooLargeError(f"{len(wanted)} frames of {shape} need more than {MAX_CLIP} bytes; use short_side")
            return image

        frames = self._frames(unique, convert)
        return np.stack([frames[i] for i in inverse]) if len(wanted) > 1 else frames[0][None]  # (T, H, W, 3)

    def __enter__(self: V) -> V:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class VideoFile(IndexedVideo):
    """Read frames of a video file by index.

    Open it, read, let go: a reader is never kept from one sample to the next.

    Args:
        source: a path, of a member of a tar or a file of a store too (`xmodal.data.stores`), or the bytes of a file.
        name: what errors call it; the path when not given.
        decoder: reader of plain films (`PacketScan.is_plain`): `own`, or, with the same pixels and slower, `decord` or
            `torchcodec`; `torchcodec-cuda` decodes on a GPU, which may round colors otherwise.

    Raises:
        ValueError: a decoder that is not known or not installed.
        VideoError: missing, empty, no regular file, without a film, too large or unreadable.
        TroubleError: the machine or its storage fails.
    """

    def __init__(self, source: str | os.PathLike | bytes, name: str | None = None, decoder: str = "own") -> None:
        self._decoder = check_decoder(decoder)
        is_bytes = isinstance(source, bytes)
        self.source: str | bytes = source if isinstance(source, bytes) else os.fspath(source)
        self.path = name or ("<bytes>" if is_bytes else str(self.source))
        self._files = ExitStack()  # open from the scan until the first read
        with self._reading("pyav"), ExitStack() as files:
            opened = files.enter_context(open_video(self.source))
            self._scan = scan_packets(*opened)
            self._backend: _Backend = self._choose(files, opened)

    def _reading(self, reader: str) -> AbstractContextManager[None]:
        """Turn what goes wrong into a `VideoError` that names the reader, or the file itself."""

        def blame(error: Exception) -> VideoError:
            if isinstance(error, NotAFileError | FileNotFoundError | PermissionError):
                return VideoError(self.path, words_of(error).lower(), "file")
            return VideoError(self.path, words_of(error), reader)

        return reading(self.path, VideoError, blame)

    def _choose(self, files: ExitStack, opened: Any) -> _Backend:
        """Choose the reader: random access where it is exact, decoding in sequence otherwise."""
        if self._scan.why_in_sequence:
            return Sequential(self.source, self._scan)
        container, stream = opened
        if self._decoder in LIBRARIES and self._scan.is_plain and not is_mirrored(container, stream, self._scan):
            with contextlib.suppress(Exception):  # libraries raise anything; what they cannot read is read without them
                reader = LIBRARIES[self._decoder](self._for_libraries(), self._scan)
                if reader.num_frames == self._scan.num_frames:
                    return reader
        self._files = files.pop_all()
        return KeyFrames(self.source, self._scan, (self._files, opened))

    def _for_libraries(self) -> str | bytes:
        """Return the path or the bytes: libraries know neither tars nor stores."""
        if isinstance(self.source, bytes) or is_plain(self.source):
            return self.source
        with open_file(self.source) as file:
            return file.read()

    @property
    def num_frames(self) -> int:
        """See `IndexedVideo`."""
        return self._backend.num_frames

    @property
    def fps(self) -> float:
        """Return the average frames per second."""
        return self._backend.fps

    @property
    def backend(self) -> str:
        """Return the reader of this file: `keyframes`, a library of `DECODERS`, or `pyav` (in sequence)."""
        return self._backend.name

    @property
    def why_in_sequence(self) -> str:
        """Say why the file is read in sequence; empty when it is not."""
        return "" if self.backend != "pyav" else self._scan.why_in_sequence or "reading at random failed"

    @property
    def codec(self) -> str:
        """Return the codec by FFmpeg's name."""
        return self._scan.codec

    def _frames(self, unique: np.ndarray, convert: Callable[[np.ndarray], Any]) -> list[Any]:
        """Frames at distinct indices; what cannot be read at random is decoded in sequence."""
        if isinstance(self._backend, _Closed):
            raise ValueError(f"{self.path} is closed")
        if self._backend.name == "pyav":
            with self._reading("pyav"):
                return self._backend.frames(unique, convert)
        try:
            with self._reading(self._backend.name):
                return self._backend.frames(unique, convert)
        except VideoError as error:
            if isinstance(error.__cause__, _TooLargeError):
                raise
            reason = error.reason

        def blame(error: Exception) -> VideoError:
            return VideoError(self.path, f"{reason}; {words_of(error)}", f"{self.backend}, pyav")

        with reading(self.path, VideoError, blame):
            other = Sequential(self.source, self._scan)
            if other.num_frames != self.num_frames:
                raise ValueError(f"{other.num_frames} frames can be decoded, the packets say {self.num_frames}")
            frames = other.frames(unique, convert)
        self._backend = other
        return frames

    def close(self) -> None:
        """Close the file."""
        self._files.close()
        self._backend = _Closed(self.num_frames, self.fps)


def checked_indices(indices: Sequence[int] | np.ndarray, num_frames: int, path: str) -> np.ndarray:
    """Return frame numbers as an array (T,).

    Raises:
        ValueError: none is asked for.
        IndexError: one is outside the video.
    """
    wanted = np.asarray(indices, np.int64).reshape(-1)
    if wanted.size == 0:
        raise ValueError("read() needs at least one frame index")
    if wanted.min() < 0 or wanted.max() >= num_frames:
        raise IndexError(f"{path} has frames 0 to {num_frames - 1}, asked for {wanted.tolist()}")
    return wanted


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


class _TooLargeError(ValueError):
    """Frames that are too large to be kept."""


class _Closed:
    name = "closed"

    def __init__(self, num_frames: int, fps: float) -> None:
        self.num_frames, self.fps = num_frames, fps

    def frames(self, indices: np.ndarray, convert: Callable[[np.ndarray], Any]) -> list[Any]:
        raise NotImplementedError
