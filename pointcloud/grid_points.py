"""Clouds as Point Transformer V3 and its descendants take them: on a grid, one point of each voxel.

The rows are in the order of a 64-bit FNV hash of their voxels, as in the released code.
"""

from typing import Any

import numpy as np

from xmodal.registry import TRANSFORMS

PRIME, START = np.uint64(1099511628211), np.uint64(14695981039346656037)


def grid_of(coord: np.ndarray, size: float) -> np.ndarray:
    """Return the voxel (P, 3) int64 of each point, from 0."""
    cells = np.floor(coord / np.float64(size)).astype(np.int64)
    return cells - cells.min(0)


def fnv_hash(grid: np.ndarray) -> np.ndarray:
    """Return 64-bit FNV hashes (P,) of voxels (P, 3): multiplied first, then exclusive or."""
    found = np.full(len(grid), START, np.uint64)
    with np.errstate(over="ignore"):
        for column in grid.astype(np.uint64).T:
            found = (found * PRIME) ^ column
    return found


def voxel_numbers(grid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return each point's voxel number in the order of the hashes (P,), and the points in each voxel (V,)."""
    _, inverse, counts = np.unique(fnv_hash(grid), return_inverse=True, return_counts=True)
    return inverse.reshape(-1), counts


@TRANSFORMS.register_module(name="grid_sample")
class GridSample:
    """Keep one point of each voxel, drawn at random; adds `grid` (V, 3) and `inverse` (P,) to a cloud.

    Args:
        size: edge of a voxel, meters.
    """

    def __init__(self, size: float = 0.02):
        self.size = size

    def __call__(self, cloud: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """Sample every array whose rows are points."""
        grid = grid_of(cloud["coord"], self.size)
        inverse, counts = voxel_numbers(grid)
        first = np.cumsum(counts) - counts
        chosen = np.argsort(inverse, kind="stable")[first + rng.integers(0, counts)]
        rows = len(cloud["coord"])
        kept = {k: v[chosen] if isinstance(v, np.ndarray) and len(v) == rows else v for k, v in cloud.items()}
        return {**kept, "grid": grid[chosen], "inverse": inverse}
