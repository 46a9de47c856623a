"""The loader of a config or of generated videos: time of a sample by part, workers, headspace, lists of a million."""

import math
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from tools.benches import clips
from tools.benches.data import folder, write_video
from tools.benches.measure import Variant
from video import upright
from video.datasets import VideoDataset
from video.decode import VideoFile
from xmodal.data.collate import collate
from xmodal.data.loader import build_loader
from xmodal.data.resample import LazyClip

Rows = list[dict[str, Any]]
LINES = 1_000_000
WANTED = {"loader": clips.WANTED["clips"]}


def loader(args: Any) -> dict[str, list[Variant] | Rows]:
    """All tables by title; of the config's training set where one is given."""
    dataset, step = from_config(args) if args.config else (generated(), None)
    sections: dict[str, list[Variant] | Rows] = {} if args.config else {"clips": clips.clips(args)}
    parts = parts_of(dataset, args.repeats)
    sections["a sample, ms of CPU time"] = parts
    sections["workers"] = speeds = worker_rows(dataset, range((os.cpu_count() or 1) + 1), step)
    if not args.config:
        sections[f"a list of {LINES:,} lines"] = million(LINES)
    sections["advice"] = [{"": line} for line in advice(dataset, parts, speeds, step)]
    return sections


def generated(videos: int = 48) -> VideoDataset:
    """Links to four videos of 10 s, with the transforms of Kinetics-400."""
    root = folder() / "films" / "one"
    root.mkdir(parents=True, exist_ok=True)
    sources = [write_video(folder() / f"f{i}.mp4", 10, 12, seed=i) for i in range(4)]
    for i in range(videos):
        if not (root / f"{i}.mp4").exists():
            (root / f"{i}.mp4").symlink_to(sources[i % 4])
    return VideoDataset(
        root.parent, format="folders", num_frames=8, sampling={"type": "uniform"}, transforms=clips.K400
    )


def from_config(args: Any) -> tuple[Any, float]:
    """The training set of a config, and the samples a second that its model trains on when nothing has to be read."""
    from xmodal.engine.config import load_config
    from xmodal.engine.dry_run import TrialStep

    trial = TrialStep(load_config(args.config))
    items, _ = trial.items(min(trial.batch, 4))
    batch = trial.collated(items)
    trial.model.train()
    trial.take_step(batch)
    start = time.perf_counter()
    for _ in range(args.repeats):
        trial.take_step(batch)
    return trial.train, args.repeats * len(items) / (time.perf_counter() - start)


class Clock:
    """Adds up the CPU seconds of named parts; what runs inside a part is not counted for the part around it."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.inside: list[float] = []

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count what runs in here."""
        start = time.process_time()
        self.inside.append(0.0)
        try:
            yield
        finally:
            spent, within = time.process_time() - start, self.inside.pop()
            self.seconds[name] += spent - within
            if self.inside:
                self.inside[-1] += spent

    def around(self, name: str, function: Callable) -> Callable:
        """Return a function whose time is counted."""

        def timed(*arguments: Any, **options: Any) -> Any:
            with self.part(name):
                return function(*arguments, **options)

        return timed


