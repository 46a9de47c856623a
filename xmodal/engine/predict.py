"""Predict single files with a trained model of images, clips or whatever else its config's test data read."""

import inspect
import os
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.device import get_device
from torch import Tensor

from xmodal.data.collate import collate
from xmodal.data.lists import write_lines
from xmodal.data.loader import build_dataset
from xmodal.data.trouble import words_of
from xmodal.engine.checkpoint import load_weights
from xmodal.engine.classes import name_of
from xmodal.engine.precision import autocast
from xmodal.engine.sizes import input_size, sized
from xmodal.preprocessor import PIXELS
from xmodal.registry import DATASETS, MODELS, build, resolve

READERS = 2  # threads that read files while the model computes


def dataset_of_files(cfg: dict[str, Any], files: Sequence[str], folder: Path) -> Any:
    """Build the config's test data set over the given files.

    Args:
        cfg: config of a data set that takes `annotation`, a list of lines `path label`.
        files: paths.
        folder: where the list is written.

    Raises:
        ValueError: a data set that does not read lists.
    """
    kind = resolve(cfg["type"], DATASETS)
    takes = inspect.signature(kind).parameters
    if "annotation" not in takes:
        raise ValueError(f"{kind.__name__} takes no `annotation`, so it cannot be pointed at single files")
    listing = folder / "files.txt"
    write_lines(listing, ((str(Path(file).absolute()), 0) for file in files))
    given = {"root": None, "format": "list", "classes": None, "test_mode": True, "max_broken": 1.0}
    return build_dataset({**cfg, "annotation": str(listing), **{k: v for k, v in given.items() if k in takes}})


