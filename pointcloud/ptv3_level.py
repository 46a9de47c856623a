"""One resolution of a point transformer: voxels, their orders, patches of an order, neighbors for convolutions."""

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from pointcloud.serialization import bit_depth, encode
from pointcloud.sparse import Maps, Pairs, Voxels, offsets_of


@dataclass
class Patches:
    """Points of a curve in patches of equal size.

    Args:
        size: K.
        places: (P*K,) places on the curve that the patches hold; the last of a cloud is filled from the one before.
        back: (N,) where in `places` each place of the curve is read back.
        real: (P, K) which keys take part, None for all.
    """

    size: int
    places: Tensor
    back: Tensor
    real: Tensor | None


@dataclass(eq=False)
class Level:
    """Voxels of a batch of clouds.

    Args:
        coord: (N, 3) mean of the points, meters.
        grid: (N, 3) voxel, not negative.
        cloud: (N,) number of the cloud.
        depth: bits of a voxel's coordinate.
        codes: (O, N) place of each voxel on each curve.
        largest: coordinate of a voxel; 0 where nobody asks.
        merged: made of a finer level, so that no voxel occurs twice.
    """

    coord: Tensor
    grid: Tensor
    cloud: Tensor
    depth: int
    codes: Tensor
    largest: int = 0
    merged: bool = False
    _kept: dict[Any, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def make(
        cls,
        coord: Tensor,
        grid: Tensor,
        cloud: Tensor,
        orders: list[str],
        beyond: int = 1,
        largest: int | None = None,
    ) -> "Level":
        """Lay voxels along curves.

        Args:
            coord: (N, 3).
            grid: (N, 3).
            cloud: (N,).
            orders: names of curves.
            beyond: added to the largest coordinate before its bits are counted (1; 0 in PTv3's first version).
            largest: coordinate of a voxel, known from a finer level; None looks, for which a GPU has to be waited for.
        """
        merged, largest = largest is not None, int(grid.max()) if largest is None else largest
        cloud, depth = cloud.long(), bit_depth(largest + beyond)
        codes = torch.stack([encode(grid, cloud, depth, order) for order in orders])
        return cls(coord, grid, cloud, depth, codes, largest, merged)

    def curve(self, number: int) -> tuple[Tensor, Tensor]:
        """Return the rows along a curve (N,), and the place of each row on it (N,)."""
        number %= len(self.codes)
        if ("curve", number) not in self._kept:
            order = torch.argsort(self.codes[number])
            self._kept["curve", number] = order, torch.argsort(order)
        return self._kept["curve", number]

    def patches(self, size: int, shrink: bool) -> Patches:
        """Cut the curves of all clouds into patches.

        As released, the curves of a level are filled up once, for the encoder's patches; smaller patches of a decoder
        cut the same filled curves where they divide the encoder's.

        Args:
            size: K.
            shrink: make patches no larger than the smallest cloud, as the release does without flash attention; else a
                cloud of fewer than K voxels is one short patch.
        """
        if "counts" not in self._kept:
            counts = torch.bincount(self.cloud.cpu()).tolist()  # the host waits once
            self._kept["counts"] = [count for count in counts if count]
        counts = self._kept["counts"]
        size = min(size, *counts) if shrink else size
        if ("patches", size) not in self._kept:
            first = self._kept.setdefault("filled", size) if shrink else size
            filled = first if first % size == 0 else size
            whole = self._kept.get(("patches", filled)) or cut(counts, filled, self.cloud.device)
            self._kept["patches", size] = replace(whole, size=size)
        return self._kept["patches", size]

    def neighbors(self, kernel: int) -> Pairs:
        """Return the rows read and written for each offset of a kernel, x fastest."""
        if "voxels" not in self._kept:
            cells = torch.cat([self.cloud[:, None].long(), self.grid.long()], 1)
            self._kept["voxels"] = Voxels(cells, (1, 1, 1), check=not self.merged), Maps()
        voxels, maps = self._kept["voxels"]
        return maps.between(voxels, voxels, offsets_of((kernel,) * 3, (1, 1, 1), (1, 1, 1)))


def cut(counts: list[int], size: int, device: torch.device) -> Patches:
    """Cut curves of `counts` voxels into patches of `size`."""
    places: list[Tensor] = []
    back: list[Tensor] = []
    real: list[Tensor] = []
    start = 0
    for count in counts:
        own = torch.arange(count)
        missing = -count % size
        if missing and count > size:
            own = torch.cat([own, torch.arange(count, count + missing) - size])
            taken = torch.ones(len(own), dtype=torch.bool)
        else:
            own = torch.cat([own, own.new_zeros(missing)])
            taken = torch.arange(len(own)) < count
        back.append(torch.arange(count) + sum(map(len, places)))
        places.append(own + start)
        real.append(taken)
        start += count
    kept = torch.cat(real).view(-1, size)
    full = bool(kept.all())
    all_places, all_back, kept = (x.to(device, non_blocking=True) for x in (torch.cat(places), torch.cat(back), kept))
    return Patches(size, all_places, all_back, None if full else kept)