def parts_of(dataset: Any, repeats: int, count: int = 8) -> Rows:
    """Where the time of a sample goes, means over a few samples; videos by the parts of their reading."""
    clock, total = Clock(), max(repeats, 1) * count
    watched = [
        patch.object(VideoFile, "__init__", clock.around("open and scan", VideoFile.__init__)),
        patch.object(VideoFile, "read", clock.around("seek and decode", VideoFile.read)),
        patch.object(upright, "to_rgb", clock.around("colors", upright.to_rgb)),
        patch.object(LazyClip, "pixels", clock.around("resize, crop, flip", LazyClip.pixels)),
    ]
    for transform in getattr(dataset, "transforms", ()):
        if not hasattr(transform, "place"):
            kind = type(transform)
            watched.append(patch.object(kind, "__call__", clock.around(kind.__name__, kind.__call__)))
    dataset[0, 0]  # imports
    for each in watched:
        each.start()
    try:
        for i in range(total):
            with clock.part("the rest"):
                item = dataset[i // count, i % min(count, len(dataset))]
            with clock.part("collate"):
                batch = collate([item])
            if torch.cuda.is_available():
                with clock.part("copy"):
                    {k: v.pin_memory().cuda() for k, v in batch.items() if isinstance(v, torch.Tensor)}
    finally:
        for each in watched:
            each.stop()
    whole = sum(clock.seconds.values())
    return [
        {"part": name, "ms": 1000 * seconds / total, "share": f"{100 * seconds / whole:.0f} %"}
        for name, seconds in sorted(clock.seconds.items(), key=lambda part: -part[1])
    ]


def worker_rows(dataset: Any, counts: Any, step: float | None, batch_size: int = 4) -> Rows:
    """Samples a second by number of workers, memory that a worker has for itself, and what training could take."""
    rows = []
    keys = [(0, i % len(dataset)) for i in range(max(48, batch_size * 8))]
    for count in counts:
        batches = build_loader(dict(batch_size=batch_size, num_workers=count), dataset, keys)  # type: ignore[arg-type]
        start = time.perf_counter()
        reader = iter(batches)
        next(reader)
        first = time.perf_counter()
        left = sum(1 for _ in zip(range(len(batches) - 2), reader, strict=False))
        rate = left * batch_size / (time.perf_counter() - first)
        row = {"workers": count, "first batch s": first - start, "samples/s": rate, "own MB": own_memory(reader)}
        if step is not None:
            row |= {"training alone /s": step, "headspace": rate / step}
        rows.append(row)
        del reader
    return rows


def own_memory(reader: Any) -> float | str:
    """Megabytes that a worker shares with nobody, the mean of a loader's workers."""
    found = []
    for worker in getattr(reader, "_workers", ()):
        try:
            lines = Path(f"/proc/{worker.pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        found.append(sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1024)
    return float(np.mean(found)) if found else "-"


class Names(VideoDataset):
    """Items of a list that hold only what the list says."""

    def train_item(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        sample = self.samples[index]
        return {"label": sample.label, "length": len(sample.path)}


def million(lines: int) -> Rows:
    """Reading a list, and starting workers on it: as tensors, and as the list of objects that it was before."""
    root = folder() / "list"
    (root / "class_0").mkdir(parents=True, exist_ok=True)
    (root / "class_0" / "video_0.mp4").touch()
    names = (f"class_{i % 400}/video_{i}.mp4\t{i % 400}\n" for i in range(lines))
    (root / "list.txt").write_text("".join(names))
    start = time.process_time()
    data = Names(root / "list.txt")
    reading = time.process_time() - start
    rows = []
    for form in ("tensors", "objects, as before"):
        if form != "tensors":
            data.samples, data.file_names = list(data.samples), [s.path for s in data.samples]  # type: ignore[assignment]
        for context in ("fork", "spawn"):
            options = dict(batch_size=1000, num_workers=1, multiprocessing_context=context)
            keys = [(0, i) for i in range(0, lines, max(lines // 100_000, 1))]
            start = time.perf_counter()
            reader = iter(build_loader(options, data, keys))  # type: ignore[arg-type]
            next(reader)
            first = time.perf_counter() - start
            for _ in zip(range(len(keys) // 1000 - 2), reader, strict=False):
                pass
            rows.append({"samples": form, "start": context, "read CPU s": reading if form == "tensors" else "-",
                         "first batch s": first, "own MB a worker": own_memory(reader)})  # fmt: skip
            del reader
    return rows


def advice(dataset: Any, parts: Rows, speeds: Rows, step: float | None) -> list[str]:
    """Say what would make reading faster."""
    lines = advice_on_videos(dataset, parts) if isinstance(dataset, VideoDataset) else []
    one = next((row["samples/s"] for row in speeds if row["workers"] == 1), 0)
    cores = os.cpu_count() or 1
    if step is not None and one:
        need = math.ceil(1.2 * step / one)
        more = f", more than the {cores} cores here" if need > cores else ""
        lines.append(f"training takes {step:.1f} samples/s, a worker reads {one:.1f}: num_workers={need}{more}")
    best = max(speeds, key=lambda row: row["samples/s"])
    lines.append(f"of 0 to {cores} workers {best['workers']} read most, {best['samples/s']:.1f} samples/s")
    return lines


def advice_on_videos(dataset: VideoDataset, parts: Rows, count: int = 8) -> list[str]:
    """Say what copies of the videos would be read faster, from the first of them."""
    films = [VideoFile(path) for path in dataset.file_names[:count] if not os.path.isdir(path)]
    if not films:
        return []
    lines, copies = [], "tools/reencode_videos.py LIST OUT"
    decoding = next((float(row["share"].split()[0]) for row in parts if row["part"] == "seek and decode"), 0.0)
    gap = float(np.median([film.num_frames / max(len(film._scan.keys), 1) for film in films]))
    slow = [film.why_in_sequence for film in films if film.why_in_sequence]
    side = float(np.median([min(film.size) for film in films]))
    if slow:
        lines.append(f"{len(slow)} of {len(films)} videos are decoded from the start ({slow[0]}): {copies}")
    elif gap > 24 and decoding > 40:
        lines.append(f"{decoding:.0f} % is decoding, with a key frame every {gap:.0f} frames: {copies} --gop 12")
    if side > 1.5 * 256:
        lines.append(f"short side {side:.0f} px: {copies} --short-side 256, or short_side=256 in the data set")
    return lines
