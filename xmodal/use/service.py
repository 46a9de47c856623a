"""Answer files for many trained tasks on one encoder: read in threads, computed in batches of all callers."""

import json
import os
import queue
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from xmodal.data.collate import collate
from xmodal.data.trouble import words_of
from xmodal.engine.precision import autocast
from xmodal.engine.predict import described, shapes_of
from xmodal.export import FORMATS, plain_values
from xmodal.use.loaded import ENDINGS, Loaded, load
from xmodal.use.trunk import SharedTrunk, boundary_of, share_weights

WAIT = 0.005  # seconds that a batch waits for more files
MOST = 16  # files of a batch
LISTING = ("annotation", "root", "classes", "format", "max_broken", "seed", "test_mode", "hold_out", "held")
Rows = dict[str, dict[str, Any]]


class ServedTask(NamedTuple):
    """A trained model under a name.

    Args:
        name: in requests and answers.
        model: loaded.
        formats: endings of the exported graphs that lie beside its checkpoint.
    """

    name: str
    model: Loaded
    formats: list[str]


class Job(NamedTuple):
    """One file that was read, for some tasks of a group.

    Args:
        item: from the group's data set.
        tasks: numbers in the group.
        future: gets a row a task.
    """

    item: dict[str, Any]
    tasks: list[int]
    future: Future


class Group:
    """Tasks whose files are read in the same way, and of which one batch answers all.

    Args:
        tasks: of one kind of files; with several, of one encoder.
    """

    def __init__(self, tasks: Sequence[ServedTask]):
        self.tasks = list(tasks)
        self.reader = self.tasks[0].model.predictor
        self.kind = self.tasks[0].model.kind
        models = [task.model.model for task in tasks]
        self.trunk = SharedTrunk(models) if len(models) > 1 or boundary_of(models[0]) is not None else None

    def read(self, path: str) -> dict[str, Any]:
        """Read a file; its `error` where that fails."""
        if self.kind == "cloud":
            return self.reader.read(path)
        (((_, item),),) = self.reader.read([path])
        return item

    def compute(self, jobs: Sequence[Job]) -> list[Rows]:
        """Answer files of one shape for the tasks that any of them asks for; each gets what it asked for."""
        if self.kind == "cloud":
            return [{self.tasks[0].name: self.cloud(job.item)} for job in jobs]
        wanted = sorted({i for job in jobs for i in job.tasks})
        device = next(self.reader.model.parameters()).device
        with torch.no_grad(), autocast(device, self.reader.amp):
            batch = collate([job.item for job in jobs])
            found: dict[int, Sequence[Tensor]] = {}
            if self.trunk is not None:
                found = {i: list(scores) for i, scores in self.trunk.scores(batch, wanted).items()}
            else:
                found = {0: self.reader.scores(batch)}
        rows: list[Rows] = []
        for number, job in enumerate(jobs):
            rows.append({self.tasks[i].name: self.row(i, found[i][number]) for i in job.tasks})
        return rows

    def row(self, number: int, scores: Tensor) -> dict[str, Any]:
        """Return the row of one task."""
        return described(scores, self.tasks[number].model.classes, 5)

    def cloud(self, item: dict[str, Any]) -> dict[str, Any]:
        """Answer one cloud."""
        row = self.reader.answer(item["file"], item, None, None, None, False)
        row.pop("file")
        return row


