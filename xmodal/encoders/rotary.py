"""Define rotary position embeddings of patches in an image or a video.

Papers: RoFormer (arXiv 2104.09864), EVA-02 (2303.11331), RoPE-ViT (2403.13298), DINOv3 (2508.10104), Perception Encoder
(2504.13181), V-JEPA 2 (2506.09985). Only patches are rotated: class, register and prompt tokens have no position.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn

from xmodal.registry import did_you_mean
from xmodal.structures import Grid


@dataclass(frozen=True)
class Angles:
    """Settings from which the angle of every channel of a head follows; see `Rotary`."""

    kind: str
    head_dim: int
    temperature: float
    order: str
    offset: float
    reference: tuple[int, int] | None
    layout: str

    def axes(self, places: Tensor, h: int, w: int) -> list[Tensor]:
        """Return the angles (..., n) of each axis for patches with the numbers `places` in a grid of h x w a frame."""
        return KINDS[self.kind](self, places, h, w)

    def channels(self, places: Tensor, h: int, w: int) -> Tensor:
        """Return the angle of every channel: places (...) to (..., head_dim); channels without a position get 0."""
        angles = LAYOUTS[self.layout](self.axes(places, h, w))
        return nn.functional.pad(angles, (0, self.head_dim - angles.shape[-1]))


def split(places: Tensor, h: int, w: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return frame, row and column of patches that are numbered frame by frame and row by row."""
    return places // (h * w), places // w % h, places % w


def outer(positions: Tensor, frequencies: Tensor) -> Tensor:
    """Multiply positions (...) with frequencies (n,) in float32."""
    return positions.float()[..., None] * frequencies


