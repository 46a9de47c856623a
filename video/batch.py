"""Process many videos in parallel with a progress bar."""

from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from typing import Any, TypeVar

from tqdm import tqdm

from xmodal.data.pools import process_pool

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
    with process_pool(workers) as pool:
        futures = {pool.submit(function, item): item for item in items}
        for future in as_completed(futures):
            if isinstance(future.exception(), BrokenProcessPool):
                unfinished.append(futures[future])
            else:
                yield futures[future], future.result()
    for item in unfinished:  # one of these killed its worker, and the others with it: find out which
        with process_pool(1) as pool:
            alone: Future = pool.submit(function, item)
            yield item, None if isinstance(alone.exception(), BrokenProcessPool) else alone.result()
