"""Read frames with decord or torchcodec (CPU or CUDA), from videos where both seek right (`PacketScan.is_plain`).

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
import torch

from video.sequential import PacketScan
from xmodal.registry import did_you_mean

AT_ONCE = 2**26  # bytes of frames that torchcodec decodes before they are converted


class Decord:
    """Random-access reader built on decord, one thread."""

    name, package, install = "decord", "decord", "decord2"

    def __init__(self, source: str | bytes, found: PacketScan) -> None:
        with _without_cuda_libraries():
            import decord
        self._reader = decord.VideoReader(io.BytesIO(source) if isinstance(source, bytes) else source, num_threads=1)
        self.num_frames, self.fps = len(self._reader), found.fps

    def frames(self, indices: np.ndarray, convert: Callable[[np.ndarray], Any] = np.asarray) -> list[Any]:
        """Decode frames at distinct, rising indices; each is converted before the next is decoded."""
        return [convert(_checked(self._reader[int(i)].asnumpy())) for i in indices]


class TorchCodec:
    """Random-access reader built on torchcodec, one thread."""

    name, package, install, device = "torchcodec", "torchcodec", "torchcodec", "cpu"

    def __init__(self, source: str | bytes, found: PacketScan) -> None:
        from torchcodec.decoders import VideoDecoder

        self._reader = VideoDecoder(
            source, seek_mode="exact", num_ffmpeg_threads=1, dimension_order="NHWC", device=self.device
        )
        self.num_frames, self.fps = len(self._reader), found.fps
        self._together = max(1, AT_ONCE // max(3 * found.size[0] * found.size[1], 1))

    def frames(self, indices: np.ndarray, convert: Callable[[np.ndarray], Any] = np.asarray) -> list[Any]:
        """Decode frames at distinct, rising indices, as many at once as fit in `AT_ONCE` bytes."""
        out = []
        for start in range(0, len(indices), self._together):
            found = self._reader.get_frames_at(indices[start : start + self._together].tolist())
            out += [convert(_checked(frame)) for frame in found.data.cpu().numpy()]
        return out


class TorchCodecCuda(TorchCodec):
    """The same on a GPU's decoder (NVDEC): the same frames, whose colors it may round otherwise."""

    name, install, device = "torchcodec-cuda", "torchcodec, in its CUDA build", "cuda"


LIBRARIES = {library.name: library for library in (Decord, TorchCodec, TorchCodecCuda)}
DECODERS = ("own", *LIBRARIES)


def check_decoder(name: str) -> str:
    """Return the name of a decoder that is known and installed.

    Raises:
        ValueError: another name, a package that is not installed, or no GPU that this process can decode on.
    """
    if name not in DECODERS:
        raise ValueError(f"unknown decoder {name!r}; {did_you_mean(name, DECODERS)}")
    if name in LIBRARIES and importlib.util.find_spec(LIBRARIES[name].package) is None:
        raise ValueError(f"decoder={name!r} needs a package: pip install {LIBRARIES[name].install}")
    if name == TorchCodecCuda.name and not torch.cuda.is_available():
        raise ValueError(f"decoder={name!r} needs a GPU; use 'own'")
    if name == TorchCodecCuda.name and torch.cuda._is_in_bad_fork():
        raise ValueError(f"decoder={name!r} needs multiprocessing_context='spawn' in a dataloader with workers")
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
