"""Point Transformer V3 and the encoders built on it, Sonata and Concerto: attention within patches of a curve.

Papers: Point Transformer V3 (arXiv 2312.10035), Sonata (arXiv 2503.16429), Concerto (arXiv 2510.23607). Names of
weights are the released ones. The released code shuffles the curves at every pass; here only training does.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pointcloud.ptv3_level import Level
from pointcloud.serialization import ORDERS
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


def norm_of(dim: int, batch_norm: bool) -> nn.Module:
    """Return the norm of a version's pooling."""
    return nn.BatchNorm1d(dim, eps=1e-3, momentum=0.01) if batch_norm else nn.LayerNorm(dim)


class Pooling(nn.Module):
    """Merge the voxels of a coarser grid: largest projected feature, mean place.

    Args:
        in_dim: C.
        out_dim: D.
        stride: of the coarser grid.
        first_version: cells of the first curve, whose codes the coarse level keeps (PTv3).
        orders: of the curves.
    """

    def __init__(self, in_dim: int, out_dim: int, stride: int, first_version: bool, orders: list[str]):
        super().__init__()
        self.stride, self.first_version, self.orders = stride, first_version, orders
        self.proj = nn.Linear(in_dim, out_dim)
        self.norm = nn.Sequential(norm_of(out_dim, first_version))

    def forward(self, x: Tensor, level: Level) -> tuple[Tensor, Level, Tensor]:
        """Map (N, C) to features (M, D) of a coarser level; returns also the coarse row of each fine one (N,)."""
        if self.first_version:
            bits = (self.stride - 1).bit_length()
            bits = bits if bits <= level.depth else 0
            keys = level.codes[0] >> 3 * bits
            _, parent, counts = torch.unique(keys, return_inverse=True, return_counts=True)
            grid = level.grid >> bits
        else:
            bits, grid = 0, torch.div(level.grid, self.stride, rounding_mode="floor")
            cells = torch.cat([level.cloud[:, None].long(), grid.long()], 1)
            _, parent, counts = torch.unique(cells, dim=0, return_inverse=True, return_counts=True)
        member = torch.empty_like(counts).scatter_(0, parent, torch.arange(len(parent), device=parent.device))
        y = self.proj(x)
        largest = y.new_zeros(len(counts), y.shape[1]).scatter_reduce(
            0, parent[:, None].expand_as(y), y, "amax", include_self=False
        )
        coord = level.coord.new_zeros(len(counts), 3).index_add(0, parent, level.coord) / counts[:, None]
        if self.first_version:
            codes = level.codes[:, member] >> 3 * bits
            coarse = Level(coord, grid[member], level.cloud[member], level.depth - bits, codes)
        else:
            coarse = Level.make(coord, grid[member], level.cloud[member], self.orders)
        return F.gelu(self.norm(largest)), coarse, parent


class Unpooling(nn.Module):
    """act(norm(proj_skip(fine))) + act(norm(proj(coarse))) read at each fine voxel's parent."""

    def __init__(self, in_dim: int, skip_dim: int, out_dim: int, first_version: bool):
        super().__init__()
        self.proj = nn.Sequential(nn.Linear(in_dim, out_dim), norm_of(out_dim, first_version), nn.GELU())
        self.proj_skip = nn.Sequential(nn.Linear(skip_dim, out_dim), norm_of(out_dim, first_version), nn.GELU())

    def forward(self, coarse: Tensor, fine: Tensor, parent: Tensor) -> tuple[Tensor, Tensor]:
        """Map coarse (M, C) and fine (N, C') to the sum (N, D), and the fine part alone."""
        skip = self.proj_skip(fine)
        return skip + self.proj(coarse)[parent], skip


