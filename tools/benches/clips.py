"""Training clips of one video: decoding and transforms, ours against those before and against other libraries."""

import importlib.util
import itertools
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from tools.benches.data import folder, write_video
from tools.benches.measure import Variant, Wanted
from video import keyframes, sequential, upright
from video.decode import VideoFile
from video.libraries import LIBRARIES, check_decoder
from video.sampling import UniformSampling
from video.transforms import HorizontalFlip, RandomCrop, RandomResizedCrop, ShortSideJitter, short_side_size, to_bytes
from xmodal.data.transforms import transformed

K400 = [ShortSideJitter(224, 258), RandomCrop(224), HorizontalFlip(0.5)]
VIEWS = [RandomResizedCrop(224), HorizontalFlip(0.5)]
PEER = "decode + RandomResizedCrop + flip, torchcodec + torch's uint8 antialiased resize"
WANTED = {
    "clips": [
        Wanted("time", "K400: jitter, crop, flip, ours", "K400: jitter, crop, flip, before", 0.65),
        Wanted("time", "decode + RandomResizedCrop + flip, ours", PEER, 1.0),
    ]
}
CODECS = {
    "H.264, key frame every 12": ("libx264", "mp4", {"preset": "veryfast", "crf": "20", "g": "12"}),
    "H.264, every 48": ("libx264", "mp4", {"preset": "veryfast", "crf": "20", "g": "48"}),
    "HEVC, every 48": (
        "libx265",
        "mp4",
        {"preset": "ultrafast", "x265-params": "open-gop=0:keyint=48:min-keyint=48:scenecut=0:log-level=none"},
    ),
    "VP9, every 48": ("libvpx-vp9", "webm", {"deadline": "realtime", "cpu-used": "8", "b": "1M", "g": "48"}),
    "AV1, every 48": ("libsvtav1", "mp4", {"preset": "12", "g": "48"}),
}


def wanted(count: int) -> np.ndarray:
    """Eight frames, one from the middle of each eighth."""
    return UniformSampling(num_frames=8).test(count, 1)[0]


def read(path: Path, decoder: str = "own") -> Tensor:
    """Decode eight frames (8, 3, H, W)."""
    with VideoFile(path, decoder=decoder) as video:
        return torch.from_numpy(video.read(wanted(video.num_frames))).permute(0, 3, 1, 2)


@contextmanager
def as_before() -> Iterator[None]:
    """Colors converted by as many threads as FFmpeg likes."""
    now = upright.to_rgb
    upright.to_rgb = lambda frame: frame.reformat(format="rgb24")  # type: ignore[assignment]
    try:
        yield
    finally:
        upright.to_rgb = now


def read_before(path: Path) -> Tensor:
    """Decode as before: the file opened again behind its scan."""
    with as_before():
        found = sequential.scan(str(path))
        reader = keyframes.KeyFrames(str(path), found)
        return torch.from_numpy(np.stack(reader.frames(wanted(found.num_frames)))).permute(0, 3, 1, 2)


