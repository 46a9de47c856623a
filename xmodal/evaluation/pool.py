"""Cells of a few-shot grid in several processes, each with a grid of its own; features are shared through the cache."""

import logging
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import torch

from xmodal.evaluation.grid import Cell, Grid

GRIDS: list[Grid] = []  # of this worker: one


def start(make: Callable[[], Grid], threads: int) -> None:
    """Prepare a worker."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(threads)
    GRIDS[:] = [make()]


def run_cell(cell: Cell) -> None:
    """Run one cell; its result lies in the output folder afterwards."""
    GRIDS[0].cell(*cell)


def run_in_processes(make: Callable[[], Grid], cells: Sequence[Cell], workers: int) -> None:
    """Run cells, those with most shots first.

    Args:
        make: builds the grid; goes to the workers, so it must be importable there (a `functools.partial` will do).
        cells: of `Grid.cells`.
        workers: processes; the CPU's threads are shared among them.
    """
    ordered = sorted(cells, key=lambda cell: -cell[1])
    threads = max(1, (os.cpu_count() or 1) // workers)
    given: dict[str, Any] = dict(mp_context=get_context("spawn"), initializer=start, initargs=(make, threads))
    with ProcessPoolExecutor(min(workers, len(ordered)), **given) as pool:
        for future in [pool.submit(run_cell, cell) for cell in ordered]:
            future.result()
