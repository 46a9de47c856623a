"""The patch grid that accompanies tokens, and the interface of encoders."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True)
class Grid:
    """Position of the patch tokens of a sequence in space and time.

    Args:
        t: frames per clip; rows of a batch are ordered ((b v) t). 1 for images.
        h: patch rows of a frame.
        w: patch columns of a frame.
        prefix: class and register tokens in front of the patches. Prompt tokens of adapters stand behind them.
        maps: feature maps of the same images that a tower fuses into its tokens between blocks (MS-CLIP).
        kept: numbers (B, K) of the patches that a sequence holds, counted frame by frame, when it does not hold all
            (masked pretraining); t is 1 then.
        valid: (B, h*w), False for padding, when images of several sizes share the grid; None when all is image.
    """

    t: int
    h: int
    w: int
    prefix: int = 1
    maps: tuple[Tensor, ...] = field(default=(), compare=False)
    kept: Tensor | None = field(default=None, compare=False)
    valid: Tensor | None = field(default=None, compare=False)

    @property
    def num_patches(self) -> int:
        """Patch tokens of one frame."""
        return self.h * self.w if self.kept is None else self.kept.shape[1]

    def prefix_only(self) -> "Grid":
        """The same grid for a sequence of which only the prefix tokens are left."""
        return replace(self, h=0, w=0, kept=None, valid=None)


def need_grid(grid: Grid | None, method: str) -> Grid:
    """Return `grid`, or explain which method cannot do without one.

    Raises:
        ValueError: `grid` is None (a point cloud, say), or images of several sizes share it.
    """
    if grid is None:
        raise ValueError(f"{method} works on a grid of patches, and these tokens have none (a point cloud?): remove it")
    if grid.valid is not None:
        raise ValueError(f"{method} works on whole grids of patches: give images of one size")
    return grid


class Encoder(nn.Module, ABC):
    """Base class of image towers: all that models, adapters, readers and heads know of one.

    A new tower hands its facts to `__init__`, sets `blocks`, `norm` and `proj`, and implements `embed`,
    `forward_blocks` and `pool`. The other methods have answers here. Letters: B images, T frames, N tokens.

    Args:
        name: what the checkpoint calls itself.
        dim: width D of the tokens behind the last block.
        out_dim: width of the feature that `pool` gives.
        depth: number of blocks.
        num_heads: attention heads of the last block, 0 for none.
        image_size: pixels of the square images that the tower was made for.
        patch_size: pixels of a patch of the last block's grid.
        pixel_mean: per channel, of images in [0, 1].
        pixel_std: per channel.
        pool_type: what `pool` reads: `token` (the first), `avg` or `map`.
        num_prefix: class and register tokens in front of the patches.
        family: kind of the blocks: `vit`, `swin`, `resnet`, `bit`, `convnext`, `efficientnet`, `clip`.

    Attributes:
        blocks: the blocks in order; their sites are those of `xmodal.encoders.block.Block`, or of
            `xmodal.encoders.convblocks` in towers with a `root`.
        pre_blocks: the site on the stream in front of the first block, in towers that have one.
        norm: the final norm, called with tokens and grid; a site.
        proj: the projection of the pooled feature, `nn.Identity` where there is none.
        recompute: recompute blocks in the backward pass: all, none, or the first n.
        inflation: how `inflate` makes a tower of videos of this one: `vit`, `swin`, or "" for not at all.
    """

    blocks: Any
    pre_blocks: Any
    norm: nn.Module
    proj: nn.Module
    inflation = ""

    def __init__(
        self,
        *,
        name: str,
        dim: int,
        out_dim: int,
        depth: int,
        num_heads: int,
        image_size: int,
        patch_size: int,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        pool_type: str = "avg",
        num_prefix: int = 0,
        family: str = "vit",
    ):
        super().__init__()
        self.name, self.dim, self.out_dim, self.depth, self.num_heads = name, dim, out_dim, depth, num_heads
        self.image_size, self.patch_size = image_size, patch_size
        self.pixel_mean, self.pixel_std = tuple(pixel_mean), tuple(pixel_std)
        self.pool_type, self.num_prefix, self.family = pool_type, num_prefix, family
        self.recompute: bool | int = False

    @abstractmethod
    def embed(self, images: Tensor, num_frames: int = 1) -> tuple[Tensor, Grid]:
        """Make tokens (B*T, N, D) and their grid of images (B*T, 3, H, W), normalized; rows are ordered ((b v) t)."""

    @abstractmethod
    def forward_blocks(
        self,
        tokens: Tensor,
        grid: Grid | None = None,
        read: str = "all",
        taps: Any = None,
        start: int = 0,
        stop: int | None = None,
    ) -> Tensor:
        """Run the blocks and return the raw residual stream.

        Args:
            tokens: (B*T, N, D), of `embed` or behind block `start` - 1.
            grid: where the patches sit; None where there is no grid.
            read: `all`, or `prefix` when only the prefix tokens of the result are looked at.
            taps: what to keep from inside (`xmodal.encoders.taps.Taps`).
            start: first block that is run.
            stop: block before which to stop.

        Raises:
            ValueError: taps or a range of blocks that this tower cannot serve.
        """

    @abstractmethod
    def pool(self, tokens: Tensor, grid: Grid | None = None) -> Tensor:
        """Pool normed tokens (B, N, D) to one feature (B, D_out) the way this checkpoint was trained."""

    def forward_tokens(self, tokens: Tensor, grid: Grid | None = None) -> Tensor:
        """Run the blocks and the final norm."""
        return self.norm(self.forward_blocks(tokens, grid), grid)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, 3, H, W), normalized, to features (B, D_out)."""
        tokens, grid = self.embed(images)
        read = "prefix" if self.pool_type == "token" else "all"
        return self.pool(self.norm(self.forward_blocks(tokens, grid, read), grid), grid)

    @property
    def root(self) -> nn.Module | None:
        """The module below which all convolutions, linear layers and norms have sites; None where only blocks have."""
        return None

    def behind_blocks(self) -> list[nn.Module]:
        """Return the modules that are run after the last block."""
        return [self.norm, self.proj]

    def norm_behind(self, layer: int) -> nn.Module:
        """Return the norm for the output of block `layer`: the final norm, in most towers."""
        return self.norm

    def further_sites(self) -> list[tuple[nn.Module, str]]:
        """Return (owner, site) of the operations outside the blocks that an adapter beside each of them should know."""
        return []

    def feature_maps(self, images: Tensor) -> list[Tensor]:
        """Return maps (B, C_i, h_i, w_i) of all stages, finest first, for dense tasks.

        Raises:
            ValueError: a tower without stages.
        """
        raise ValueError(f"{type(self).__name__} has no stages: dense tasks need a ConvNet or a Swin")

    def map_dims(self) -> list[int]:
        """Return the channels of the maps that `feature_maps` gives."""
        raise ValueError(f"{type(self).__name__} has no stages: dense tasks need a ConvNet or a Swin")

    def library_state(self) -> dict[str, Tensor]:
        """Return the tower's weights under the names of the library that it comes from, without adapters.

        Raises:
            ValueError: no library has such a tower.
        """
        raise ValueError(f"{self.name}: no library has a place for the weights of a {type(self).__name__}")
