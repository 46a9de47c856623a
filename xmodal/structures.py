"""What travels between the parts of a model, and how an encoder looks to all of them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from torch import nn


@dataclass(frozen=True)
class Grid:
    """Where the patch tokens of a sequence sit in space and time.

    Args:
        t: frames per clip; rows of a batch are ordered ((b v) t). 1 for images.
        h: patch rows of a frame.
        w: patch columns of a frame.
        prefix: class and register tokens in front of the patches. Prompt tokens of adapters stand behind them.
    """

    t: int
    h: int
    w: int
    prefix: int = 1

    @property
    def num_patches(self) -> int:
        """Patch tokens of one frame."""
        return self.h * self.w

    def prefix_only(self) -> "Grid":
        """The same grid for a sequence of which only the prefix tokens are left."""
        return replace(self, h=0, w=0)


def need_grid(grid: Grid | None, method: str) -> Grid:
    """Return `grid`, or explain which method cannot do without one.

    Raises:
        ValueError: `grid` is None (a point cloud, say).
    """
    if grid is None:
        raise ValueError(f"{method} works on a grid of patches, and these tokens have none (a point cloud?): remove it")
    return grid


class Encoder(nn.Module):
    """How an encoder looks to every method; `xmodal/encoders/vit.py` is the one most have.

    Verbs, with B images or frames, N tokens, width D:
        embed(images, num_frames=1): pixels (B*T, 3, H, W), normalized, to tokens (B*T, N, D) and their `Grid`.
        forward_blocks(tokens, grid): tokens through the blocks, the raw residual stream.
        norm: the tower's final norm.
        pool(tokens): tokens (B, N, D) to features (B, D_out).
    """

    name: str
    dim: int
    num_heads: int
    image_size: int
    patch_size: int
    pixel_mean: Sequence[float]
    pixel_std: Sequence[float]

    if TYPE_CHECKING:  # a tower's parts are many: type checkers look no further than this class

        def __getattr__(self, name: str) -> Any: ...