class Service:
    """Many tasks, one queue.

    Args:
        runs: checkpoints or work directories; `name=run` gives a task another name.
        amp: precision.
        readers: threads that read files.

    Attributes:
        tasks: by name.
        saved: bytes of weights that are not held twice.
        counts: of files, batches and seconds, for metrics.

    Raises:
        ValueError: a run that cannot be loaded, or two tasks of one name.
    """

    def __init__(self, runs: Sequence[str], amp: str | None = None, readers: int = 2):
        self.tasks: dict[str, ServedTask] = {}
        for run in runs:
            task = make_task(run, amp)
            if task.name in self.tasks:
                raise ValueError(f"two tasks are called {task.name!r}: write other-name={run}")
            self.tasks[task.name] = task
        self.saved = share_weights(task.model.model for task in self.tasks.values())
        self.groups = [Group(tasks) for tasks in grouped(list(self.tasks.values()))]
        self.counts: Counter[str] = Counter()
        self.waiting: queue.Queue[tuple[Group, Job] | None] = queue.Queue()
        self.pool = ThreadPoolExecutor(readers, thread_name_prefix="read")
        self.thread = threading.Thread(target=self.work, name="compute", daemon=True)
        self.thread.start()

    def kinds(self, names: Sequence[str] | None = None) -> list[str]:
        """Return the kinds of files that tasks read."""
        return sorted({task.model.kind for name, task in self.tasks.items() if names is None or name in names})

    def groups_for(self, ending: str, names: Sequence[str] | None = None) -> list[tuple[Group, list[int]]]:
        """Return the groups that read files of an ending, each with the numbers of the tasks that are wanted.

        Raises:
            ValueError: an unknown task, or an ending that none of them reads.
        """
        unknown = [name for name in names or () if name not in self.tasks]
        if unknown:
            raise ValueError(f"no task is called {unknown[0]!r}; there are {', '.join(self.tasks)}")
        found = []
        for group in self.groups:
            numbers = [i for i, task in enumerate(group.tasks) if names is None or task.name in names]
            if numbers and ending.lower() in ENDINGS[group.kind]:
                found.append((group, numbers))
        if not found:
            raise ValueError(f"files that end in {ending or 'nothing'} are not read; the tasks read "
                             f"{' and '.join(f'{kind}s' for kind in self.kinds(names))}")  # fmt: skip
        return found

    def predict(self, path: str | Path, names: Sequence[str] | None = None) -> list[Future]:
        """Answer a file; returns a future a group, whose result is a dict from task to row (with `error` where bad).

        Raises:
            ValueError: see `groups_for`.
        """
        found = []
        for group, numbers in self.groups_for(Path(path).suffix, names):
            future: Future = Future()
            self.pool.submit(self.read, group, numbers, str(path), future)
            found.append(future)
        return found

    def read(self, group: Group, numbers: list[int], path: str, future: Future) -> None:
        """Read a file and hand it on."""
        try:
            item = group.read(path)
        except Exception as error:
            item = {"error": words_of(error)}
        self.counts["files"] += 1
        if "error" in item:
            self.counts["bad_files"] += 1
            future.set_result({group.tasks[i].name: {"error": item["error"]} for i in numbers})
        else:
            self.waiting.put((group, Job(item, numbers, future)))

    def work(self) -> None:
        """Take what waits, a batch of one group and shape at a time, until the service is closed."""
        held: list[tuple[Group, Job]] = []
        while True:
            if not held:
                first = self.waiting.get()
                if first is None:
                    return
                held.append(first)
            end = time.monotonic() + WAIT
            while len(held) < MOST and (left := end - time.monotonic()) > 0:
                try:
                    more = self.waiting.get(timeout=left)
                except queue.Empty:
                    break
                if more is None:
                    return
                held.append(more)
            group, shape = held[0][0], shapes_of(held[0][1].item)
            alike = [pair[0] is group and shapes_of(pair[1].item) == shape for pair in held]
            now = [pair for pair, same in zip(held, alike, strict=True) if same]
            held = [pair for pair, same in zip(held, alike, strict=True) if not same]
            self.answer(group, [job for _, job in now])

    def answer(self, group: Group, jobs: list[Job]) -> None:
        """Compute a batch; when that fails, its files one by one."""
        start = time.perf_counter()
        try:
            rows = group.compute(jobs)
        except Exception as error:
            if len(jobs) == 1:
                bad = {"error": f"cannot be computed: {type(error).__name__}"}
                jobs[0].future.set_result({group.tasks[i].name: bad for i in jobs[0].tasks})
            else:
                for job in jobs:
                    self.answer(group, [job])
            return
        self.counts["batches"] += 1
        self.counts["computed"] += len(jobs)
        self.counts["microseconds"] += round(1e6 * (time.perf_counter() - start))
        for job, row in zip(jobs, rows, strict=True):
            job.future.set_result(row)

    def close(self) -> None:
        """Stop."""
        self.pool.shutdown(wait=True, cancel_futures=True)
        self.waiting.put(None)
        self.thread.join()


def make_task(run: str, amp: str | None) -> ServedTask:
    """Load a run as a task; its name is that of the run's config, or what stands in front of `=`."""
    name, equals, source = run.partition("=")
    if not equals or os.path.exists(run):
        name, source = "", run
    model = load(source, amp=amp)
    folder = Path(model.checkpoint).parent
    name = name or (Path(model.config.filename or "").stem if folder.name in ("", ".") else folder.name)
    return ServedTask(name, model, sorted({p.suffix for p in folder.iterdir() if p.suffix in FORMATS}))


def grouped(tasks: Sequence[ServedTask]) -> list[list[ServedTask]]:
    """Put tasks together that read pixels alike with one encoder; clouds and other models stay by themselves."""
    found: dict[Any, list[ServedTask]] = {}
    for task in tasks:
        module, predictor = task.model.model, task.model.predictor
        key: Any = task.name
        if task.model.kind != "cloud" and hasattr(module, "reader") and hasattr(module, "frozen_fingerprint"):
            read = {k: v for k, v in plain_values(dict(predictor.dataset)).items() if k not in LISTING}
            tower: Any = module
            step = getattr(tower.reader, "frame_step", 1)
            key = json.dumps([tower.frozen_fingerprint(), read, step, tower.trunk_dtype], sort_keys=True)
        found.setdefault(key, []).append(task)
    return list(found.values())
