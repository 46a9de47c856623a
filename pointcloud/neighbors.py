"""Neighbor searches in plain torch: exact, batched, any device, in bounded memory.

All of them take padded clouds (B, P, C) with lengths (B,): rows at and behind a cloud's length are never looked at.
"""

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

# Largest table of distances held at once, in elements: about 200 MB with its sort keys.
CHUNK_ELEMENTS = 2**23
# Searches larger than this many distances on the CPU go through a k-d tree (same answers).
TREE_FROM = 2**18
TREE_BALL_FROM = 2**22
# Farthest points on the CPU of more distances than this go through buckets where numba is installed (same answers).
BUCKETS_FROM = 2**22


def valid_rows(lengths: Tensor | None, batch: int, size: int, device: torch.device) -> Tensor:
    """Mask (B, size) of the rows below each length; all of them when `lengths` is None."""
    if lengths is None:
        return torch.ones(batch, size, dtype=torch.bool, device=device)
    return torch.arange(size, device=device)[None] < lengths.to(device, non_blocking=True)[:, None]


def distances(a: Tensor, b: Tensor, norm: int = 2) -> Tensor:
    """Squared (norm 2) or absolute (norm 1) distances (B, Q, P) between a (B, Q, C) and b (B, P, C).

    Channels are added in order, so that equal points have equal distances to anything.
    """
    total = None
    for c in range(a.shape[-1]):
        off = a[:, :, None, c] - b[:, None, :, c]  # (B, Q, P)
        part = off * off if norm == 2 else off.abs()
        total = part if total is None else total + part
    return a.new_zeros(a.shape[0], a.shape[1], b.shape[1]) if total is None else total


def pair_distances(a: Tensor, b: Tensor, norm: int = 2) -> Tensor:
    """Distances (...) of corresponding points of a and b (..., C), added in the order of `distances`."""
    off = a - b
    parts = off * off if norm == 2 else off.abs()
    total = parts[..., 0]
    for c in range(1, parts.shape[-1]):
        total = total + parts[..., c]
    return total


def smallest(dist: Tensor, k: int) -> Tensor:
    """Indices (..., k) of the k smallest entries, ascending, ties to the lower index."""
    if dist.dtype == torch.float64:
        return dist.sort(dim=-1, stable=True).indices[..., :k]
    # Non-negative floats sort like their bit patterns: (bits, index) in one integer makes the order total.
    bits = dist.float().contiguous().view(torch.int32).to(torch.int64)
    keys = bits.bitwise_left_shift(32).bitwise_or(torch.arange(dist.shape[-1], device=dist.device))
    return keys.topk(k, dim=-1, largest=False, sorted=True).values.bitwise_and(0xFFFFFFFF)


