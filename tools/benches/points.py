"""Farthest points, nearest neighbors and balls against the number of points, on every backend that is here.

`python tools/bench.py farthest-points knn ball-query` times them; `python -m tools.benches.points` measures the peak
memory of 50,000-point scenes, each operation in a separate process.
"""

import argparse
import functools
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import torch

from pointcloud import neighbors, ops
from tools.benches.measure import Variant, Wanted, process_cost

SIZES = (1024, 4096, 16384, 50_000)
FARTHEST = {16384: 1024, 50_000: 2048, 200_000: 4096}
WANTED = {
    "farthest_points": [
        Wanted("time", f"{count} points, buckets", f"{count} points, plain loop", 1 / 8)
        for count in ("2,048 of 50,000", "4,096 of 200,000")
    ]
}


@functools.lru_cache
def scene(count: int) -> torch.Tensor:
    """Points (1, P, 3) on surfaces: a floor of 6 x 6 m and four walls of 2.5 m."""
    random = torch.Generator().manual_seed(0)
    place = torch.rand(count, 3, generator=random) * torch.tensor([6.0, 6.0, 2.5])
    face = torch.randint(5, (count,), generator=random)
    for number, (axis, value) in enumerate(((2, 0.0), (0, 0.0), (0, 6.0), (1, 0.0), (1, 6.0))):
        place[face == number, axis] = value
    return place[None]


OPERATIONS: dict[str, Callable[[torch.Tensor, str], Any]] = {
    "farthest-points": lambda x, backend: ops.farthest_point_sample(x, min(2048, x.shape[1] // 4), backend=backend),
    "knn": lambda x, backend: ops.knn(x, x, 16, backend=backend),
    "ball-query": lambda x, backend: ops.ball_query(x, x, 0.2, 32, backend=backend),
}
NOTES = {"farthest-points": "K = P/4, at most 2048", "knn": "P x P, K = 16", "ball-query": "P x P, 0.2 m, K = 32"}


def variants(operation: str) -> list[Variant]:
    """All sizes on all backends."""
    backends = [name for name, reason in ops.available_backends().items() if not reason]
    run = OPERATIONS[operation]
    return [
        Variant(
            f"{size:6,} points, {backend} ({NOTES[operation]})",
            functools.partial(lambda x, chosen: run(x, chosen), chosen=backend),
            functools.partial(scene, size),
        )
        for size in SIZES
        for backend in backends
    ]


def farthest_points(args: argparse.Namespace) -> list[Variant]:
    """The plain loop, buckets (the same indices), and pytorch3d where it is."""
    ways = {"plain loop": (float("inf"), "torch"), "buckets": (0, "torch"), "pytorch3d": (float("inf"), "pytorch3d")}
    absent = {"buckets": neighbors.load_buckets() is None, "pytorch3d": bool(ops.available_backends()["pytorch3d"])}

    def run(x: torch.Tensor, way: str) -> torch.Tensor:
        least, backend = ways[way]
        before, neighbors.BUCKETS_FROM = neighbors.BUCKETS_FROM, least  # type: ignore[assignment]
        try:
            return ops.farthest_point_sample(x, FARTHEST[x.shape[1]], backend=backend)
        finally:
            neighbors.BUCKETS_FROM = before

    for size in FARTHEST:
        if not absent["buckets"] and not run(scene(size), "buckets").equal(run(scene(size), "plain loop")):
            raise ValueError("the two ways choose other points")
    return [
        Variant(
            f"{count:,} of {size:,} points, {way}",
            functools.partial(run, way=way),
            functools.partial(scene, size),
        )
        for size, count in FARTHEST.items()
        for way in ways
        if not absent.get(way)
    ]


def knn(args: argparse.Namespace) -> list[Variant]:
    return variants("knn")


def ball_query(args: argparse.Namespace) -> list[Variant]:
    return variants("ball-query")


def measure_one(operation: str, backend: str, count: int) -> tuple[float, float]:
    """Run one operation on one scene: seconds and megabytes."""
    torch.set_num_threads(1)
    small = scene(1024)
    OPERATIONS[operation](small, backend)  # imports
    x = scene(count)
    return process_cost(lambda: OPERATIONS[operation](x, backend))


def main() -> None:
    """Print peak memory, an operation and a backend at a time; or do one of them."""
    if len(sys.argv) == 4:
        print(*measure_one(sys.argv[1], sys.argv[2], int(sys.argv[3])))
        return
    print("one scene, CPU seconds of one thread, growth of the process's peak memory; least of three runs each")
    for operation in OPERATIONS:
        for backend, reason in ops.available_backends().items():
            if reason:
                print(f"{operation:16} {backend:10} {reason}")
                continue
            words = [sys.executable, "-m", "tools.benches.points", operation, backend, str(SIZES[-1])]
            runs = [subprocess.run(words, capture_output=True, text=True, check=True).stdout.split() for _ in range(3)]
            seconds, memory = (min(float(run[i]) for run in runs) for i in (0, 1))
            found = f"{seconds:6.2f} s  {memory:5.0f} MB  ({NOTES[operation]})"
            print(f"{operation:16} {backend:10} {SIZES[-1]:,} points  {found}", flush=True)


if __name__ == "__main__":
    main()
