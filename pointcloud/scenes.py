"""Predict whole scenes: cut them into parts that a network can hold and vote at every raw point."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from pointcloud.voxels import voxel_groups

PIECE = 1_000_000  # points at a time where all at once would need another copy
Network = Callable[[Tensor, Tensor | None, list[int]], Tensor]


def parts_of(coord: np.ndarray, voxel: float, most: int | None = None) -> Iterator[np.ndarray]:
    """Indices of parts with one point per voxel: part i takes point i mod count of each voxel.

    Without `most` there are as many parts as the fullest voxel has points, so that all are covered.
    """
    order, counts = voxel_groups(coord, voxel)
    start = np.concatenate([[0], counts.cumsum()[:-1]])
    for i in range(min(int(counts.max()), most or len(coord))):
        yield order[start + i % counts]


def crops_of(coord: np.ndarray, max_points: int) -> Iterator[np.ndarray]:
    """Indices of overlapping spheres of `max_points` points that together cover all points.

    Each is centered on the point with the lowest coverage; points near a center count as covered more.
    """
    if len(coord) <= max_points:
        yield np.arange(len(coord))
        return
    coverage = np.random.default_rng(len(coord)).random(len(coord)) * 1e-3
    missing = np.ones(len(coord), bool)
    while missing.any():
        center = coord[np.argmin(np.where(missing, coverage, np.inf))]
        gap = ((coord - center) ** 2).sum(1)
        index = np.argpartition(gap, max_points - 1)[:max_points]
        weight = (1 - gap[index] / max(gap[index].max(), 1e-9)) ** 2
        coverage[index] += weight
        missing[index] = False
        yield index


@torch.no_grad()
def vote(
    network: Network,
    coord: Tensor,
    feat: Tensor | None,
    num_classes: int,
    voxel: float,
    max_points: int,
    max_parts: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Sum the logits of all parts and crops at every raw point.

    Args:
        network: maps packed points, features and sizes to logits (n, K); points of every crop begin at the origin.
        coord: (P, 3), meters.
        feat: (P, C).
        num_classes: K.
        voxel: edge of the voxels that parts are cut by.
        max_points: most points of a crop.
        max_parts: most parts; a point that is in none of them gets the mean of its voxel. None covers every point, as
            the released evaluations do.
        progress: called with crops done and crops known so far.

    Returns:
        Logits (P, K) on the CPU.
    """
    points = coord.cpu().numpy()
    total = torch.zeros(len(points), num_classes)
    jobs = []
    for part in parts_of(points, voxel, max_parts):
        jobs += [part[crop] for crop in crops_of(points[part], max_points)]
    for number, job in enumerate(jobs, start=1):
        index = torch.from_numpy(job).to(coord.device)
        here = coord[index]
        logits = network(here - here.amin(0), None if feat is None else feat[index], [len(job)])
        total.index_add_(0, index.cpu(), logits.float().cpu())
        if progress is not None:
            progress(number, len(jobs))
    return total if max_parts is None else fill_voxels(total, points, voxel)


def fill_voxels(total: Tensor, points: np.ndarray, voxel: float) -> Tensor:
    """Give points without a vote (P, K) the mean of those of their voxel that have one; `total` is changed in place."""
    order, counts = voxel_groups(points, voxel)
    cell = torch.empty(len(order), dtype=torch.int64)
    cell[torch.from_numpy(order)] = torch.arange(len(counts)).repeat_interleave(torch.from_numpy(counts))
    sums, voters = total.new_zeros(len(counts), total.shape[1]), total.new_zeros(len(counts))
    pieces = [slice(i, i + PIECE) for i in range(0, len(total), PIECE)]
    voted = torch.cat([(total[piece] != 0).any(1) for piece in pieces])
    rows = voted.nonzero().flatten()
    sums.index_add_(0, cell[rows], total[rows])
    voters.index_add_(0, cell[rows], torch.ones(len(rows)))
    mean = sums / voters.clamp(min=1)[:, None]
    for piece in pieces:
        total[piece] = torch.where(voted[piece, None], total[piece], mean[cell[piece]])
    return total
