"""Sparse tensors on voxels, and the maps between them that convolutions and pooling need, in plain torch.

Rows of `coordinates` are (cloud, x, y, z). Behind a stride of s they stay multiples of s. All tensors made from one
share their voxels by stride and their kernel maps, so that the layers of one resolution search once.

Order of kernel offsets, rounding and output voxels are those of MinkowskiEngine (arXiv 1904.08755).
"""

import itertools
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Triple = tuple[int, int, int]
Pairs = list[tuple[Tensor, Tensor]]  # for each offset of a kernel: rows read, rows written
AT_ONCE = {"cpu": 2**18, "other": 2**23}  # voxels looked up at a time: what caches hold; few waits for a GPU


def triple(value: int | tuple[int, ...] | list[int]) -> Triple:
    """Return one number for each axis."""
    x, y, z = (value,) * 3 if isinstance(value, int) else value
    return x, y, z


def sent(values: Any, like: Tensor) -> Tensor:
    """Return numbers of the host as a tensor of the type and on the device of another; the host does not wait."""
    return torch.tensor(values, dtype=like.dtype).to(like.device, non_blocking=True)


class Voxels:
    """The voxels of a batch of clouds at one stride, sorted for search.

    Args:
        coordinates: (N, 4) integers, all different.
        stride: of which x, y, z are multiples.
        check: look whether voxels occur twice or reach too far, for which a GPU has to be waited for.

    Raises:
        ValueError: clouds too large for 64 bits, or voxels that occur twice.
    """

    def __init__(self, coordinates: Tensor, stride: Triple, check: bool = True):
        self.coordinates, self.stride = coordinates.long(), stride
        here = self.coordinates if len(coordinates) else self.coordinates.new_zeros(1, 4)
        self.low, self.high = here.amin(0), here.amax(0)
        size = self.high - self.low + 1
        self.factors = torch.stack([size[1] * size[2] * size[3], size[2] * size[3], size[3], torch.ones_like(size[3])])
        self.keys, self.order = torch.sort(((self.coordinates - self.low) * self.factors).sum(1))
        if check:
            self.check(size)

    def check(self, size: Tensor) -> None:
        """Refuse voxels that occur twice, or that `size` (4,), how far they reach, leaves no 64-bit keys for.

        Raises:
            ValueError: such voxels.
        """
        twice = (self.keys[1:] == self.keys[:-1]).any()
        reach, repeated = torch.stack([size.double().prod(), twice.double()]).tolist()  # the host waits once
        if reach >= 2.0**62:
            raise ValueError(f"voxels reach over {size.tolist()} (cloud, x, y, z): too far for 64-bit keys")
        if repeated:
            raise ValueError("two rows of coordinates are the same voxel: make voxels of points with `voxelize`")

    def __len__(self) -> int:
        return len(self.coordinates)

    def find(self, coordinates: Tensor) -> tuple[Tensor, Tensor]:
        """Look rows (M, 4) up; returns which of them are there, and the rows of these."""
        return self.find_shifted(coordinates, coordinates.new_zeros(1, 4))[0]

    def find_shifted(self, coordinates: Tensor, shifts: Tensor) -> Pairs:
        """Look rows (M, 4) up, moved by each of the shifts (K, 4); see `find`. The host waits once or twice for all.

        A row's key and that of a shift add up to that of the moved row.
        """
        if not len(self) or not len(coordinates):
            nothing = self.order[:0]
            return [(nothing, nothing)] * len(shifts)
        keys = ((coordinates - self.low) * self.factors).sum(1) + (shifts * self.factors).sum(1)[:, None]  # (K, M)
        at = torch.searchsorted(self.keys, keys).clamp_(max=len(self) - 1)
        there = self.keys[at] == keys
        for c in range(4):  # a key outside the box may be that of another voxel inside
            moved = coordinates[:, c] + shifts[:, c, None]
            there &= (moved >= self.low[c]) & (moved <= self.high[c])
        which, row = there.nonzero().unbind(1)
        counts = [len(row)] if len(shifts) == 1 else there.sum(1).tolist()
        return list(zip(row.split(counts), self.order[at[which, row]].split(counts), strict=True))


