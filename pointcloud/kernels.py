"""Neighbor searches as Triton kernels: the functions of `neighbors`, index for index, for clouds on a CUDA device.

Triton compiles them when they are first used; nothing is compiled at installation. Distances are added in the order of
`neighbors.distances`, without fused multiplications, so that they are equal to the bit. With TRITON_INTERPRET=1 in the
environment the kernels run on the CPU, slowly, which is how they are tested where there is no GPU.
"""

import os
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
OPTIONS: dict[str, Any] = {} if INTERPRETED else {"enable_fp_fusion": False}
FAR = 2**63 - 1  # a key behind all others


@triton.jit
def farthest_kernel(
    planes, nearest, chosen, first, most, batch, size, channels: tl.constexpr, block: tl.constexpr
):  # fmt: skip
    """Choose the points of one cloud; `nearest` (B, P) holds each point's distance to those chosen so far."""
    cloud = tl.program_id(0)
    last = tl.load(first + cloud)
    rows = nearest + cloud * size
    tl.store(chosen + cloud * most, last)
    for step in range(1, most):
        best, best_at = -2.0, last * 0
        for start in range(0, size, block):
            at = start + tl.arange(0, block)
            there = at < size
            dist = tl.zeros((block,), tl.float32)
            for c in tl.static_range(channels):
                plane = planes + (c * batch + cloud) * size
                off = tl.load(plane + at, mask=there, other=0.0) - tl.load(plane + last)
                dist = dist + off * off
            near = tl.minimum(tl.load(rows + at, mask=there, other=-2.0), dist)
            tl.store(rows + at, near, mask=there)
            top = tl.max(near, axis=0)
            top_at = start + tl.argmax(near, axis=0)
            best_at = tl.where(top > best, top_at.to(tl.int64), best_at)  # the first maximum wins
            best = tl.maximum(top, best)
        last = best_at
        tl.store(chosen + cloud * most + step, last)


@triton.jit
def distance_tile(query, points, cloud, rows, at, queries, size, channels: tl.constexpr, norm: tl.constexpr):
    """Distances (R, P) between some queries and some points of a cloud, rows of (B, N, C)."""
    dist = tl.zeros((rows.shape[0], at.shape[0]), tl.float32)
    for c in tl.static_range(channels):
        own = tl.load(query + (cloud * queries + rows) * channels + c, mask=rows < queries, other=0.0)
        other = tl.load(points + (cloud * size + at) * channels + c, mask=at < size, other=0.0)
        off = own[:, None] - other[None, :]
        dist = dist + (off * off if norm == 2 else tl.abs(off))
    return dist


@triton.jit
def nearest_kernel(
    query, points, valid, keys_out, queries, size, k: tl.constexpr, kept: tl.constexpr, channels: tl.constexpr,
    norm: tl.constexpr, tile: tl.constexpr, block: tl.constexpr, far: tl.constexpr,
):  # fmt: skip
    """Keep the k smallest keys (distance, index) of some queries of a cloud, in any order."""
    cloud = tl.program_id(0)
    rows = tl.program_id(1) * tile + tl.arange(0, tile)
    slot = tl.arange(0, kept)[None, :].to(tl.int64)
    best = tl.zeros((tile, kept), tl.int64) + tl.where(slot < k, far - slot, -1 - slot)  # what is beyond k stays
    worst = tl.max(best, axis=1)
    for start in range(0, size, block):
        at = start + tl.arange(0, block)
        dist = distance_tile(query, points, cloud, rows, at, queries, size, channels, norm)
        real = tl.load(valid + cloud * size + at, mask=at < size, other=0) != 0
        dist = tl.where(real[None, :], dist, float("inf"))
        keys = (dist.to(tl.int32, bitcast=True).to(tl.int64) << 32) | at[None, :].to(tl.int64)
        keys = tl.where((at < size)[None, :], keys, far)
        least = tl.min(keys, axis=1)
        while tl.max((least < worst).to(tl.int32), axis=0) > 0:
            enters = (least < worst)[:, None]
            best = tl.where(enters & (best == worst[:, None]), least[:, None], best)
            keys = tl.where(keys == least[:, None], far, keys)
            worst = tl.max(best, axis=1)
            least = tl.min(keys, axis=1)
    out = keys_out + (cloud * queries + rows[:, None]) * k + slot
    tl.store(out, best, mask=(rows[:, None] < queries) & (slot < k))