class Predictor:
    """A trained model and its test data's way of reading files. Built once, called from any thread.

    Args:
        cfg: from `prepare`.
        checkpoint: `last.pth` or `best.pth` of a run of this config.
        amp: precision.
        readers: threads that read ahead while the model computes; 0 reads and computes in turn.

    Attributes:
        model: in evaluation mode, on the device.
        classes: names by label.
    """

    def __init__(self, cfg: Config, checkpoint: str | Path, amp: str | None = None, readers: int = READERS):
        self.cfg, self.amp, self.readers = cfg, amp, readers
        self.model = build(cfg.model, MODELS).to(get_device()).eval()
        self.classes: list[str] = list(load_weights(self.model, checkpoint).get("classes") or [])
        self.dataset = sized(dict(cfg.test_dataloader)["dataset"], input_size(self.model))
        self.batch_size = int(cfg.test_dataloader.get("batch_size", 1))
        self.lock = threading.Lock()  # modules keep what they pass on within a forward pass

    def stream(self, files: Sequence[str], top: int = 5, min_score: float | None = None) -> Iterator[dict[str, Any]]:
        """Classify files and yield a row for each, in order, as they are done.

        Args:
            files: paths.
            top: how many classes to name.
            min_score: leave classes with less out of `top`.

        Yields:
            `file` and either `label`, `name`, `score`, `top` (a list of label, name, score) and `scores` (all K), or
            `error`.
        """
        for file, item in self.batched(files, self.scores):
            row = {"file": file, **(described(item, self.classes, top) if isinstance(item, Tensor) else item)}
            if min_score is not None and "top" in row:
                row["top"] = [entry for entry in row["top"] if entry["score"] >= min_score]
            yield row

    def stream_features(self, files: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Compute what the head is given and yield `file` and `feature` (D,), or `error`, of each file in order.

        Raises:
            ValueError: a model without such features.
        """
        if not hasattr(self.model, "features"):
            raise ValueError(f"{type(self.model).__name__} has no one feature of a file")
        for file, item in self.batched(files, self.feature):
            yield {"file": file, **({"feature": item} if isinstance(item, Tensor) else item)}

    def batched(self, files: Sequence[str], compute: Any) -> Iterator[tuple[str, Any]]:
        """Yield each file with its row of what `compute` makes of a batch, or with a dict that has its `error`."""
        for part in self.read(files):
            good = [item for _, item in part if "error" not in item]
            rows: list[Any] = []
            for _, alike in groupby(good, key=shapes_of):
                rows += self.computed(compute, list(alike))
            left = iter(rows)
            yield from ((file, item if "error" in item else next(left)) for file, item in part)

    def computed(self, compute: Any, items: list[dict[str, Any]]) -> list[Any]:
        """Compute a batch; when that fails, its samples one by one, so that one bad file costs no other its answer."""
        try:
            with self.lock, torch.no_grad(), autocast(next(self.model.parameters()).device, self.amp):
                return list(compute(collate(items)))
        except Exception as error:
            if os.environ.get("XMODAL_DEBUG"):
                raise
            if len(items) == 1:
                return [{"error": f"{type(error).__name__}: {words_of(error)}"}]
        return [self.computed(compute, [item])[0] for item in items]

    def scores(self, batch: dict[str, Any]) -> list[Tensor]:
        """Return the scores (K,) of each sample of a batch."""
        return [prediction["scores"] for prediction in self.model.test_step(batch)]

    def feature(self, batch: dict[str, Any]) -> Tensor:
        """Return the features (B, D) of a batch, the mean over a video's views."""
        inputs = self.model.data_preprocessor(batch)
        pixels = {key: inputs[key] for key in PIXELS if key in inputs}
        count = len(next(iter(pixels.values())))
        return self.model.features(**pixels).unflatten(0, (count, -1)).mean(1).float().cpu()

    def read(self, files: Sequence[str]) -> Iterator[list[tuple[str, dict[str, Any]]]]:
        """Yield batches of files and what was read of them; the next ones are read meanwhile."""
        there = [os.path.exists(file) for file in files]
        present = [file for file, is_there in zip(files, there, strict=True) if is_there]
        with tempfile.TemporaryDirectory() as folder:
            dataset = dataset_of_files(self.dataset, present, Path(folder)) if present else []
        numbers = iter(range(len(present)))
        jobs = [(file, next(numbers) if is_there else None) for file, is_there in zip(files, there, strict=True)]

        def read_one(job: tuple[str, int | None]) -> dict[str, Any]:
            return {"error": f"no file at {job[0]}"} if job[1] is None else self.item(dataset, job[1])

        items = ahead(read_one, jobs, self.readers, 2 * self.batch_size)
        while part := list(islice(items, self.batch_size)):
            yield [(file, item) for (file, _), item in part]

    def item(self, dataset: Any, number: int) -> dict[str, Any]:
        """Read one sample; whatever goes wrong with it is its `error`."""
        try:
            item = dataset[number]
        except Exception as error:
            if os.environ.get("XMODAL_DEBUG"):
                raise
            return {"error": f"{type(error).__name__}: {words_of(error)}"}
        return {"error": item["reason"]} if "skipped" in item else item


def ahead(call: Callable[[Any], Any], jobs: Iterable[Any], threads: int, most: int) -> Iterator[tuple[Any, Any]]:
    """Yield (job, result) in order while the next jobs are done in threads.

    Args:
        call: makes a result of a job; any thread may call it.
        jobs: what it is called with.
        threads: how many; 0 calls it when its result is asked for.
        most: results that may wait.
    """
    if not threads:
        yield from ((job, call(job)) for job in jobs)
        return
    pool, waiting = ThreadPoolExecutor(threads, thread_name_prefix="ahead"), deque[tuple[Any, Future]]()
    try:
        for job in jobs:
            waiting.append((job, pool.submit(call, job)))
            if len(waiting) > most:
                job, result = waiting.popleft()
                yield job, result.result()
        yield from ((job, result.result()) for job, result in waiting)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def shapes_of(item: dict[str, Any]) -> list[tuple[str, Any]]:
    """Return the shapes of a sample's tensors: samples of one batch have the same."""
    return [(key, tuple(value.shape)) for key, value in item.items() if isinstance(value, Tensor)]


def described(scores: torch.Tensor, names: Sequence[str], top: int) -> dict[str, Any]:
    """Return scores (K,) as JSON values, the best classes by name; an `error` where they are not finite."""
    scores = scores.float().cpu()
    if not bool(torch.isfinite(scores).all()):
        return {"error": "the scores are not finite: predict in float32 (without --amp)"}
    values, labels = scores.topk(min(top, len(scores)))
    best = [
        {"label": y, "name": name_of(y, names), "score": round(v, 6)}
        for y, v in zip(labels.tolist(), values.tolist(), strict=True)
    ]
    return {**best[0], "top": best, "scores": [round(v, 6) for v in scores.tolist()]}
