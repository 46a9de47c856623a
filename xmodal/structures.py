"""Plain values that travel between the parts of a model."""

from dataclasses import dataclass, replace


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
