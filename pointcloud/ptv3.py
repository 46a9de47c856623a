"""Point Transformer V3 and the encoders built on it, Sonata and Concerto: attention within patches of a curve.

Papers: Point Transformer V3 (arXiv 2312.10035), Sonata (arXiv 2503.16429), Concerto (arXiv 2510.23607). Names of
weights are the released ones. The released code shuffles the curves at every pass; here only training does.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pointcloud.ptv3_block import Options, PointBlock, SubmanifoldConv, make_blocks, rising
from pointcloud.ptv3_level import Level
from pointcloud.serialization import ORDERS


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
            coarse = Level(coord, grid[member], level.cloud[member], level.depth - bits, codes, merged=True)
        else:
            most = level.largest // self.stride
            coarse = Level.make(coord, grid[member], level.cloud[member], self.orders, largest=most)
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


class PointDecoder(nn.ModuleDict):
    """Levels back from the coarsest voxels to the finest.

    Args:
        enc_channels: width of each level of the encoder, finest first.
        depths: blocks of each level, finest first; likewise what follows.
        channels: widths.
        num_head: heads.
        patch_size: patches.
        drop_path: see `PointTransformer`.
        first_version: see `PointTransformer`.
        skip_sum: see `PointTransformer`.
        options: of the blocks.
    """

    def __init__(
        self,
        enc_channels: Sequence[int],
        depths: Sequence[int] = (2, 2, 2, 2),
        channels: Sequence[int] = (64, 96, 192, 384),
        num_head: Sequence[int] = (4, 6, 12, 24),
        patch_size: Sequence[int] = (1024,) * 4,
        drop_path: float = 0.0,
        first_version: bool = False,
        skip_sum: bool = False,
        options: Options | None = None,
    ):
        super().__init__()
        lengths = {len(enc_channels), *(1 + len(v) for v in (depths, channels, num_head, patch_size))}
        if len(lengths) > 1:
            raise ValueError(f"the decoder must fit {len(enc_channels)} levels, got lists for {sorted(lengths)}")
        self.stale, self.out_dim = first_version and not skip_sum, channels[0]
        back, rates = [*channels, enc_channels[-1]], rising(drop_path, sum(depths))
        for s in reversed(range(len(enc_channels) - 1)):
            own = rates[sum(depths[:s]) : sum(depths[: s + 1])][::-1]
            up = Unpooling(back[s + 1], enc_channels[s], back[s], first_version)
            blocks = make_blocks(back[s], num_head[s], patch_size[s], own, options or Options())
            self[f"dec{s}"] = nn.ModuleDict({"up": up, **blocks})

    def forward(self, features: list[Tensor], levels: list[Level], parents: list[Tensor]) -> tuple[Tensor, Level]:
        """Map what `PointTransformer.encode` gives to features (N, D) of the finest level, and that level."""
        x, level = features[-1], levels[-1]
        ways = zip(self.values(), features[-2::-1], levels[-2::-1], parents[::-1], strict=True)
        for stage, fine, level, parent in ways:
            x, skip = stage["up"](x, fine, parent)  # type: ignore[index]
            seen = skip if self.stale else None
            for name, part in stage.items():  # type: ignore[operator]
                if name != "up":
                    x, seen = part(x, level, int(name.removeprefix("block")), seen), None
        return x, level


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
        self.orders, self.first_version = list(order), first_version
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
            parts |= make_blocks(enc_channels[s], enc_num_head[s], enc_patch_size[s], own, shared)
            self.enc[f"enc{s}"] = nn.ModuleDict(parts)
        back = dec_depths, dec_channels, dec_num_head, dec_patch_size
        self.dec = None
        if dec_depths is not None:
            self.dec = PointDecoder(enc_channels, *back, drop_path, first_version, skip_sum, shared)  # type: ignore[arg-type]

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
        return (features[-1], levels[-1]) if self.dec is None else self.dec(features, levels, parents)

    def all_levels(self, *args: Any, **kwargs: Any) -> Tensor:
        """Return the features of all levels at the finest voxels (N, sum of widths), finest first; as `encode`."""
        features, _, parents = self.encode(*args, **kwargs)
        found = features[-1]
        for fine, parent in zip(features[-2::-1], parents[::-1], strict=True):
            found = torch.cat([fine, found[parent]], 1)
        return found