def offsets_of(kernel_size: Triple, dilation: Triple, stride: Triple, cross: bool = False) -> list[Triple]:
    """Offsets of a kernel's weights, x fastest; odd sizes are centered, even ones begin at 0.

    Args:
        kernel_size: by axis.
        dilation: by axis.
        stride: of the voxels that the offsets lie between.
        cross: along the axes alone; the center first, then +1.. and -r.. of each axis.
    """
    steps = [d * s for d, s in zip(dilation, stride, strict=True)]
    if not cross:
        axes = [
            [(i - n // 2 if n % 2 else i) * step for i in range(n)] for n, step in zip(kernel_size, steps, strict=True)
        ]
        return [(x, y, z) for z, y, x in itertools.product(*reversed(axes))]
    found: list[Triple] = [(0, 0, 0)]
    for axis, (n, step) in enumerate(zip(kernel_size, steps, strict=True)):
        reach = n // 2
        for i in (*range(1, reach + 1), *range(-reach, 0)):
            found.append(triple([i * step if a == axis else 0 for a in range(3)]))
    return found


@dataclass
class Maps:
    """Voxels by stride and kernel maps, shared by the tensors of one batch."""

    levels: dict[Triple, Voxels] = field(default_factory=dict)
    pairs: dict[Any, Pairs] = field(default_factory=dict)

    def coarser(self, voxels: Voxels, stride: Triple) -> Voxels:
        """Return the voxels of a larger stride, made where they are not there yet."""
        if stride not in self.levels:
            step = sent((1, *stride), voxels.coordinates)
            cells = torch.div(voxels.coordinates, step, rounding_mode="floor") * step
            self.levels[stride] = Voxels(torch.unique(cells, dim=0), stride, check=False)
        return self.levels[stride]

    def between(self, source: Voxels, target: Voxels, offsets: list[Triple]) -> Pairs:
        """Return, for each offset o, the rows of `source` at c + o and of `target` at c, where both are there."""
        key = (id(source), id(target), tuple(offsets))
        if key not in self.pairs:
            found: dict[Triple, tuple[Tensor, Tensor]] = {}
            sought: list[Triple] = []
            for offset in offsets:
                if source is not target or triple([-o for o in offset]) not in sought:
                    sought.append(offset)
            room = AT_ONCE["cpu" if target.coordinates.device.type == "cpu" else "other"]
            fits = max(1, room // max(len(target), 1))
            for start in range(0, len(sought), fits):
                part = sought[start : start + fits]
                shifts = sent([(0, *offset) for offset in part], target.coordinates)
                for offset, (written, read) in zip(part, source.find_shifted(target.coordinates, shifts), strict=True):
                    found[offset] = (read, written)
                    if source is target:
                        found.setdefault(triple([-o for o in offset]), (written, read))
            self.pairs[key] = [found[offset] for offset in offsets]
        return self.pairs[key]


@dataclass(frozen=True)
class SparseTensor:
    """Features on voxels.

    Args:
        features: (N, C).
        voxels: where they sit.
        maps: shared by all tensors made from the first one.
    """

    features: Tensor
    voxels: Voxels
    maps: Maps

    @classmethod
    def make(cls, features: Tensor, coordinates: Tensor, stride: int | Triple = 1) -> "SparseTensor":
        """Make the first tensor of a batch of clouds.

        Args:
            features: (N, C).
            coordinates: (N, 4) integers (cloud, x, y, z), all different.
            stride: of which x, y, z are multiples.

        Raises:
            ValueError: other shapes, or a voxel that occurs twice.
        """
        if coordinates.ndim != 2 or coordinates.shape[1] != 4 or len(coordinates) != len(features):
            raise ValueError(f"coordinates (N, 4) for features (N, C), got {coordinates.shape} and {features.shape}")
        voxels = Voxels(coordinates, triple(stride))
        return cls(features, voxels, Maps({voxels.stride: voxels}))

    @property
    def coordinates(self) -> Tensor:
        """Rows (cloud, x, y, z)."""
        return self.voxels.coordinates

    @property
    def stride(self) -> Triple:
        """Distance of neighboring voxels."""
        return self.voxels.stride

    def with_features(self, features: Tensor) -> "SparseTensor":
        """Return other features on the same voxels."""
        return replace(self, features=features)

    def __add__(self, other: "SparseTensor") -> "SparseTensor":
        """Add features of the same voxels.

        Raises:
            ValueError: other voxels; `union` adds those.
        """
        if self.voxels is not other.voxels:
            raise ValueError("the two tensors sit on other voxels: add them with `union`")
        return self.with_features(self.features + other.features)

    def pruned(self, keep: Tensor) -> "SparseTensor":
        """Return the voxels where `keep` (N,) is true, with maps of their own."""
        return SparseTensor.make(self.features[keep], self.coordinates[keep], self.stride)


def union(one: SparseTensor, two: SparseTensor) -> SparseTensor:
    """Add two tensors of one stride: voxels that either has; absent features count as zero.

    Raises:
        ValueError: other strides.
    """
    if one.stride != two.stride:
        raise ValueError(f"tensors of strides {one.stride} and {two.stride} have no union")
    both = torch.cat([one.coordinates, two.coordinates])
    cells, rows = torch.unique(both, dim=0, return_inverse=True)
    features = torch.cat([one.features, two.features])
    total = features.new_zeros(len(cells), features.shape[1]).index_add(0, rows, features)
    return SparseTensor.make(total, cells, one.stride)


def voxelize(points: Tensor, cloud: Tensor, features: Tensor, size: float, keep: str = "first") -> SparseTensor:
    """Make voxels of points.

    Args:
        points: (P, 3).
        cloud: (P,) number of the cloud of each point.
        features: (P, C).
        size: edge of a voxel; voxel = floor(point / size).
        keep: features of the `first` point of a voxel in the order given, their `mean` or their `sum`.

    Raises:
        ValueError: another word for `keep`.
    """
    cells = torch.cat([cloud[:, None].long(), torch.floor(points / size).long()], 1)
    cells, rows, counts = torch.unique(cells, dim=0, return_inverse=True, return_counts=True)
    if keep == "first":
        order = torch.arange(len(rows), device=rows.device)
        first = order.new_full((len(cells),), len(rows)).scatter_reduce(0, rows, order, "amin")
        return SparseTensor.make(features[first], cells)
    if keep not in ("mean", "sum"):
        raise ValueError(f"keep={keep!r}: choose first, mean or sum")
    total = features.new_zeros(len(cells), features.shape[1]).index_add(0, rows, features)
    return SparseTensor.make(total / counts[:, None] if keep == "mean" else total, cells)


class GatherMultiplyScatter(torch.autograd.Function):
    """out[w] += x[r] W_k over the pairs (r, w) of each offset k; keeps nothing but x and W for the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, kernel: Tensor, pairs: Pairs, rows: int) -> Tensor:
        """Features (N, C) and weights (K, C, D) to (rows, D)."""
        ctx.save_for_backward(x, kernel)
        ctx.pairs = pairs
        out = x.new_zeros(rows, kernel.shape[2])
        for weight, (read, written) in zip(kernel, pairs, strict=True):
            out.index_add_(0, written, x.index_select(0, read) @ weight)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:  # type: ignore[override]
        """Gradients of features and weights."""
        x, kernel = ctx.saved_tensors
        need_x, need_kernel = ctx.needs_input_grad[:2]
        dx = torch.zeros_like(x) if need_x else None
        dkernel = torch.zeros_like(kernel) if need_kernel else None
        for k, (read, written) in enumerate(ctx.pairs):
            part = grad.index_select(0, written)
            if dx is not None:
                dx.index_add_(0, read, part @ kernel[k].t())
            if dkernel is not None:
                dkernel[k] = x.index_select(0, read).t() @ part
        return dx, dkernel, None, None
