"""The block of point transformers: a convolution for the place, attention within patches of a curve, an MLP.

Paper: Point Transformer V3 (arXiv 2312.10035). Names of weights are the released ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pointcloud.ptv3_level import Level
from pointcloud.sparse import GatherMultiplyScatter
from pointcloud.sparse_layers import from_spconv
from xmodal.encoders.block import Mlp
from xmodal.encoders.parts import DropPath
from xmodal.encoders.sites import LayerScale, Linear


class SubmanifoldConv(nn.Module):
    """Convolution over the voxels that are there; the weight is laid out as spconv's."""

    def __init__(self, in_dim: int, out_dim: int, kernel: int, bias: bool = True):
        super().__init__()
        self.kernel = kernel
        self.weight = nn.Parameter(torch.empty(out_dim, kernel, kernel, kernel, in_dim))
        self.bias = nn.Parameter(torch.zeros(out_dim)) if bias else None
        nn.init.trunc_normal_(self.weight, std=0.02)

    def forward(self, x: Tensor, level: Level) -> Tensor:
        """Map features (N, C) of a level's voxels to (N, D)."""
        pairs = level.neighbors(self.kernel)
        with torch.autocast(x.device.type, enabled=False):
            out = GatherMultiplyScatter.apply(x, from_spconv(self.weight).to(x.dtype), pairs, len(x))
        return out if self.bias is None else out + self.bias


class PatchAttention(nn.Module):
    """Attention within patches of K voxels along a curve.

    Args:
        dim: width C.
        num_heads: H.
        patch_size: K.
        qkv_bias: of queries, keys and values.
        rpe: add a learned bias by the offset of two voxels along each axis.
        shrink: see `Level.patches`.
    """

    def __init__(self, dim: int, num_heads: int, patch_size: int, qkv_bias: bool, rpe: bool, shrink: bool):
        super().__init__()
        self.num_heads, self.patch_size, self.shrink = num_heads, patch_size, shrink
        self.qkv, self.proj = Linear(dim, 3 * dim, bias=qkv_bias), Linear(dim, dim)
        self.rpe = OffsetBias(patch_size, num_heads) if rpe else None

    def forward(self, x: Tensor, level: Level, curve: int) -> Tensor:
        """Map (N, C) to (N, C)."""
        patches = level.patches(self.patch_size, self.shrink)
        order, place = level.curve(curve)
        rows = order[patches.places]
        qkv = self.qkv(x)[rows].view(-1, patches.size, 3, self.num_heads, x.shape[1] // self.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (P, H, K, d) each
        bias = None if patches.real is None else patches.real[:, None, None]
        if self.rpe is not None:
            offsets = self.rpe(level.grid[rows].view(-1, patches.size, 3))  # (P, H, K, K)
            bias = offsets if bias is None else offsets.masked_fill(~bias, float("-inf"))
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        y = y.transpose(1, 2).flatten(0, 1).flatten(1)  # (P*K, C)
        return self.proj(y[patches.back[place]])


class OffsetBias(nn.Module):
    """Sum over the axes of a learned number by head and offset, cut at b = int(2 (4 K)^(1/3))."""

    def __init__(self, patch_size: int, num_heads: int):
        super().__init__()
        self.reach = int((4 * patch_size) ** (1 / 3) * 2)
        self.rpe_table = nn.Parameter(torch.zeros(3 * (2 * self.reach + 1), num_heads))
        nn.init.trunc_normal_(self.rpe_table, std=0.02)

    def forward(self, grid: Tensor) -> Tensor:
        """Voxels of patches (P, K, 3) to biases (P, H, K, K)."""
        offset = (grid[:, :, None] - grid[:, None]).long().clamp(-self.reach, self.reach) + self.reach
        offset = offset + torch.arange(3, device=grid.device) * (2 * self.reach + 1)
        return self.rpe_table[offset].sum(3).permute(0, 3, 1, 2)


@dataclass(frozen=True)
class Options:
    """Settings of all blocks of a network.

    Args:
        mlp_ratio: hidden width of the MLPs over C.
        qkv_bias: of queries, keys and values.
        layer_scale: starting value of a factor behind attention and MLP, None for none.
        pre_norm: norms in front of attention and MLP, else behind the sum.
        rpe: see `PatchAttention`.
        shrink: see `Level.patches`.
    """

    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    layer_scale: float | None = None
    pre_norm: bool = True
    rpe: bool = False
    shrink: bool = False


class PointBlock(nn.Module):
    """Convolutional positions, attention within patches, MLP; each added to the stream."""

    def __init__(self, dim: int, num_heads: int, patch_size: int, drop_path: float, options: Options):
        super().__init__()
        o = options
        self.pre_norm = o.pre_norm
        self.cpe = nn.ModuleList([SubmanifoldConv(dim, dim, 3), nn.Linear(dim, dim), nn.LayerNorm(dim)])
        self.norm1, self.norm2 = nn.Sequential(nn.LayerNorm(dim)), nn.Sequential(nn.LayerNorm(dim))
        self.attn = PatchAttention(dim, num_heads, patch_size, o.qkv_bias, o.rpe, o.shrink)
        self.mlp = nn.Sequential(Mlp(dim, int(dim * o.mlp_ratio)))
        scaled = o.layer_scale is not None
        self.ls1, self.ls2 = (nn.Sequential(*[LayerScale(dim, o.layer_scale or 0.0)] * scaled) for _ in range(2))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, level: Level, curve: int, seen: Tensor | None = None) -> Tensor:
        """Map (N, C) to (N, C); `seen` is what the convolution reads instead of x."""
        conv, linear, norm = self.cpe
        x = x + norm(linear(conv(x if seen is None else seen, level)))
        if self.pre_norm:
            x = x + self.drop_path(self.ls1(self.attn(self.norm1(x), level, curve)))
            return x + self.drop_path(self.ls2(self.mlp(self.norm2(x))))
        x = self.norm1(x + self.drop_path(self.ls1(self.attn(x, level, curve))))
        return self.norm2(x + self.drop_path(self.ls2(self.mlp(x))))


def rising(last: float, count: int) -> list[float]:
    """Return numbers from 0 to `last`, equally spaced."""
    return [last * i / max(count - 1, 1) for i in range(count)]


def make_blocks(dim: int, heads: int, patch: int, rates: Sequence[float], options: Options) -> dict[str, nn.Module]:
    """Return the blocks of a level by name."""
    return {f"block{i}": PointBlock(dim, heads, patch, rate, options) for i, rate in enumerate(rates)}
