"""Reading videos: frames asked for against decoding everything, memory over thousands of reads, workers."""

import atexit
import functools
import resource
import shutil
import tempfile
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tools.benches.measure import Variant, Wanted
from video.datasets import VideoDataset
from video.decode import VideoError, VideoFile
from video.sampling import UniformSampling
from video.transforms import RandomResizedCrop
from xmodal.data.loader import build_loader

WANTED = {"decode": [Wanted("time", "ours", "released: everything decoded, 8 converted", 1 / 3)]}


@functools.cache
def folder() -> Path:
    """A folder for the videos, removed at the end."""
    path = Path(tempfile.mkdtemp(prefix="xmodal-bench-"))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


def write_video(
    path: Path,
    seconds: float,
    gop: int,
    seed: int = 0,
    noise: float = 5.0,
    codec: str = "libx264",
    options: dict[str, str] | None = None,
) -> Path:
    """Write a video of 340 x 256, smooth shapes that move with some noise, 30 frames a second; H.264 unless told."""
    import av

    random = np.random.default_rng(seed)
    height, width = 256, 340
    coarse = torch.from_numpy(random.integers(0, 256, (1, 3, 12, 24)).astype(np.float32))
    scene = torch.nn.functional.interpolate(coarse, (height, 2 * width), mode="bicubic")[0].clamp(0, 255).numpy()
    with av.open(str(path), "w") as out:
        options = {"threads": "1", **(options or {"g": str(gop), "crf": "20", "preset": "veryfast"})}
        stream: Any = out.add_stream(codec, rate=Fraction(30), options=options)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        for i in range(round(30 * seconds)):
            view = scene[:, :, (3 * i) % width :][:, :, :width] + random.normal(0, noise, (1, height, width))
            image = np.ascontiguousarray(view.clip(0, 255).astype(np.uint8).transpose(1, 2, 0))
            out.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        out.mux(stream.encode(None))
    return path


def ours(path: Path) -> np.ndarray:
    """Eight frames, one from the middle of each eighth."""
    with VideoFile(path) as video:
        return video.read(UniformSampling(num_frames=8).test(video.num_frames, 1)[0])


def everything(path: Path, convert: str) -> np.ndarray:
    """As released: the whole stream decoded, then the frames picked; `convert` all of them or the picked."""
    import av

    with av.open(str(path)) as container:
        container.streams.video[0].codec_context.thread_count = 1
        frames = sorted(container.decode(video=0), key=lambda frame: frame.pts)
        picked = UniformSampling(num_frames=8).test(len(frames), 1)[0]
        if convert == "all":
            images = np.stack([frame.to_rgb().to_ndarray() for frame in frames])
            return images[picked]
        return np.stack([frames[i].to_rgb().to_ndarray() for i in picked])


def decode(args, gop: int = 12):
    """Eight frames of a video of 10 s, 340 x 256, a key frame every 12."""
    path = write_video(folder() / f"gop{gop}.mp4", 10, gop)
    if not np.array_equal(ours(path), everything(path, "picked")):
        raise ValueError("the two ways read other pixels")
    print(f"{path.name}: {path.stat().st_size / 2**20:.2f} MB", flush=True)
    return [
        Variant("released: everything decoded, 8 converted", lambda p: everything(p, "picked"), lambda: path),
        Variant("released test: everything converted", lambda p: everything(p, "all"), lambda: path),
        Variant("ours", ours, lambda: path),
    ]


def decode_gop250(args):
    """The same with a key frame every 250, as most files on the web have it."""
    return decode(args, 250)


def decode_memory(args, reads: int = 5000) -> list[dict[str, Any]]:
    """Resident memory over thousands of reads of 20 videos; every 50th read meets a broken file."""
    videos = [write_video(folder() / f"m{i}.mp4", 2, 12 if i % 2 else 60, seed=i) for i in range(20)]
    broken = folder() / "broken.mp4"
    broken.write_bytes(videos[0].read_bytes()[:5000])
    rows, start = [], time.process_time()
    for i in range(reads + 1):
        if i % 500 == 0 or i == 100:
            resident = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
            opened = len(list(Path("/proc/self/fd").iterdir()))
            rows.append({"reads": i, "resident MB": resident / 2**20, "open files": opened,
                         "CPU s": time.process_time() - start})  # fmt: skip
        if i % 50 == 49:
            try:
                ours(broken)
            except VideoError:
                continue
            raise ValueError("the broken file was read")
        ours(videos[i % 20])
    return rows


def workers(args, videos: int = 48) -> list[dict[str, Any]]:
    """Clips a second that training reads (8 frames, 10 s videos, random crops of 224), by number of workers."""
    root = folder() / "set" / "one"
    root.mkdir(parents=True, exist_ok=True)
    sources = [write_video(folder() / f"w{i}.mp4", 10, 12, seed=i) for i in range(4)]
    for i in range(videos):
        (root / f"{i}.mp4").symlink_to(sources[i % 4])
    sampling, crop = UniformSampling(num_frames=8), dict(type=RandomResizedCrop, size=224)
    dataset = VideoDataset(root.parent, format="folders", num_frames=8, sampling=sampling, transforms=[crop])
    rows = []
    for count in (0, 1, 2):
        keys = [(0, i) for i in range(videos)]
        loader = build_loader(dict(batch_size=4, num_workers=count), dataset, keys)  # type: ignore[arg-type]
        start = time.perf_counter()
        batches = iter(loader)
        next(batches)
        first = time.perf_counter()
        for batch in batches:
            assert batch["clips"].dtype == torch.uint8
        now = time.perf_counter()
        rows.append({"workers": count, "first batch s": first - start, "clips/s": (videos - 4) / (now - first)})
    return rows
