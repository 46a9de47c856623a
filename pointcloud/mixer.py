"""Layers of a PointMixer-style network on packed points: mixing within neighborhoods, between them, and transitions.

Paper: PointMixer (arXiv 2111.11187), as wired in the segmentation code of EPCL.
"""

import torch
from torch import Tensor, nn

from pointcloud.packed import cloud_mean, packed_farthest, packed_knn, scatter_softmax, scatter_sum
from pointcloud.pointwise import PointNorm


def linear_norm(in_dim: int, out_dim: int, bias: bool = False) -> nn.Sequential:
    """Linear, BatchNorm, ReLU on (..., C)."""
    return nn.Sequential(nn.Linear(in_dim, out_dim, bias=bias), PointNorm(out_dim), nn.ReLU(inplace=True))


def offset_mlp(dim: int) -> nn.Sequential:
    """Offsets (..., 3) to (..., C): Linear, BatchNorm, ReLU, Linear."""
    return nn.Sequential(nn.Linear(3, 3, bias=False), PointNorm(3), nn.ReLU(inplace=True), nn.Linear(3, dim))


class SelfProduct(nn.Bilinear):
    """The bilinear form of a vector with itself, as one matrix product with its outer product (3x faster here)."""

    def forward(self, u: Tensor) -> Tensor:  # type: ignore[override]
        """Map (..., K) to (..., K')."""
        outer = (u[..., :, None] * u[..., None, :]).flatten(-2)  # (..., K * K)
        return nn.functional.linear(outer, self.weight.flatten(1), self.bias)


