"""Group the points of a cloud by the voxels that they lie in."""

import numpy as np


def voxel_groups(coord: np.ndarray, size: float) -> tuple[np.ndarray, np.ndarray]:
    """Points sorted by voxel and the number of points in each voxel.

    Args:
        coord: (P, 3).
        size: edge of a voxel.

    Returns:
        Indices of the points (P,), voxel after voxel, and counts (V,).
    """
    keys = np.zeros(len(coord), np.int64)
    for axis in range(3):  # one at a time: three columns of int64 would be most of the memory of a large scan
        values = coord[:, axis]
        cells = np.floor((values - values.min()) / size).astype(np.int64)
        keys *= cells.max() + 1
        keys += cells
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    first = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
    return order, np.diff(first, append=len(keys))