@triton.jit
def ball_kernel(
    query, points, valid, found, squared, queries, size, k: tl.constexpr, channels: tl.constexpr,
    tile: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """Write the first k points inside the ball of some queries of a cloud."""
    cloud = tl.program_id(0)
    rows = tl.program_id(1) * tile + tl.arange(0, tile)
    count = tl.zeros((tile,), tl.int32)
    start = 0
    while (start < size) & (tl.min(tl.where(rows < queries, count, k), axis=0) < k):
        at = start + tl.arange(0, block)
        dist = distance_tile(query, points, cloud, rows, at, queries, size, channels, 2)
        real = tl.load(valid + cloud * size + at, mask=at < size, other=0) != 0
        inside = ((dist < squared) & real[None, :]).to(tl.int32)
        place = count[:, None] + tl.cumsum(inside, axis=1) - 1
        write = (inside > 0) & (place < k) & (rows[:, None] < queries)
        here = at[None, :].to(tl.int64) + tl.zeros((tile, block), tl.int64)
        tl.store(found + (cloud * queries + rows[:, None]) * k + place, here, mask=write)
        count += tl.sum(inside, axis=1)
        start += block


def sample_farthest(points: Tensor, counts: Tensor, most: int, valid: Tensor, first: Tensor, skip: Tensor) -> Tensor:
    """Return what `neighbors.sample_farthest` returns."""
    batch, size = valid.shape
    chosen = torch.full((batch, most), -1, dtype=torch.int64, device=points.device)
    if most == 0 or size == 0 or batch == 0:
        return chosen
    planes = points.masked_fill(~valid[..., None], 0).permute(2, 0, 1).contiguous()  # (C, B, P)
    nearest = torch.full((batch, size), float("inf"), device=points.device).masked_fill(~valid | skip, -1.0)
    block = 256 if INTERPRETED else min(4096, triton.next_power_of_2(size))
    warps = {} if INTERPRETED else {"num_warps": 8}
    farthest_kernel[(batch,)](
        planes, nearest, chosen, first.contiguous(), most, batch, size, len(planes), block, **OPTIONS, **warps
    )
    wanted = torch.arange(most, device=points.device)[None] < counts[:, None]
    return chosen.masked_fill(~wanted, -1)


def nearest_indices(query: Tensor, points: Tensor, k: int, valid: Tensor, norm: int) -> Tensor:
    """Return what `neighbors.nearest_indices` returns."""
    batch, queries, channels = query.shape
    keys = torch.empty(batch, queries, k, dtype=torch.int64, device=query.device)
    if keys.numel():
        kept, tile, block = max(2, triton.next_power_of_2(k)), 16, 64
        grid = (batch, triton.cdiv(queries, tile))
        nearest_kernel[grid](
            query.contiguous(), points.contiguous(), valid.to(torch.int8), keys, queries, points.shape[1], k, kept,
            channels, norm, tile, block, FAR, **OPTIONS,
        )  # fmt: skip
    return keys.sort(dim=-1).values.bitwise_and(0xFFFFFFFF)


def ball_indices(query: Tensor, points: Tensor, k: int, radius: float, valid: Tensor) -> Tensor:
    """Return what `neighbors.ball_indices` returns."""
    batch, queries, channels = query.shape
    found = torch.full((batch, queries, k), -1, dtype=torch.int64, device=query.device)
    if found.numel():
        tile, block = 16, 64
        grid = (batch, triton.cdiv(queries, tile))
        ball_kernel[grid](
            query.contiguous(), points.contiguous(), valid.to(torch.int8), found, radius * radius, queries,
            points.shape[1], k, channels, tile, block, **OPTIONS,
        )  # fmt: skip
    return found
