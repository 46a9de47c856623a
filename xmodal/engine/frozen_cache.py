"""Cache the activations of the frozen part of a model on disk, so that they are computed once.

Kept are the activations at the border between frozen and trained parts, per sample and augmentation view, in
memory-mapped shards. The folder's name is a hash of everything they depend on (weights, preprocessing, sampling, the
files themselves), so stale entries are never read. No reference code of the field has this.
"""

import hashlib
import json
import logging
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dist import barrier
from mmengine.logging import print_log
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from xmodal.atomic import replacing, write_text
from xmodal.data import stores
from xmodal.data.broken import renumbered
from xmodal.data.collate import collate
from xmodal.encoders.frozen import fingerprint
from xmodal.engine.checkpoint import bare
from xmodal.engine.claims import share_out
from xmodal.engine.config import flatten
from xmodal.engine.logs import counted
from xmodal.engine.sizes import check_input, dataset_for, input_size, sized
from xmodal.model import CACHED
from xmodal.registry import check_arguments
from xmodal.structures import Grid

DTYPES = {"float16": np.float16, "float32": np.float32, "int8": np.int8}
SCALE = "#scale"
NOT_SEEN = ("training", "recompute", "call_super_init", "dump_patches")  # change nothing in what is cached


class FrozenCache:
    """Cache of the activations that enter the first trained part of a model, for every sample of a data set.

    Args:
        model: a `TransferModel`, on the device that computes.
        dataset: items by (epoch, index); view v of a sample is its item in epoch v.
        root: folder of all caches.
        views: augmentation views kept of each sample; epoch e of a cached run reads view e % views.
        dtype: `float16`, `float32`, or `int8` (one scale per token).
        shard: samples in a shard.
        max_gb: refuse to fill more than this.
        batch: samples computed at once.
        workers: processes that read samples.
        config: how the data set was made; part of the hash.

    Raises:
        ValueError: an unknown dtype, a model without a frozen part (clouds, contrastive, prompted, dense), or
            nothing in front of the trained parts.
    """

    def __init__(
        self,
        model: Any,
        dataset: Any,
        root: str | Path = "work_dirs/cache",
        views: int = 1,
        dtype: str = "float16",
        shard: int = 64,
        max_gb: float = 100.0,
        batch: int = 8,
        workers: int = 0,
        config: Any = None,
    ):
        if dtype not in DTYPES:
            raise ValueError(f"cache dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
        if views < 1:
            raise ValueError(f"cache views must be at least 1, got {views}")
        if not hasattr(model, "frozen_part"):
            raise ValueError(f"{type(model).__name__} has no frozen part that can be cached: train without `cache`")
        self.model, self.dataset, self.views, self.dtype = model, dataset, views, dtype
        self.shard, self.max_gb, self.batch, self.workers = shard, max_gb, batch, workers
        self.folder = Path(root) / key_of(model, dataset, config, dtype, shard)
        self.error = 0.0  # largest relative error of what this process stored

    def shards(self) -> list[tuple[int, int]]:
        """Return all (view, shard number) pairs."""
        count = -(-len(self.dataset) // self.shard)
        return [(view, number) for view in range(self.views) for number in range(count)]

    def missing(self) -> list[tuple[int, int]]:
        """Return the pairs that are not written yet, or whose files are gone or damaged (which is logged)."""
        return [s for s in self.shards() if not self.whole(*s)]

    def whole(self, view: int, number: int) -> bool:
        """Return whether a shard is complete: its mark and arrays of the sizes that the mark says."""
        mark = self.mark(view, number)
        if not mark.exists():
            return False
        path = mark
        try:
            content = json.loads(mark.read_text())
            rows = sum("row" in sample for sample in content["samples"])
            for name in content["names"]:
                path = self.folder / f"v{view}.s{number:05d}.{name}.npy"
                if len(np.load(path, mmap_mode="r", allow_pickle=False)) != rows:
                    raise ValueError(f"not {rows} rows")
        except (OSError, ValueError, EOFError, KeyError, TypeError) as error:
            print_log(f"cache: {path} is damaged or gone ({error}): computed again", "current", logging.WARNING)
            mark.unlink(missing_ok=True)
            return False
        return True

    def mark(self, view: int, number: int) -> Path:
        """Return the path of the file that lists a shard's samples; written last, it marks the shard as complete."""
        return self.folder / f"v{view}.s{number:05d}.json"

    def compute(self, items: list[dict[str, Any]]) -> tuple[dict[str, np.ndarray], Grid | None]:
        """Compute activations (B, V, rows, ...) of items and their grid."""
        batch = self.model.data_preprocessor(collate(items), False)
        batch = {k: v for k, v in batch.items() if k not in ("label", "sample_id", "view", "skipped", "replaced")}
        views = batch["clips"].shape[1] if "clips" in batch else 1
        kept, grid = self.model.frozen_part(**batch)
        return {k: v.unflatten(0, (len(items), views, -1)).float().cpu().numpy() for k, v in kept.items()}, grid

    def megabytes(self) -> float:
        """Estimate the size of the missing shards from the first readable sample."""
        todo = len(self.missing()) * self.shard
        for index in range(len(self.dataset)):
            item = self.dataset[0, index]
            if "skipped" not in item:
                packed = [pack(value, self.dtype) for value in self.compute([item])[0].values()]
                one = sum(part.nbytes for pair in packed for part in pair if part is not None)
                return one * min(todo, len(self.dataset) * self.views) / 2**20
        raise ValueError("no sample of the data set can be read: there is nothing to cache")

    def check_space(self) -> float:
        """Return the megabytes that filling takes.

        Raises:
            ValueError: more than `max_gb`, or more than the disk has left.
        """
        size, root = self.megabytes(), self.folder.parent
        root.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(root).free / 2**20
        if size > self.max_gb * 1024:
            raise ValueError(
                f"the cache needs {size / 1024:.1f} GB, more than max_gb={self.max_gb:g}: fewer views, or int8"
            )
        if size > 0.95 * free:
            raise ValueError(f"the cache needs {size / 1024:.1f} GB, the disk of {root} has {free / 1024:.1f} GB left")
        return size

    def fill(self, rank: int = 0, world: int = 1) -> None:
        """Compute what is missing, together with all processes that do so; see `share_out`. A kill loses one shard."""
        jobs, todo = self.shards(), set(self.missing())
        if not todo:
            return
        print_log(
            f"cache {self.folder}: {len(todo)} shards to fill, about {self.check_space():.0f} MB", logger="current"
        )
        training = self.model.training
        self.model.eval()
        own = share_out(self.folder, jobs, lambda job: job not in todo or self.whole(*job), rank, world)
        for view, number in counted(own, "cache: shards", len(todo)):
            self.fill_shard(view, number)
        self.model.train(training)
        if self.dtype != "float32":
            print_log(f"cache: largest relative error of {self.dtype} {self.error:.1e}", logger="current")

    def fill_shard(self, view: int, number: int) -> None:
        """Compute one shard and write it, its mark last."""
        self.folder.mkdir(parents=True, exist_ok=True)
        rows: dict[str, list[np.ndarray]] = {}
        about: list[dict[str, Any]] = []
        grid, waiting, row = None, [], 0
        keys = [(view, i) for i in range(number * self.shard, min((number + 1) * self.shard, len(self.dataset)))]
        items = DataLoader(
            self.dataset, batch_size=None, sampler=keys, num_workers=self.workers, collate_fn=same,
            generator=torch.Generator(),  # torch's own stays as it is
        )  # fmt: skip
        for item in items:
            if "skipped" in item:
                about.append({"skipped": item["skipped"], "reason": item.get("reason", "")})
                continue
            about.append({"row": row, **plain(item)})
            row += 1
            waiting.append(item)
            if len(waiting) == self.batch:
                grid = self.store(waiting, rows)
                waiting = []
        if waiting:
            grid = self.store(waiting, rows)
        for name, values_ in rows.items():
            with replacing(self.folder / f"v{view}.s{number:05d}.{name}.npy") as file:
                np.save(file, np.concatenate(values_), allow_pickle=False)
        text = json.dumps({"samples": about, "names": list(rows), "grid": place_of(grid) if grid else None})
        write_text(self.mark(view, number), text)

    def store(self, items: list[dict[str, Any]], rows: dict[str, list[np.ndarray]]) -> Grid | None:
        """Compute some items and add what is to be written."""
        values, grid = self.compute(items)
        for name, value in values.items():
            stored, scale = pack(value, self.dtype)
            self.error = max(self.error, relative_error(value, unpack(stored, scale)))
            rows.setdefault(name, []).append(stored)
            if scale is not None:
                rows.setdefault(name + SCALE, []).append(scale)
        return grid

    def read(self) -> "CachedDataset":
        """Open the finished cache as a data set.

        Raises:
            ValueError: something is missing.
        """
        if missing := self.missing():
            raise ValueError(f"cache {self.folder}: {len(missing)} shards are missing; fill it first")
        return CachedDataset(self)


class CachedDataset(Dataset):
    """Data set of a finished cache with items `cached/<name>` (V, rows, ...) float, `grid`, `label`, `sample_id`."""

    def __init__(self, cache: FrozenCache):
        self.folder, self.shard, self.views = cache.folder, cache.shard, cache.views
        self.length = len(cache.dataset)
        self.classes = getattr(cache.dataset, "classes", None)
        self.samples, self.source = (
            getattr(cache.dataset, "samples", ()),
            str(getattr(cache.dataset, "source", "cache")),
        )
        self.labels = getattr(cache.dataset, "labels", None)
        self.multilabel = getattr(cache.dataset, "multilabel", False)
        self._numbers: list[int] | None = None  # of the classes, where training has others
        self._marks: dict[tuple[int, int], dict] = {}
        self._arrays: dict[tuple[int, int, str], np.ndarray] = {}

    def __len__(self) -> int:
        return self.length

    def __getstate__(self) -> dict[str, Any]:
        """Workers open the files themselves."""
        return {**self.__dict__, "_marks": {}, "_arrays": {}}

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        """The item of an index, or of (epoch, index): epochs go through the views in turn."""
        epoch, index = key if isinstance(key, tuple) else (0, key)
        place = (epoch % self.views, index // self.shard)
        if place not in self._marks:
            text = (self.folder / f"v{place[0]}.s{place[1]:05d}.json").read_text()
            self._marks[place] = json.loads(text)
        mark = self._marks[place]
        about = dict(mark["samples"][index % self.shard])
        if "skipped" in about:
            return about
        row = about.pop("row")
        for name in mark["names"]:
            if not name.endswith(SCALE):
                scale = self.array(place, name + SCALE)[row] if name + SCALE in mark["names"] else None
                about[CACHED + name] = torch.from_numpy(unpack(self.array(place, name)[row], scale))
        if isinstance(about.get("label"), list):  # of a multi-label set
            label = torch.tensor(about["label"])
            about["label"] = label if self._numbers is None else label.new_zeros(len(self.classes or ())).index_put(
                (torch.tensor(self._numbers),), label)  # fmt: skip
        elif self._numbers is not None and about.get("label", -1) >= 0:
            about["label"] = self._numbers[about["label"]]
        return {**about, "grid": Grid(**mark["grid"]) if mark["grid"] else None}

    def adopt_classes(self, names: Sequence[str]) -> None:
        """Number the classes as another set does, by their names.

        Raises:
            ValueError: a class that is not among the names.
        """
        if self.classes is not None:
            self._numbers = renumbered(self.classes, names, self.source)
            self.labels = None if self.labels is None else [renamed(y, self._numbers) for y in self.labels]
            self.classes = list(names)

    def array(self, place: tuple[int, int], name: str) -> np.ndarray:
        """Open a shard memory-mapped."""
        where = (*place, name)
        if where not in self._arrays:
            path = self.folder / f"v{place[0]}.s{place[1]:05d}.{name}.npy"
            try:
                self._arrays[where] = np.load(path, mmap_mode="r", allow_pickle=False)
            except ValueError as error:
                raise ValueError(f"{path} is damaged ({error}): start again, and it is computed again") from error
        return self._arrays[where]


def renamed(label: Any, numbers: Sequence[int]) -> Any:
    """Return a label, or the labels of a multi-label sample, by other numbers of the classes; -1 stays."""
    if isinstance(label, tuple):
        return tuple(sorted(numbers[y] for y in label))
    return numbers[label] if label >= 0 else label


def place_of(grid: Grid) -> dict[str, int]:
    """Return the sizes of a grid, without the maps that a tower's blocks need."""
    return {name: value for name, value in vars(grid).items() if name != "maps"}


def pack(value: np.ndarray, dtype: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Store a float array; int8 has one scale for each vector of the last axis."""
    if dtype != "int8":
        return value.astype(DTYPES[dtype]), None
    scale = np.maximum(np.abs(value).max(-1, keepdims=True), 1e-12).astype(np.float32) / 127
    return np.round(value / scale).astype(np.int8), scale


def unpack(stored: np.ndarray, scale: np.ndarray | None) -> np.ndarray:
    """Restore the float array: float32 from int8, else the stored type."""
    return np.array(stored) if scale is None else stored.astype(np.float32) * scale


def relative_error(value: np.ndarray, back: np.ndarray) -> float:
    """Return the largest absolute error divided by the largest absolute value."""
    return float(np.abs(value - back.astype(np.float32)).max() / max(float(np.abs(value).max()), 1e-12))


def same(item: Any) -> Any:
    """Return an item unchanged."""
    return item


def cache_of(model: Any, dataset: Any, cfg: Any, stage: str, options: dict[str, Any], seed: int) -> FrozenCache:
    """Return the cache of a config's data set; only that of training has several views."""
    views = options.get("views", 1) if stage == "train" else 1
    return FrozenCache(model, dataset, **{**options, "views": views, "config": [sized(cfg, input_size(model)), seed]})


def use_cache(runner: Any, options: dict[str, Any]) -> None:
    """Let a runner train and validate from caches; missing shards are computed first.

    Args:
        runner: built, not started.
        options: arguments of `FrozenCache`; `views` is of the training set.
    """
    check_arguments(FrozenCache, options)
    train = None
    for stage in ("train", "val"):
        loader = getattr(runner, f"_{stage}_dataloader", None)
        if not isinstance(loader, dict):
            continue
        dataset = dataset_for(runner.model, loader["dataset"], runner.seed)
        check_input(runner.model, dataset, stage, train)
        train = dataset if stage == "train" else train
        cache = cache_of(bare(runner.model), dataset, loader["dataset"], stage, options, runner.seed)
        cache.fill(runner.rank, runner.world_size)
        barrier()
        loader["dataset"] = cache.read()


def plain(item: dict[str, Any]) -> dict[str, Any]:
    """Return an item's label and sample_id as plain JSON values."""
    numbers = {k: v.tolist() if isinstance(v, Tensor | np.generic) else v for k, v in item.items() if k == "label"}
    return {**numbers, "sample_id": item.get("sample_id")}


def key_of(model: Any, dataset: Any, config: Any, dtype: str, shard: int) -> str:
    """Hash everything that the cached activations depend on."""
    frozen = nn.Module()
    frozen.parts = nn.ModuleList([m for n, m in model.encoder.named_children() if n != "blocks"])
    boundary = model.boundary()
    frozen.blocks = nn.ModuleList(list(model.encoder.blocks)[:boundary])
    arrays = {k: v.detach().cpu().float().numpy() for k, v in model.encoder.named_parameters(recurse=False)}
    tokens = {k: hashlib.sha256(array.tobytes()).hexdigest() for k, array in arrays.items()}
    pixels = model.data_preprocessor
    parts = {
        "weights": [fingerprint(frozen), tokens],
        "tower": [repr(frozen), *sorted(plain_options(model.encoder))],
        "pixels": [pixels.mean.tolist(), pixels.std.tolist()],
        "boundary": boundary,
        "reader": [type(model.reader).__name__, model.reader.reads, model.reader.taps, model.reader.layers],
        "data": [f".{key}={value}" for key, value in flatten(config).items()],
        "files": [identity(s) for s in getattr(dataset, "samples", ())],
        "size": len(dataset),
        "store": [dtype, shard],
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def plain_options(encoder: nn.Module) -> Iterator[str]:
    """Yield the tower's options that its weights do not show: heads, sizes, pooling."""
    for key, value in vars(encoder).items():
        if isinstance(value, int | float | str | tuple) and not key.startswith("_") and key not in NOT_SEEN:
            yield f"{key}={value}"


def identity(sample: Any) -> list[Any]:
    """Return path, size and modification time of a sample's file, and its label."""
    path = getattr(sample, "path", None)
    if path is None or not stores.exists(path):
        return [str(sample)]
    size, state = stores.identity(path)[-2:]  # time of change, or checksum
    return [str(path), size, state, getattr(sample, "label", None)]