def whole(frames: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize whole frames in float32, as before."""
    return to_bytes(interpolate(frames.float(), size, mode="bicubic", align_corners=False))


def flipped(clip: Tensor, rng: np.random.Generator) -> Tensor:
    """Mirror at even odds."""
    return torch.stack([clip.flip(-1) if rng.random() < 0.5 else clip])


def k400_before(path: Path, rng: np.random.Generator) -> Tensor:
    """Jitter the whole frames, then crop, then mirror."""
    frames = read_before(path)
    frames = whole(frames, short_side_size(*frames.shape[-2:], int(rng.integers(224, 259))))
    y, x = (int(rng.integers(0, n - 223)) for n in frames.shape[-2:])
    return flipped(frames[..., y : y + 224, x : x + 224], rng)


def crop_before(path: Path, rng: np.random.Generator) -> Tensor:
    """Crop, resize in float32, mirror."""
    frames = read_before(path)
    top, left, h, w = VIEWS[0].box(*frames.shape[-2:], rng)  # type: ignore[attr-defined]
    return flipped(whole(frames[..., top : top + h, left : left + w], (224, 224)), rng)


def ours(transforms: list[Any]) -> Callable[[Path, np.random.Generator], Tensor]:
    """Read and transform as a data set does."""
    return lambda path, rng: transformed(transforms, read(path), 0, rng)[0][None]


def by_decord(path: Path, rng: np.random.Generator) -> Tensor:
    """Decord, then OpenCV's bicubic resize of each frame's box."""
    import cv2
    import decord

    reader = decord.VideoReader(str(path), num_threads=1)
    frames = reader.get_batch(wanted(len(reader))).asnumpy()
    top, left, h, w = VIEWS[0].box(*frames.shape[1:3], rng)  # type: ignore[attr-defined]
    part = frames[:, top : top + h, left : left + w]
    images = [cv2.resize(image, (224, 224), interpolation=cv2.INTER_CUBIC) for image in part]
    return flipped(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2), rng)


def by_torchcodec(path: Path, rng: np.random.Generator) -> Tensor:
    """Torchcodec, then torch's antialiased resize of bytes."""
    from torchcodec.decoders import VideoDecoder

    reader = VideoDecoder(str(path), num_ffmpeg_threads=1)
    frames = reader.get_frames_at(wanted(len(reader)).tolist()).data
    top, left, h, w = VIEWS[0].box(*frames.shape[-2:], rng)  # type: ignore[attr-defined]
    part = frames[..., top : top + h, left : left + w]
    return flipped(interpolate(part, (224, 224), mode="bicubic", antialias=True), rng)


def has(package: str) -> bool:
    """Return whether a package can be imported, with the libraries that it needs."""
    try:
        return importlib.util.find_spec(package) is not None and bool(importlib.import_module(package))
    except (ImportError, OSError, RuntimeError):
        return False


def clips(args: Any) -> list[Variant]:
    """CPU seconds of one clip: 8 frames of a video of 10 s, 340 x 256, a key frame every 12."""
    path = write_video(folder() / "clip.mp4", 10, 12)
    ways: dict[str, Callable[[Path, np.random.Generator], Any]] = {
        "K400: jitter, crop, flip, before": k400_before,
        "K400: jitter, crop, flip, ours": ours(K400),
        "decode + RandomResizedCrop + flip, before": crop_before,
        "decode + RandomResizedCrop + flip, ours": ours(VIEWS),
        "decode, before": lambda path, rng: read_before(path),
        "decode, ours": lambda path, rng: read(path),
    }
    if has("decord"):
        ways["decode + RandomResizedCrop + flip, decord + OpenCV"] = by_decord
    if has("torchcodec"):
        ways[PEER] = by_torchcodec

    def step(way: Callable[[Path, np.random.Generator], Any]) -> Callable[[Iterator[int]], Any]:
        return lambda seeds: way(path, np.random.default_rng(next(seeds)))  # all ways draw the same crops

    return [Variant(name, step(way), itertools.count) for name, way in ways.items()]


def decoders(args: Any) -> list[dict[str, Any]]:
    """Eight frames by codec: milliseconds of our reader, and how many times as long the libraries take.

    Each library is measured in a process without the other: both bring codecs, which clash in one.
    """
    films = {}
    for number, (title, (codec, ending, options)) in enumerate(CODECS.items()):
        films[title] = write_video(folder() / f"codec{number}.{ending}", 10, 48, codec=codec, options=options)
    rows: dict[str, dict[str, Any]] = {title: {"video": title} for title in films}
    for library in LIBRARIES:
        words = [sys.executable, "-m", "tools.benches.clips", library, str(args.repeats), *map(str, films.values())]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        lines = done.stdout.splitlines() if done.returncode == 0 else []
        for title, line in zip(films, lines, strict=False):
            ours_ms, theirs_ms = map(float, line.split())
            rows[title] |= {"own ms": ours_ms, f"{library} / own": theirs_ms / ours_ms}
    return list(rows.values())


def against(library: str, repeats: int, path: Path) -> tuple[float, float]:
    """Milliseconds of our reader and of a library, medians of alternating rounds."""
    spent: dict[str, list[float]] = {"own": [], library: []}
    for _ in range(repeats + 1):
        for name, seconds in spent.items():
            start = time.process_time()
            read(path, name)
            seconds.append(time.process_time() - start)
    mine, theirs = (1000 * statistics.median(seconds[1:]) for seconds in spent.values())
    return mine, theirs


def main(words: list[str]) -> None:
    """Print our milliseconds and a library's for each video."""
    torch.set_num_threads(1)
    check_decoder(words[0])
    for path in words[2:]:
        print(*against(words[0], int(words[1]), Path(path)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
