"""Process many videos in parallel with a progress bar."""

import multiprocessing
import signal
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from typing import Any, TypeVar

import torch
from tqdm import tqdm

Item = TypeVar("Item")
CRASHED = "the decoder crashed on this file"


def over_video(
    function: Callable[[Item], Any], items: Iterable[Item], workers: int, title: str
) -> Generator[tuple[Item, Any], None, None]:
    """Call `function` on each item, `workers` at a time.

    Args:
        function: a function that can be pickled; it should not raise for a bad video.
        items: what it is called on.
        workers: processes; 0 works in this one.
        title: of the progress bar, which a pipe does not get.

    Returns:
        (item, result) as they are done, result `None` for an item that crashed its process.
    """
    items = list(items)
    done = ((item, function(item)) for item in items) if workers == 0 else _in_processes(function, items, workers)
    with closing(done), tqdm(total=len(items), desc=title, unit="video", disable=None) as bar:
        for item, result in done:
            bar.update()
            yield item, result


def _in_processes(
    function: Callable[[Item], Any], items: list[Item], workers: int
) -> Generator[tuple[Item, Any], None, None]:
    unfinished: list[Item] = []
    with _stopping(_pool(workers)) as pool:
        futures = {pool.submit(function, item): item for item in items}
        for future in as_completed(futures):
            if isinstance(future.exception(), BrokenProcessPool):
                unfinished.append(futures[future])
            else:
                yield futures[future], future.result()
    for item in unfinished:  # one of these killed its worker, and the others with it: find out which
        with _stopping(_pool(1)) as pool:
            alone: Future = pool.submit(function, item)
            yield item, None if isinstance(alone.exception(), BrokenProcessPool) else alone.result()


@contextmanager
def _stopping(pool: ProcessPoolExecutor) -> Iterator[ProcessPoolExecutor]:
    """Close a pool; when the caller stops early (Ctrl-C, an error), at once instead of after all items."""
    try:
        yield pool
    except BaseException:
        processes = list((getattr(pool, "_processes", None) or {}).values())
        pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.kill()
        raise
    pool.shutdown()


def _pool(workers: int) -> ProcessPoolExecutor:
    method = "fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(method)
    return ProcessPoolExecutor(workers, mp_context=context, initializer=_begin)


def _begin() -> None:
    """Set up a worker: one torch thread; Ctrl-C is for the main process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
