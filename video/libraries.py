"""Read frames with decord or torchcodec, from videos in which both seek correctly (`Scan.is_plain`).

There they give the same pixels as `keyframes.py`. They are not used for other videos: on trims, open
groups, intra refresh, times below zero and transport streams decord returns other frames than asked.
"""

import importlib.util
import io
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from video.sequential import Scan
from xmodal.registry import did_you_mean


class Decord:
    """Random-access reader built on decord, one thread."""

    name, package, install = "decord", "decord", "decord2"

    def __init__(self, source: str | bytes, found: Scan) -> None:
        with _without_cuda_libraries():
            import decord
        self._reader = decord.VideoReader(io.BytesIO(source) if isinstance(source, bytes) else source, num_threads=1)
        self.num_frames, self.fps = len(self._reader), found.fps

    def frames(self, indices: np.ndarray, convert: Callable[[np.ndarray], Any] = np.asarray) -> list[Any]:
        """Decode frames at distinct, rising indices; each is converted before the next is decoded."""
        return [convert(_checked(self._reader[int(i)].asnumpy())) for i in indices]


class TorchCodec:
    """Random-access reader built on torchcodec, one thread."""

    name, package, install = "torchcodec", "torchcodec", "torchcodec"

    def __init__(self, source: str | bytes, found: Scan) -> None:
        from torchcodec.decoders import VideoDecoder

        self._reader = VideoDecoder(source, seek_mode="exact", num_ffmpeg_threads=1, dimension_order="NHWC")
        self.num_frames, self.fps = len(self._reader), found.fps

    def frames(self, indices: np.ndarray, convert: Callable[[np.ndarray], Any] = np.asarray) -> list[Any]:
        """Decode frames at distinct, rising indices; each is converted before the next is decoded."""
        return [convert(_checked(self._reader.get_frame_at(int(i)).data.numpy())) for i in indices]


LIBRARIES = {library.name: library for library in (Decord, TorchCodec)}
DECODERS = ("own", *LIBRARIES)


def check_decoder(name: str) -> str:
    """Return the name of a decoder that is known and installed.

    Raises:
        ValueError: another name, or a package that is not installed.
    """
    if name not in DECODERS:
        raise ValueError(f"unknown decoder {name!r}; {did_you_mean(name, DECODERS)}")
    if name in LIBRARIES and importlib.util.find_spec(LIBRARIES[name].package) is None:
        raise ValueError(f"decoder={name!r} needs a package: pip install {LIBRARIES[name].install}")
    return name


def _checked(image: np.ndarray) -> np.ndarray:
    if image.ndim != 3 or image.shape[-1] != 3:  # decord gives four channels for some narrow films
        raise ValueError(f"decoded to shape {image.shape}")
    return image


@contextmanager
def _without_cuda_libraries() -> Iterator[None]:
    """Hide the package of CUDA's libraries: decord loads all of them, 420 MB a process, to decode on the CPU."""
    if "decord" in sys.modules:
        yield
        return
    find = importlib.util.find_spec
    importlib.util.find_spec = lambda name, *rest: None if name == "nvidia" else find(name, *rest)  # type: ignore
    try:
        yield
    finally:
        importlib.util.find_spec = find