class Embedding(nn.Module):
    """Linear, LayerNorm, GELU; or a 5x5x5 convolution, BatchNorm, GELU in PTv3's first version."""

    def __init__(self, in_dim: int, dim: int, first_version: bool, mask_token: bool):
        super().__init__()
        names = ("conv", SubmanifoldConv(in_dim, dim, 5, bias=False)), ("linear", nn.Linear(in_dim, dim))
        self.stem = nn.ModuleDict({**dict([names[not first_version]]), "norm": norm_of(dim, first_version)})
        self.first_version, self.in_dim = first_version, in_dim
        self.mask_token = nn.Parameter(torch.zeros(1, dim)) if mask_token else None

    def forward(self, x: Tensor, level: Level, mask: Tensor | None) -> Tensor:
        """Map (N, C) to (N, D); rows where `mask` is true become the mask token."""
        y = self.stem["conv"](x, level) if self.first_version else self.stem["linear"](x)
        y = F.gelu(self.stem["norm"](y))
        if mask is None or self.mask_token is None:
            return y
        return torch.where(mask[:, None], self.mask_token, y)


class PointTransformer(nn.Module):
    """Blocks over levels of coarser and coarser voxels, and back where there is a decoder.

    Args:
        in_channels: features of a point.
        order: names of curves.
        stride: between levels.
        enc_depths: blocks of each level.
        enc_channels: width of each level.
        enc_num_head: heads of each level.
        enc_patch_size: patch of each level.
        dec_depths: blocks of each level of the decoder, finest first; None for no decoder.
        dec_channels: widths.
        dec_num_head: heads.
        dec_patch_size: patches.
        drop_path: stochastic depth of the last block of the encoder.
        first_version: PTv3 as first published; else as in Sonata and Concerto.
        mask_token: a learned token for masked points.
        skip_sum: with `first_version`, let the convolution of a decoder level's first block see the whole sum; the
            released weights were trained without.
        **options: of `Options`.

    Raises:
        ValueError: lists of other lengths.
    """

    def __init__(
        self,
        in_channels: int = 6,
        order: Sequence[str] = ORDERS,
        stride: Sequence[int] = (2, 2, 2, 2),
        enc_depths: Sequence[int] = (3, 3, 3, 12, 3),
        enc_channels: Sequence[int] = (48, 96, 192, 384, 512),
        enc_num_head: Sequence[int] = (3, 6, 12, 24, 32),
        enc_patch_size: Sequence[int] = (1024,) * 5,
        dec_depths: Sequence[int] | None = None,
        dec_channels: Sequence[int] = (64, 64, 128, 256),
        dec_num_head: Sequence[int] = (4, 4, 8, 16),
        dec_patch_size: Sequence[int] = (1024,) * 4,
        drop_path: float = 0.0,
        first_version: bool = False,
        mask_token: bool = False,
        skip_sum: bool = False,
        **options: Any,
    ):
        super().__init__()
        shared, count = Options(**options), len(enc_depths)
        lengths = {len(stride) + 1, count, len(enc_channels), len(enc_num_head), len(enc_patch_size)}
        if dec_depths is not None:
            lengths |= {1 + len(v) for v in (dec_depths, dec_channels, dec_num_head, dec_patch_size)}
        if len(lengths) > 1:
            raise ValueError(f"stride, enc_* and dec_* must fit {count} levels, got lists for {sorted(lengths)}")
        self.orders, self.first_version, self.skip_sum = list(order), first_version, skip_sum
        self.name = "ptv3" if first_version else "sonata"
        self.out_dim = (dec_channels if dec_depths else enc_channels[::-1])[0]
        self.dims = tuple(enc_channels)
        self.embedding = Embedding(in_channels, enc_channels[0], first_version, mask_token)
        rates = rising(drop_path, sum(enc_depths))
        self.enc = nn.ModuleDict()
        for s, depth in enumerate(enc_depths):
            parts: dict[str, nn.Module] = {}
            if s:
                widths = enc_channels[s - 1], enc_channels[s]
                parts["down"] = Pooling(*widths, stride[s - 1], first_version, self.orders)
            own, rates = rates[:depth], rates[depth:]
            parts |= blocks_of(enc_channels[s], enc_num_head[s], enc_patch_size[s], own, shared)
            self.enc[f"enc{s}"] = nn.ModuleDict(parts)
        self.dec = None if dec_depths is None else nn.ModuleDict()
        if self.dec is not None and dec_depths is not None:
            back = [*dec_channels, enc_channels[-1]]
            rates = rising(drop_path, sum(dec_depths))
            for s in reversed(range(count - 1)):
                own = rates[sum(dec_depths[:s]) : sum(dec_depths[: s + 1])][::-1]
                up = Unpooling(back[s + 1], enc_channels[s], back[s], first_version)
                blocks = blocks_of(back[s], dec_num_head[s], dec_patch_size[s], own, shared)
                self.dec[f"dec{s}"] = nn.ModuleDict({"up": up, **blocks})

    def encode(
        self, coord: Tensor, grid: Tensor, cloud: Tensor, feat: Tensor, mask: Tensor | None = None
    ) -> tuple[list[Tensor], list[Level], list[Tensor]]:
        """Return features and levels, finest first, and for each coarser one the parent rows of the level before.

        Args:
            coord: (N, 3) meters.
            grid: (N, 3) voxels, not negative, all different within a cloud.
            cloud: (N,) number of the cloud, rising.
            feat: (N, C).
            mask: (N,) points to be replaced by the mask token.
        """
        level = Level.make(coord, grid, cloud, self.orders, beyond=int(not self.first_version))
        self.shuffle(level)
        x = self.embedding(feat, level, mask)
        features, levels, parents = [], [], []
        for stage in self.enc.values():
            for name, part in stage.items():  # type: ignore[operator]
                if name == "down":
                    x, level, parent = part(x, level)
                    self.shuffle(level)
                    parents.append(parent)
                else:
                    x = part(x, level, int(name.removeprefix("block")))
            features.append(x)
            levels.append(level)
        return features, levels, parents

    @property
    def blocks(self) -> list[PointBlock]:
        """The blocks of the encoder in order; `attn.qkv` and `attn.proj` have sites."""
        return [part for part in self.enc.modules() if isinstance(part, PointBlock)]

    def shuffle(self, level: Level) -> None:
        """Exchange the curves of a level in training."""
        if self.training:
            level.codes = level.codes[torch.randperm(len(level.codes), device=level.codes.device)]

    def forward(
        self, coord: Tensor, grid: Tensor, cloud: Tensor, feat: Tensor, mask: Tensor | None = None
    ) -> tuple[Tensor, Level]:
        """Return features (M, D) and their level, the finest with a decoder, else the coarsest; as `encode`."""
        features, levels, parents = self.encode(coord, grid, cloud, feat, mask)
        x, level = features.pop(), levels.pop()
        for stage in () if self.dec is None else self.dec.values():
            level = levels.pop()
            x, skip = stage["up"](x, features.pop(), parents.pop())  # type: ignore[index]
            seen = skip if self.first_version and not self.skip_sum else None
            for name, part in stage.items():  # type: ignore[operator]
                if name != "up":
                    x, seen = part(x, level, int(name.removeprefix("block")), seen), None
        return x, level

    def all_levels(self, *args: Any, **kwargs: Any) -> Tensor:
        """Return the features of all levels at the finest voxels (N, sum of widths), finest first; as `encode`."""
        features, _, parents = self.encode(*args, **kwargs)
        found = features[-1]
        for fine, parent in zip(features[-2::-1], parents[::-1], strict=True):
            found = torch.cat([fine, found[parent]], 1)
        return found


def rising(last: float, count: int) -> list[float]:
    """Return numbers from 0 to `last`, equally spaced."""
    return [last * i / max(count - 1, 1) for i in range(count)]


def blocks_of(dim: int, heads: int, patch: int, rates: Sequence[float], options: Options) -> dict[str, nn.Module]:
    """Return the blocks of a level by name."""
    return {f"block{i}": PointBlock(dim, heads, patch, rate, options) for i, rate in enumerate(rates)}
