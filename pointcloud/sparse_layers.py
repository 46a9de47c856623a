"""Layers on sparse tensors: convolutions, pooling, norms; weights under the names of MinkowskiEngine's files."""

import math

import torch
from torch import Tensor, nn

from pointcloud.sparse import GatherMultiplyScatter, Maps, Pairs, SparseTensor, Triple, Voxels, offsets_of, sent, triple

Size = int | tuple[int, ...] | list[int]


class SparseConv(nn.Module):
    """Convolution over the voxels that are there.

    With stride 1 the output sits on the input's voxels (submanifold); with stride s on the coarser voxels of which a
    finer one is there.

    Args:
        in_channels: C.
        out_channels: D.
        kernel_size: of all axes, or by axis.
        stride: of all axes, or by axis.
        dilation: of all axes, or by axis.
        bias: of each output channel.
        cross: a kernel along the axes alone, odd sizes.

    Attributes:
        kernel: (K, C, D), offsets with x fastest; (C, D) for a kernel of one voxel and stride 1.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size = 3,
        stride: Size = 1,
        dilation: Size = 1,
        bias: bool = False,
        cross: bool = False,
    ):
        super().__init__()
        self.kernel_size, self.stride, self.dilation = triple(kernel_size), triple(stride), triple(dilation)
        self.cross = cross
        count = len(offsets_of(self.kernel_size, (1, 1, 1), (1, 1, 1), cross))
        plain = count == 1 and self.stride == (1, 1, 1)
        self.kernel = nn.Parameter(torch.empty(*(() if plain else (count,)), in_channels, out_channels))
        self.bias = nn.Parameter(torch.empty(1, out_channels)) if bias else None
        bound = 1 / math.sqrt(count * self.fan(in_channels, out_channels))
        for weight in self.parameters():
            nn.init.uniform_(weight, -bound, bound)

    def fan(self, in_channels: int, out_channels: int) -> int:
        """Return the channels that the initial weights are scaled by."""
        return in_channels

    def output(self, x: SparseTensor) -> tuple[Voxels, Maps, Pairs]:
        """Return the output's voxels, its maps, and the rows read and written for each weight."""
        stride = multiplied(x.stride, self.stride)
        voxels = x.voxels if stride == x.stride else x.maps.coarser(x.voxels, stride)
        offsets = offsets_of(self.kernel_size, self.dilation, x.stride, self.cross)
        return voxels, x.maps, x.maps.between(x.voxels, voxels, offsets)

    def forward(self, x: SparseTensor) -> SparseTensor:
        """Convolve features (N, C) to (M, D)."""
        if self.kernel.ndim == 2:
            features = x.features @ self.kernel
            return x.with_features(features if self.bias is None else features + self.bias)
        voxels, maps, pairs = self.output(x)
        with torch.autocast(x.features.device.type, enabled=False):
            kernel = self.kernel.to(x.features.dtype)
            features = GatherMultiplyScatter.apply(x.features, kernel, pairs, len(voxels))
        return SparseTensor(features if self.bias is None else features + self.bias, voxels, maps)


class SparseConvTranspose(SparseConv):
    """Transposed convolution: each voxel is written to its finer neighbors c + offset.

    Args:
        *args: see `SparseConv`.
        generative: make all finer neighbors of all voxels, instead of writing to those of an earlier tensor.
        **kwargs: see `SparseConv`.
    """

    def __init__(self, *args: int, generative: bool = False, **kwargs: bool):
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self.generative = generative

    def fan(self, in_channels: int, out_channels: int) -> int:
        """See `SparseConv`."""
        return out_channels

    def output(self, x: SparseTensor) -> tuple[Voxels, Maps, Pairs]:
        """See `SparseConv`.

        Raises:
            ValueError: no tensor of the finer stride was there before.
        """
        stride = divided(x.stride, self.stride)
        offsets = offsets_of(self.kernel_size, self.dilation, stride, self.cross)
        if self.generative:
            shifts = sent([(0, *offset) for offset in offsets], x.coordinates)
            cells = torch.unique((x.coordinates[:, None] + shifts).flatten(0, 1), dim=0)
            voxels, maps = Voxels(cells, stride), Maps()
            maps.levels[stride] = voxels
        elif stride in x.maps.levels:
            voxels, maps = x.maps.levels[stride], x.maps
        else:
            raise ValueError(f"no tensor of stride {stride} to return to: use generative=True")
        pairs = maps.between(voxels, x.voxels, offsets)
        return voxels, maps, [(coarse, fine) for fine, coarse in pairs]


