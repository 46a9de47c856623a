"""Orders of voxels along space-filling curves: Z-order and Hilbert curves, plain and with x and y exchanged.

Papers: Point Transformer V3 (arXiv 2312.10035); the Hilbert curve by J. Skilling, Programming the Hilbert curve (2004).
"""

import torch
from torch import Tensor

ORDERS = ("z", "z-trans", "hilbert", "hilbert-trans")
MAX_DEPTH = 16


def bit_depth(largest: int) -> int:
    """Return the bits of a coordinate.

    Raises:
        ValueError: more than 16.
    """
    depth = max(largest, 0).bit_length()
    if depth > MAX_DEPTH:
        raise ValueError(f"a cloud spans {largest + 1} voxels along an axis, at most {2**MAX_DEPTH}: use larger voxels")
    return depth


def encode(grid: Tensor, cloud: Tensor, depth: int, order: str) -> Tensor:
    """Return codes (N,) int64: cloud << 3 depth | place on the curve.

    Args:
        grid: (N, 3) integers from 0 to 2**depth - 1.
        cloud: (N,) number of each voxel's cloud.
        depth: bits of a coordinate.
        order: one of `ORDERS`.

    Raises:
        ValueError: another order.
    """
    if order not in ORDERS:
        raise ValueError(f"order {order!r}: choose {', '.join(ORDERS)}")
    x, y, z = grid.long().unbind(1)
    columns = torch.stack([y, x, z] if order.endswith("-trans") else [x, y, z], 1)
    places = torch.arange(depth - 1, -1, -1, device=grid.device)
    bits = (columns[:, :, None] >> places & 1).bool()  # (N, 3, depth), highest first
    flat = hilbert_bits(bits) if order.startswith("hilbert") else bits.transpose(1, 2).flatten(1)
    weights = 1 << torch.arange(3 * depth - 1, -1, -1, device=grid.device)
    return (cloud.long() << (3 * depth)) | (flat * weights).sum(1)


def hilbert_bits(bits: Tensor) -> Tensor:
    """Bits of coordinates (N, 3, d), highest first, to the bits of their place on the Hilbert curve (N, 3d)."""
    h = bits.clone()
    depth = h.shape[2]
    for b in range(depth):
        for axis in range(3):
            there = h[:, axis, b, None]
            first, own = h[:, 0, b + 1 :], h[:, axis, b + 1 :]
            h[:, 0, b + 1 :] = first ^ there
            exchanged = ~there & (h[:, 0, b + 1 :] ^ own)
            if axis:
                h[:, axis, b + 1 :] = own ^ exchanged
                h[:, 0, b + 1 :] = h[:, 0, b + 1 :] ^ exchanged
    gray = h.transpose(1, 2).flatten(1)  # (N, 3d)
    return (gray.long().cumsum(1) % 2).bool()