def chunk_rows(batch: int, size: int) -> int:
    """Return the number of query rows that fit in one chunk."""
    return max(1, CHUNK_ELEMENTS // max(batch * size, 1))


def sample_farthest(points: Tensor, counts: Tensor, most: int, valid: Tensor, first: Tensor, skip: Tensor) -> Tensor:
    """Farthest points (B, most), -1 behind each count. `skip` marks points that are never chosen (but the first)."""
    batch, size = valid.shape
    chosen = torch.full((batch, most), -1, dtype=torch.int64, device=points.device)
    if most == 0 or size == 0:
        return chosen
    points = points.masked_fill(~valid[..., None], 0)
    if use_buckets(points, most):
        return bucket_farthest(points, counts, most, valid, first, skip)
    rows = torch.arange(batch, device=points.device)
    planes = points.permute(2, 0, 1).contiguous()  # (C, B, P)
    nearest = torch.full((batch, size), float("inf"), dtype=points.dtype, device=points.device)
    nearest = nearest.masked_fill(~valid | skip, -1.0)
    dist, off = torch.empty_like(nearest), torch.empty_like(nearest)
    last = chosen[:, 0] = first
    for step in range(1, most):
        place = points[rows, last]  # (B, C)
        for c, plane in enumerate(planes):  # the order of `pair_distances`, in place
            torch.sub(plane, place[:, c : c + 1], out=off if c else dist)
            dist = dist.add_(off.mul_(off)) if c else dist.mul_(dist)
        nearest = torch.minimum(nearest, dist, out=nearest)
        last = chosen[:, step] = nearest.argmax(dim=1)  # the first maximum wins
    wanted = torch.arange(most, device=points.device)[None] < counts[:, None]
    return chosen.masked_fill(~wanted, -1)


@lru_cache(maxsize=1)
def load_buckets() -> Any:
    """Return the bucket algorithm, or None without numba (`pip install xmodal[points]`)."""
    try:
        from pointcloud import farthest
    except ImportError:
        return None
    return farthest.farthest


def use_buckets(points: Tensor, most: int) -> bool:
    """Return whether farthest points of clouds (B, P, C) are sought in buckets: large finite clouds on the CPU."""
    large = points.shape[1] * most >= BUCKETS_FROM and points.dtype in (torch.float32, torch.float64)
    if not large or points.device.type != "cpu" or torch.compiler.is_compiling() or type(points) is not Tensor:
        return False
    return load_buckets() is not None and bool(points.isfinite().all())


def bucket_farthest(points: Tensor, counts: Tensor, most: int, valid: Tensor, first: Tensor, skip: Tensor) -> Tensor:
    """The same indices as `sample_farthest`, see `pointcloud/farthest.py`."""
    chosen = torch.full((len(points), most), -1, dtype=torch.int64)
    for b, count in enumerate(counts.clamp(max=most).tolist()):
        rows = (valid[b] & ~skip[b]).nonzero()[:, 0]
        if count and len(rows):
            found = load_buckets()(points[b].numpy(), rows.numpy(), int(first[b]), count)
            chosen[b, :count] = torch.from_numpy(found)
        elif count:  # none to choose from: the first row, as the loop does
            chosen[b, :count] = 0
            chosen[b, 0] = first[b]
    return chosen


def nearest_indices(query: Tensor, points: Tensor, k: int, valid: Tensor, norm: int) -> Tensor:
    """Indices (B, Q, k) of the k nearest valid points, k <= P; invalid points come last."""
    if use_tree(query, points, norm, TREE_FROM):
        return tree_indices(query, points, k, valid)
    rows = chunk_rows(*points.shape[:2])
    parts = []
    for start in range(0, max(query.shape[1], 1), rows):
        dist = distances(query[:, start : start + rows], points, norm)
        parts.append(smallest(dist.masked_fill(~valid[:, None], float("inf")), k))
    return torch.cat(parts, dim=1)


def ball_indices(query: Tensor, points: Tensor, k: int, radius: float, valid: Tensor) -> Tensor:
    """The first k valid points (B, Q, k) in index order strictly within `radius`, -1 where there are fewer."""
    if use_tree(query, points, 2, TREE_BALL_FROM):
        return tree_ball(query, points, k, radius, valid)
    size = points.shape[1]
    index = torch.arange(size, device=points.device)
    rows = chunk_rows(*points.shape[:2])
    parts = []
    for start in range(0, max(query.shape[1], 1), rows):
        inside = (distances(query[:, start : start + rows], points) < radius * radius) & valid[:, None]
        keys = torch.where(inside, index, size)  # (B, q, P)
        parts.append(keys.topk(k, dim=-1, largest=False, sorted=True).values)
    found = torch.cat(parts, dim=1)
    return found.masked_fill(found == size, -1)


def use_tree(query: Tensor, points: Tensor, norm: int, start: int) -> bool:
    """Return whether a search on the CPU is large enough for a k-d tree."""
    small = query.numel() // max(query.shape[-1], 1) * points.shape[1] < start
    return not (
        small or torch.compiler.is_compiling() or norm != 2 or query.device.type != "cpu" or points.shape[-1] > 4
    )


def tree_indices(query: Tensor, points: Tensor, k: int, valid: Tensor) -> Tensor:
    """The same indices as `nearest_indices`, found with scipy's k-d tree.

    The tree proposes a few more candidates than needed; they are ranked by the very distances of `distances`. Rows in
    which a point outside the candidates could tie with the last one are searched again by brute force.
    """
    from scipy.spatial import cKDTree

    batch, size = points.shape[:2]
    found = torch.empty(batch, query.shape[1], k, dtype=torch.int64)
    for b in range(batch):
        count = int(valid[b].sum())
        take = min(k, count)
        wide = min(take + 8, count)
        tree = cKDTree(points[b, :count].double().numpy())
        reach, near = tree.query(query[b].double().numpy(), wide)
        near = torch.from_numpy(near.reshape(-1, wide)).sort(dim=1).values
        dist = pair_distances(query[b][:, None], points[b][near])  # (Q, wide)
        order = smallest(dist, take)
        found[b, :, :take] = near.gather(1, order)
        found[b, :, take:] = torch.arange(count, count + k - take)
        edge = dist.gather(1, order[:, -1:])[:, 0]
        unsure = torch.from_numpy(reach.reshape(-1, wide)[:, -1] ** 2) <= edge.double() * (1 + 1e-5)
        rows = unsure.nonzero()[:, 0] if wide < count else unsure.nonzero()[:0, 0]
        for part in rows.split(chunk_rows(1, size)):
            again = distances(query[b : b + 1, part], points[b : b + 1, :count])
            found[b, part, :take] = smallest(again, take)[0]
    return found


def tree_ball(query: Tensor, points: Tensor, k: int, radius: float, valid: Tensor) -> Tensor:
    """The same indices as `ball_indices`, with candidates from scipy's k-d tree, so many at once as fit in a chunk."""
    from scipy.spatial import cKDTree

    found = torch.full((*query.shape[:2], k), -1, dtype=torch.int64)
    reach = radius * (1 + 1e-5)  # the tree measures in float64; what is inside is decided by `pair_distances`
    for b in range(len(query)):
        tree = cKDTree(points[b, : int(valid[b].sum())].double().numpy())
        places = query[b].double().numpy()
        hits = torch.from_numpy(tree.query_ball_point(places, reach, return_length=True))
        for rows in split_by(hits, CHUNK_ELEMENTS // 4):
            lists = tree.query_ball_point(places[rows.numpy()], reach, return_sorted=True)
            near = torch.tensor([i for found_here in lists for i in found_here], dtype=torch.int64)
            row = rows.repeat_interleave(hits[rows])
            keep = pair_distances(query[b, row], points[b, near]) < radius * radius
            row, near = row[keep], near[keep]
            first = torch.searchsorted(row, row)  # where each query's hits begin
            rank = torch.arange(len(row)) - first
            keep = rank < k
            found[b, row[keep], rank[keep]] = near[keep]
    return found


def split_by(sizes: Tensor, room: int) -> list[Tensor]:
    """Cut indices 0..n-1 into runs whose sizes (n,) add up to about `room`: to less without the last of each run."""
    chunk = (sizes.cumsum(0) - sizes) // max(room, 1)
    return list(torch.arange(len(sizes)).split(chunk.unique_consecutive(return_counts=True)[1].tolist()))