class SparsePool(nn.Module):
    """Largest, sum or average of the voxels that are there under a kernel.

    Args:
        kind: `max`, `sum` or `avg` (by the number of voxels that are there).
        kernel_size: of all axes, or by axis.
        stride: of all axes, or by axis.
        dilation: of all axes, or by axis.

    Raises:
        ValueError: another kind.
    """

    def __init__(self, kind: str, kernel_size: Size = 2, stride: Size = 1, dilation: Size = 1):
        super().__init__()
        if kind not in ("max", "sum", "avg"):
            raise ValueError(f"pool {kind!r}: choose max, sum or avg")
        self.kind = kind
        self.kernel_size, self.stride, self.dilation = triple(kernel_size), triple(stride), triple(dilation)

    def forward(self, x: SparseTensor) -> SparseTensor:
        """Pool features (N, C) to (M, C)."""
        stride = multiplied(x.stride, self.stride)
        voxels = x.voxels if stride == x.stride else x.maps.coarser(x.voxels, stride)
        pairs = x.maps.between(x.voxels, voxels, offsets_of(self.kernel_size, self.dilation, x.stride))
        read, written = (torch.cat(rows) for rows in zip(*pairs, strict=True))
        empty = x.features.new_zeros(len(voxels), x.features.shape[1])
        if self.kind == "max":
            where = written[:, None].expand(-1, x.features.shape[1])
            pooled = empty.scatter_reduce(0, where, x.features[read], "amax", include_self=False)
        else:
            pooled = empty.index_add(0, written, x.features[read])
            if self.kind == "avg":
                pooled = pooled / torch.bincount(written, minlength=len(voxels)).clamp(min=1)[:, None]
        return SparseTensor(pooled, voxels, x.maps)


class SparseBatchNorm(nn.Module):
    """Batch norm over all rows of all clouds; its weights are under `bn`."""

    def __init__(self, channels: int, eps: float = 1e-5, momentum: float = 0.1):
        super().__init__()
        self.bn = nn.BatchNorm1d(channels, eps, momentum)

    def forward(self, x: SparseTensor) -> SparseTensor:
        """Normalize features (N, C)."""
        return x.with_features(self.bn(x.features))


class SparseReLU(nn.Module):
    """ReLU of the features."""

    def forward(self, x: SparseTensor) -> SparseTensor:
        """Map (N, C) to (N, C)."""
        return x.with_features(x.features.relu())


class SparseELU(nn.Module):
    """ELU of the features."""

    def forward(self, x: SparseTensor) -> SparseTensor:
        """Map (N, C) to (N, C)."""
        return x.with_features(nn.functional.elu(x.features))


class SparseBasicBlock(nn.Module):
    """conv - norm - ReLU - conv - norm, the input added, ReLU.

    Args:
        channels: C.
        in_channels: of the input; with others than C, or a stride, a convolution of one voxel and a norm stand on the
            way of the input.
        stride: of the first convolution.
    """

    def __init__(self, channels: int, in_channels: int | None = None, stride: int = 1):
        super().__init__()
        before = in_channels or channels
        self.conv1, self.norm1 = SparseConv(before, channels, 3, stride), SparseBatchNorm(channels)
        self.conv2, self.norm2 = SparseConv(channels, channels), SparseBatchNorm(channels)
        self.relu = SparseReLU()
        self.downsample = None
        if before != channels or stride != 1:
            self.downsample = nn.Sequential(SparseConv(before, channels, 1, stride), SparseBatchNorm(channels))

    def forward(self, x: SparseTensor) -> SparseTensor:
        """Map (N, C) to (M, C')."""
        y = self.norm2(self.conv2(self.relu(self.norm1(self.conv1(x)))))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


def multiplied(stride: Triple, by: Triple) -> Triple:
    """Return the stride behind a layer of stride `by`."""
    return triple([a * b for a, b in zip(stride, by, strict=True)])


def divided(stride: Triple, by: Triple) -> Triple:
    """Return the stride behind a transposed layer of stride `by`.

    Raises:
        ValueError: it does not divide.
    """
    if any(a % b for a, b in zip(stride, by, strict=True)):
        raise ValueError(f"a stride of {stride} cannot be divided by {by}")
    return triple([a // b for a, b in zip(stride, by, strict=True)])


def from_spconv(weight: Tensor) -> Tensor:
    """Turn a weight of spconv 2 (D, kx, ky, kz, C) into a kernel (K, C, D) with x fastest."""
    return weight.permute(3, 2, 1, 4, 0).flatten(0, 2)


def to_spconv(kernel: Tensor, kernel_size: Size) -> Tensor:
    """Turn a kernel (K, C, D) into a weight of spconv 2 (D, kx, ky, kz, C)."""
    x, y, z = triple(kernel_size)
    return kernel.unflatten(0, (z, y, x)).permute(4, 2, 1, 0, 3).contiguous()
