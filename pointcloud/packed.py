"""Packed clouds: all points of a batch one after the other (n, C), with the size of each cloud.

The segmentation network works on these, because its layers are per point or per pair of neighbors. A search looks at
each cloud by itself and returns packed indices.
"""

import itertools

import torch
from torch import Tensor

from pointcloud import ops


def starts_of(sizes: list[int]) -> list[int]:
    """Return the index of the first point of each cloud."""
    return [0, *itertools.accumulate(sizes[:-1])]


def sizes_of(padded: Tensor, lengths: Tensor | None) -> list[int]:
    """Return the number of points of each padded cloud (B, P, C)."""
    return [padded.shape[1]] * len(padded) if lengths is None else lengths.tolist()


def pack(padded: Tensor, lengths: list[int]) -> Tensor:
    """Padded clouds (B, P, C) to packed ones (n, C)."""
    return torch.cat([x[:n] for x, n in zip(padded, lengths, strict=True)])


def packed_knn(query: Tensor, points: Tensor, query_sizes: list[int], point_sizes: list[int], k: int) -> Tensor:
    """Packed indices (m, k) of each query's nearest points in its own cloud.

    Ascending, ties to the lower index; a cloud with fewer than k points is filled with its first point, as `pointops`
    does.

    Raises:
        ValueError: a cloud without points.
    """
    if min(point_sizes, default=1) < 1:
        raise ValueError(f"cannot search clouds without points: sizes {point_sizes}")
    found = []
    parts = zip(query.split(query_sizes), points.split(point_sizes), starts_of(point_sizes), strict=True)
    for one, two, start in parts:
        idx = ops.knn(one[None].detach(), two[None].detach(), k)[1][0]  # missing ones are 0: the first point
        found.append(idx + start)
    return torch.cat(found)


def packed_farthest(points: Tensor, sizes: list[int], counts: list[int]) -> Tensor:
    """Packed indices of `counts[b]` far points of each cloud, beginning with its first point."""
    padded = torch.nn.utils.rnn.pad_sequence(points.split(sizes), batch_first=True)
    found = ops.farthest_point_sample(padded, counts, sizes)  # (B, most)
    rows = zip(found, starts_of(sizes), counts, strict=True)
    return torch.cat([row[:count] + start for row, start, count in rows])


def scatter_softmax(scores: Tensor, index: Tensor, size: int) -> Tensor:
    """Softmax of scores (m, C) over the rows that share an index (m,) in 0..size-1."""
    where = index[:, None].expand_as(scores)
    top = scores.new_full((size, scores.shape[1]), float("-inf")).scatter_reduce(0, where, scores.detach(), "amax")
    weight = (scores - top.gather(0, where)).exp()
    return weight / scatter_sum(weight, index, size).gather(0, where)


def scatter_sum(values: Tensor, index: Tensor, size: int) -> Tensor:
    """Sums (size, C) of the rows (m, C) that share an index (m,)."""
    return values.new_zeros(size, values.shape[1]).index_add(0, index, values)


def cloud_mean(values: Tensor, sizes: list[int]) -> Tensor:
    """The mean of each cloud at each of its points (n, C)."""
    return torch.cat([x.mean(0, keepdim=True).expand(len(x), -1) for x in values.split(sizes)])