def axial(a: Angles, places: Tensor, h: int, w: int) -> list[Tensor]:
    """Half of the channels turn with the row and half with the column, rescaled to a reference grid if there is one."""
    _, row, column = split(places, h, w)
    frequencies = a.temperature ** -(torch.arange(a.head_dim // 4, device=places.device) / (a.head_dim // 4))
    y, x = row + a.offset, column + a.offset
    if a.reference is not None:
        y, x = y / h * a.reference[0], x / w * a.reference[1]
    axes = [outer(y, frequencies), outer(x, frequencies)]
    return axes if a.order == "ij" else axes[::-1]


def centered(a: Angles, places: Tensor, h: int, w: int) -> list[Tensor]:
    """Rows and columns span (-1, 1) whatever the size of the grid (DINOv3)."""
    _, row, column = split(places, h, w)
    frequencies = (
        2 * math.pi * a.temperature ** -(torch.arange(a.head_dim // 4, device=places.device) / (a.head_dim // 4))
    )
    y, x = ((p + 0.5 + a.offset) / side * 2 - 1 for p, side in ((row, h), (column, w)))
    axes = [outer(y, frequencies), outer(x, frequencies)]
    return axes if a.order == "ij" else axes[::-1]


def spacetime(a: Angles, places: Tensor, h: int, w: int) -> list[Tensor]:
    """A third of the channels turn with the frame, a third with the row, a third with the column (V-JEPA 2)."""
    n = a.head_dim // 3 // 2
    frequencies = a.temperature ** -(torch.arange(n, device=places.device) / n)
    frame, row, column = (p.float() for p in split(places, h, w))
    if a.reference is not None:  # a side of one patch has position 0 alone
        row, column = row * (a.reference[0] - 1) / max(h - 1, 1), column * (a.reference[1] - 1) / max(w - 1, 1)
    return [outer(p, frequencies) for p in (frame, row, column)]


KINDS: dict[str, Callable[[Angles, Tensor, int, int], list[Tensor]]] = {
    "axial": axial,
    "centered": centered,
    "spacetime": spacetime,
}


def twice(x: Tensor) -> Tensor:
    """Repeat the last axis as a whole."""
    return torch.cat([x, x], -1)


LAYOUTS: dict[str, Callable[[list[Tensor]], Tensor]] = {
    "interleaved": lambda axes: torch.cat(axes, -1).repeat_interleave(2, -1),
    "half": lambda axes: twice(torch.cat(axes, -1)),
    "tiled": lambda axes: torch.cat([twice(axis) for axis in axes], -1),
}


def turn_halves(x: Tensor) -> Tensor:
    """Exchange the halves of the last axis, the one that comes first negated."""
    first, second = x.chunk(2, -1)
    return torch.cat([-second, first], -1)


def turn_pairs(x: Tensor) -> Tensor:
    """Exchange the members of each pair of neighbors on the last axis, the one that comes first negated."""
    pairs = x.unflatten(-1, (-1, 2))
    return torch.stack([-pairs[..., 1], pairs[..., 0]], -1).flatten(-2)


def table(angles: Angles, frames: int, h: int, w: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return cosine and sine (frames, h*w, head_dim) of a grid."""
    found = angles.channels(torch.arange(frames * h * w, device=device), h, w).unflatten(0, (frames, -1))
    return found.cos(), found.sin()


remembered = lru_cache(maxsize=32)(table)


class Rotary(nn.Module):
    """Rotate queries and keys by angles that depend on the place of their patch.

    Args:
        head_dim: channels of a head.
        kind: `axial` (EVA-02, Perception Encoder, RoPE-ViT), `centered` (DINOv3) or `spacetime` (V-JEPA 2).
        temperature: base of the frequencies.
        order: `ij` for rows before columns, `xy` for columns before rows.
        offset: added to row and column.
        reference: grid (rows, columns) that positions are rescaled to, None to count patches.
        layout: which channels form a pair, and which angle they get: `interleaved` for neighbors, `half` for channels
            of the two halves, `tiled` for neighbors with the angles of `half` (the released V-JEPA 2, whose pairs do
            not turn by one angle).

    Raises:
        ValueError: an unknown kind, layout or order, heads that do not divide into pairs.
    """

    def __init__(
        self,
        head_dim: int,
        kind: str = "axial",
        temperature: float = 10000.0,
        order: str = "ij",
        offset: float = 0.0,
        reference: Sequence[int] | None = None,
        layout: str = "interleaved",
    ):
        super().__init__()
        for what, value, known in (("kind", kind, KINDS), ("layout", layout, LAYOUTS), ("order", order, ("ij", "xy"))):
            if value not in known:
                raise ValueError(f"rotary positions: no {what} is called {value!r}; {did_you_mean(value, known)}")
        axes = 3 if kind == "spacetime" else 2
        if head_dim % 2 or head_dim < 2 * axes or (axes == 2 and head_dim % 4):
            raise ValueError(f"rotary positions: heads of {head_dim} channels do not divide into pairs for {axes} axes")
        size = None if reference is None else (int(reference[0]), int(reference[1]))
        self.angles = Angles(kind, head_dim, temperature, order, offset, size, layout)
        self.turn = turn_halves if layout == "half" else turn_pairs

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        """Rotate the patch tokens of x (B*T, H, N, d); tokens in front of and behind the patches stay as they are."""
        first, count = grid.prefix, grid.num_patches
        if x.shape[2] <= first or not count:  # only prefix tokens
            return x
        cos, sin = self.waves(grid, x.device)
        frames = cos.shape[0]
        patches = x[:, :, first : first + count].unflatten(0, (-1, frames))  # (B, T, H, P, d)
        patches = (patches * cos + self.turn(patches) * sin).flatten(0, 1).to(x.dtype)
        return torch.cat([x[:, :, :first], patches, x[:, :, first + count :]], 2)

    def waves(self, grid: Grid, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return cosine and sine, (T, 1, P, d), or (B, 1, K, d) for sequences of some patches only."""
        if grid.kept is not None:
            angles = self.angles.channels(grid.kept.to(device), grid.h, grid.w)
            return angles.cos()[:, None], angles.sin()[:, None]
        frames = grid.t if self.angles.kind == "spacetime" else 1
        new = torch.compiler.is_compiling() or torch.is_inference_mode_enabled()  # such tensors cannot be kept
        cos, sin = (table if new else remembered)(self.angles, frames, grid.h, grid.w, device)
        return cos[:, None], sin[:, None]


class MixedRotary(Rotary):
    """Rotary positions with learned frequencies of row and column for each head (RoPE-ViT's mixed kind).

    Args:
        num_heads: heads H.
        head_dim: channels d of a head.
        temperature: base of the initial frequencies.
        order: `xy` when the first frequency belongs to the column, `ij` when it belongs to the row.
    """

    def __init__(self, num_heads: int, head_dim: int, temperature: float = 10.0, order: str = "xy"):
        super().__init__(head_dim, "axial", temperature, order)
        size = temperature ** -(torch.arange(0, head_dim, 4) / head_dim)  # (d/4,)
        angle = torch.rand(num_heads, 1) * 2 * math.pi
        both = torch.cat([angle.expand(-1, len(size)), (angle + math.pi / 2).expand(-1, len(size))], -1)  # (H, d/2)
        self.freqs = nn.Parameter(
            torch.stack([size.repeat(2) * both.cos(), size.repeat(2) * both.sin()])
        )  # (2, H, d/2)

    def waves(self, grid: Grid, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return cosine and sine (1, H, P, d)."""
        places = torch.arange(grid.num_patches, device=device) if grid.kept is None else grid.kept.to(device)
        _, row, column = split(places, grid.h, grid.w)
        first, second = (row, column) if self.angles.order == "ij" else (column, row)
        freqs = self.freqs.float()[:, :, None]  # (2, H, 1, d/2)
        places = places if places.ndim == 2 else places[None]
        first, second = (p.reshape(len(places), 1, -1, 1).float() for p in (first, second))  # (B or 1, 1, P, 1)
        angles = (first * freqs[0] + second * freqs[1]).repeat_interleave(2, -1)
        return angles.cos(), angles.sin()


def make_rotary(settings: dict | None, num_heads: int, head_dim: int) -> Rotary | None:
    """Build rotary positions of settings: arguments of `Rotary`, or `kind="mixed"` with those of `MixedRotary`."""
    if settings is None:
        return None
    if settings.get("kind") == "mixed":
        return MixedRotary(num_heads, head_dim, **{k: v for k, v in settings.items() if k != "kind"})
    return Rotary(head_dim, **settings)