class IntraSetMixer(nn.Module):
    """Mix each point's K neighbors with weights from their offsets and features.

    Args:
        dim: channels C.
        share: weights are shared by `share` groups of channels.
        k: neighbors K; must divide `dim`.

    Raises:
        ValueError: `k` or `share` does not divide `dim`.
    """

    def __init__(self, dim: int, share: int, k: int):
        super().__init__()
        if dim % k or dim % share:
            raise ValueError(f"{dim} channels must be a multiple of {k} neighbors and of share={share}")
        self.share = share
        self.score = nn.Linear(3 + dim, k)
        self.pair = SelfProduct(k, k, k)
        self.position = offset_mlp(dim)
        self.weight = nn.Sequential(
            nn.Linear(2 * k, dim, bias=False),
            PointNorm(dim),
            nn.ReLU(inplace=True),
            nn.Linear(dim, dim // share, bias=False),
            PointNorm(dim // share),
            nn.ReLU(inplace=True),
            nn.Linear(dim // share, dim // share),
        )
        self.value = nn.Linear(dim, dim)

    def forward(self, offset: Tensor, x: Tensor, idx: Tensor) -> Tensor:
        """Weighted values before they are summed.

        Args:
            offset: neighbor minus point (n, K, 3).
            x: features (n, C).
            idx: neighbors (n, K).

        Returns:
            (n, K, C); its sum over K is the mixed feature.
        """
        k = idx.shape[1]
        u = self.score(torch.cat([offset, x[idx]], dim=-1)).relu()  # (n, K, K)
        position = self.position(offset)  # (n, K, C)
        shrunk = position.unflatten(-1, (-1, k)).sum(-2)  # (n, K, K): channel c goes to bin c mod K
        weight = self.weight(torch.cat([self.pair(u), shrunk], dim=-1)).softmax(dim=1)  # (n, K, C/share)
        value = (self.value(x)[idx] + position).unflatten(-1, (self.share, -1))  # (n, K, share, C/share)
        return (value * weight[:, :, None]).flatten(2)


class InterSetMixer(nn.Module):
    """Hand the weighted values of all neighborhoods back to the points they came from."""

    def __init__(self, dim: int, share: int):
        super().__init__()
        self.share = share
        self.score = nn.Linear(2 * dim, dim // share)
        self.value = nn.Linear(dim, dim // share)
        self.position = offset_mlp(dim)

    def forward(self, offset: Tensor, pairs: Tensor, idx: Tensor) -> Tensor:
        """Map offsets (n, K, 3) and weighted values (n, K, C) to features (n, C)."""
        score = self.score(torch.cat([self.position(offset), pairs], dim=-1)).relu().flatten(0, 1)  # (n*K, C/share)
        index = idx.flatten()
        share = scatter_softmax(score, index, len(pairs))
        value = self.value(pairs).relu().flatten(0, 1)
        return pairs.sum(1) + scatter_sum(value * share, index, len(pairs)).repeat(1, self.share)


class MixerBlock(nn.Module):
    """A residual block: linear, mixing within and between neighborhoods, linear."""

    def __init__(self, dim: int, share: int, k: int):
        super().__init__()
        self.k = k
        self.linear1, self.bn1 = nn.Linear(dim, dim, bias=False), nn.BatchNorm1d(dim)
        self.intra, self.inter, self.bn2 = IntraSetMixer(dim, share, k), InterSetMixer(dim, share), nn.BatchNorm1d(dim)
        self.linear3, self.bn3 = nn.Linear(dim, dim, bias=False), nn.BatchNorm1d(dim)

    def forward(self, coord: Tensor, x: Tensor, idx: Tensor) -> Tensor:
        """Map features (n, C) of points (n, 3) with neighbors idx (n, K) to (n, C)."""
        offset = coord[idx] - coord[:, None]
        y = self.bn1(self.linear1(x)).relu()
        y = self.bn2(self.inter(offset, self.intra(offset, y, idx), idx)).relu()
        return (self.bn3(self.linear3(y)) + x).relu()


class Down(nn.Module):
    """Keep one point in `stride`, each gathering from its neighbors; with stride 1 only a linear layer.

    Args:
        in_dim: channels before.
        out_dim: channels after.
        stride: points per kept point.
        k: neighbors gathered from.
        equal: every cloud keeps as many points as the one that keeps fewest.
    """

    def __init__(self, in_dim: int, out_dim: int, stride: int, k: int, equal: bool = False):
        super().__init__()
        self.stride, self.k, self.equal = stride, k, equal
        self.linear = linear_norm(in_dim, out_dim)
        self.score = None
        if stride > 1:
            self.score = nn.Sequential(*linear_norm(3 + in_dim, in_dim), nn.Linear(in_dim, 1))

    def forward(self, coord: Tensor, x: Tensor, sizes: list[int]) -> tuple[Tensor, Tensor, list[int]]:
        """Map points (n, 3), features (n, C) and sizes to those of the kept points.

        Raises:
            ValueError: a cloud with too few points.
        """
        if self.score is None:
            return coord, self.linear(x), sizes
        counts = [n // self.stride for n in sizes]
        counts = [min(counts)] * len(counts) if self.equal else counts
        if min(counts) < 1:
            raise ValueError(f"clouds of {sizes} points are too small to keep one in {self.stride}")
        kept = coord[packed_farthest(coord, sizes, counts)]
        idx = packed_knn(kept, coord, counts, sizes, self.k)  # (m, K)
        offset = coord[idx] - kept[:, None]
        weight = self.score(torch.cat([offset, x[idx]], dim=-1)).softmax(dim=1)  # (m, K, 1)
        return kept, (self.linear(x)[idx] * weight).sum(1), counts


class Up(nn.Module):
    """Hand features of coarse points to the fine points around them, and add the skip."""

    def __init__(self, coarse_dim: int, fine_dim: int, k: int):
        super().__init__()
        self.k = k
        self.linear1, self.linear2 = linear_norm(fine_dim, fine_dim), linear_norm(coarse_dim, fine_dim)
        self.score = nn.Sequential(*linear_norm(3 + coarse_dim, coarse_dim), nn.Linear(coarse_dim, 1))

    def forward(self, fine: tuple[Tensor, Tensor, list[int]], coarse: tuple[Tensor, Tensor, list[int]]) -> Tensor:
        """Map fine and coarse (points, features, sizes) to fine features (n, C)."""
        fine_coord, fine_x, fine_sizes = fine
        coarse_coord, coarse_x, coarse_sizes = coarse
        idx = packed_knn(coarse_coord, fine_coord, coarse_sizes, fine_sizes, self.k)  # (m, K) fine points
        offset = fine_coord[idx] - coarse_coord[:, None]
        around = coarse_x[:, None].expand(-1, self.k, -1)
        score = self.score(torch.cat([offset, around], dim=-1)).flatten(0, 1)  # (m*K, 1)
        index = idx.flatten()
        weight = scatter_softmax(score, index, len(fine_coord))
        value = self.linear2(coarse_x).repeat_interleave(self.k, dim=0)  # (m*K, C)
        return scatter_sum(value * weight, index, len(fine_coord)) + self.linear1(fine_x)


class Head(nn.Module):
    """Add the mean of the whole cloud to each coarse point."""

    def __init__(self, dim: int):
        super().__init__()
        self.linear1 = linear_norm(2 * dim, dim)
        self.linear2 = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(inplace=True))

    def forward(self, x: Tensor, sizes: list[int]) -> Tensor:
        """Map features (n, C) to (n, C)."""
        return self.linear1(torch.cat([x, self.linear2(cloud_mean(x, sizes))], dim=1))
