"""Swin transformers built from timm's stages, with patch or convolutional embedding and downsampling.

Papers: Swin (arXiv 2103.14030), CvT's convolutional embeddings (2103.15808), which Florence (2111.11432) puts into Swin
and calls CoSwin. Nothing of Florence was released: the convolutional variant is built after its text.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from timm.models.swin_transformer import SwinTransformer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from xmodal.encoders.convblocks import sited
from xmodal.encoders.statistics import IMAGENET_MEAN, IMAGENET_STD
from xmodal.registry import ENCODERS
from xmodal.structures import Encoder, Grid, need_grid


class ConvEmbed(nn.Module):
    """Overlapping convolution with stride, then LayerNorm; channels last on both sides.

    Args:
        in_dim: channels in.
        dim: channels out.
        kernel: edge of the kernel.
        stride: of the convolution.
        eps: of the norm.
        images: the input has channels first.
    """

    def __init__(self, in_dim: int, dim: int, kernel: int, stride: int, eps: float, images: bool = False):
        super().__init__()
        self.images = images
        self.proj = nn.Conv2d(in_dim, dim, kernel, stride, padding=kernel // 2)
        self.norm = nn.LayerNorm(dim, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, h, w, C), or images (B, 3, H, W), to (B, h', w', D)."""
        x = x if self.images else x.permute(0, 3, 1, 2)  # (B, C, h, w)
        return self.norm(self.proj(x).permute(0, 2, 3, 1))  # (B, h', w', D)


@ENCODERS.register_module(name="swin")
class SwinEncoder(Encoder):
    """A Swin transformer that ends in the mean over its normed tokens, projected.

    Example:
        SwinEncoder(image_size=224, dim=96, depths=(2, 2, 6, 2), num_heads=(3, 6, 12, 24), out_dim=512)

    Args:
        image_size: pixels of the square images; every stage's grid must divide into windows.
        patch_size: pixels of a patch; the stride of the convolutional stem.
        dim: width of the first stage, doubled by each of the others.
        depths: blocks a stage.
        num_heads: attention heads a stage.
        window_size: edge of a window in tokens; odd blocks shift by half of it.
        mlp_ratio: hidden width of the MLP over the stage's.
        out_dim: width of the projected feature, None for none.
        stem: `patch` cuts into patches, `conv` convolves 7 by 7 (CvT, Florence-style).
        merge: `patch` joins 2 by 2 tokens between stages, `conv` convolves 3 by 3 with stride 2.
        norm_eps: of every LayerNorm.
        patch_norm: LayerNorm behind the patch embedding.
        drop_path: stochastic depth of the last block, linearly from 0; in training only.
        pixel_mean: per channel, of images in [0, 1].
        pixel_std: per channel.
        name: what the checkpoint calls itself.

    Raises:
        ValueError: an unknown stem or merge; depths and heads of different length; a grid that windows do not divide.
    """

    inflation = "swin"

    def __init__(
        self,
        image_size: int = 224,
        patch_size: int = 4,
        dim: int = 96,
        depths: Sequence[int] = (2, 2, 6, 2),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        window_size: int = 7,
        mlp_ratio: float = 4.0,
        out_dim: int | None = 512,
        stem: str = "patch",
        merge: str = "patch",
        norm_eps: float = 1e-5,
        patch_norm: bool = True,
        drop_path: float = 0.0,
        pixel_mean: Sequence[float] = IMAGENET_MEAN,
        pixel_std: Sequence[float] = IMAGENET_STD,
        name: str = "swin",
    ):
        if {stem, merge} - {"patch", "conv"}:
            raise ValueError(f"stem={stem!r}, merge={merge!r}: choose patch or conv")
        if len(depths) != len(num_heads):
            raise ValueError(f"{len(depths)} depths and {len(num_heads)} num_heads: one of each for every stage")
        check_grids(image_size, patch_size, window_size, len(depths))
        width = dim * 2 ** (len(depths) - 1)
        super().__init__(
            name=name, dim=width, out_dim=out_dim or width, depth=sum(depths), num_heads=num_heads[-1],
            image_size=image_size, patch_size=patch_size, pixel_mean=pixel_mean, pixel_std=pixel_std, family="swin",
        )  # fmt: skip
        swin = SwinTransformer(
            img_size=image_size,
            patch_size=patch_size,
            num_classes=0,
            embed_dim=dim,
            depths=tuple(depths),
            num_heads=tuple(num_heads),
            window_size=window_size,
            mlp_ratio=mlp_ratio,
            drop_path_rate=drop_path,
            norm_layer=partial(nn.LayerNorm, eps=norm_eps),  # type: ignore[arg-type]
        )
        sited(swin)
        self.patch_embed: nn.Module = swin.patch_embed
        self.stages, self.norm = swin.layers, swin.norm
        if not patch_norm:
            self.patch_embed.norm = nn.Identity()
        if stem == "conv":
            self.patch_embed = ConvEmbed(3, dim, 7, patch_size, norm_eps, images=True)
        if merge == "conv":
            for i in range(1, len(depths)):
                self.stages[i].downsample = ConvEmbed(dim * 2 ** (i - 1), dim * 2**i, 3, 2, norm_eps)
        self.proj = nn.Linear(self.dim, out_dim, bias=False) if out_dim else nn.Identity()
        if out_dim:
            nn.init.trunc_normal_(self.proj.weight, std=0.02)  # type: ignore[arg-type]

    @property
    def root(self) -> nn.Module:
        """The tower itself."""
        return self

    @property
    def blocks(self) -> list[nn.Module]:  # type: ignore[override]  # they belong to the stages
        """The blocks of all stages in order."""
        return [block for stage in self.stages for block in stage.blocks]  # type: ignore[union-attr]

    def embed(self, images: Tensor, num_frames: int = 1) -> tuple[Tensor, Grid]:
        """Make tokens of images.

        Args:
            images: (B*T, 3, H, W), normalized with `pixel_mean` and `pixel_std`.
            num_frames: T, frames per clip.

        Returns:
            Tokens (B*T, h*w, D1) of the first stage and their grid.

        Raises:
            ValueError: images of another size than the windows were made for.
        """
        if images.shape[-2:] != (self.image_size, self.image_size):
            got = tuple(images.shape[-2:])
            raise ValueError(f"{self.name} reads {self.image_size} x {self.image_size} images, got {got}: resize them")
        tokens = self.patch_embed(images)  # (B*T, h, w, D1)
        grid = Grid(num_frames, tokens.shape[1], tokens.shape[2], prefix=0)
        return tokens.flatten(1, 2), grid

    def forward_blocks(
        self,
        tokens: Tensor,
        grid: Grid | None = None,
        read: str = "all",
        taps: Any = None,
        start: int = 0,
        stop: int | None = None,
    ) -> Tensor:
        """Run the blocks of all stages: tokens (B, h*w, D1) to (B, h'*w', D) of the last one. There are no taps inside.

        Args:
            tokens: of the first stage, or the input of block `start`.
            grid: of the first stage.
            read: not looked at: every token of the last stage counts.
            taps: must be None.
            start: first block run.
            stop: run only the blocks before this one.

        Raises:
            ValueError: taps were asked for.
        """
        if taps is not None:
            raise ValueError(f"{self.name} has no taps: its stages are timm's; choose a reader that reads tokens")
        x, grid = tokens, need_grid(grid, self.name)
        for i, (stage, block, first) in list(enumerate(by_stage(self.stages)))[start:stop]:
            h, w = grid.h >> (stage - first), grid.w >> (stage - first)
            x = x.unflatten(1, (h, w))  # (B, h, w, C)
            x = self.stages[stage].downsample(x) if first else x  # type: ignore[operator]
            recompute = self.recompute is True or i < int(self.recompute)
            x = (checkpoint(block, x, use_reentrant=False) if recompute else block(x)).flatten(1, 2)
        return x  # (B, h'*w', D)

    def pool(self, tokens: Tensor, grid: Grid | None = None) -> Tensor:
        """Mean over normed tokens (B, N, D), projected: (B, D_out)."""
        return self.proj(tokens.mean(1))


def by_stage(stages: nn.Module) -> Iterator[tuple[int, nn.Module, bool]]:
    """Number of its stage, block, and whether it is the stage's first behind a downsampling, for every block."""
    for number, stage in enumerate(stages):  # type: ignore[arg-type, var-annotated]
        for i, block in enumerate(stage.blocks):
            yield number, block, i == 0 and number > 0


def check_grids(image_size: int, patch_size: int, window_size: int, stages: int) -> None:
    """Refuse sizes at which a stage's grid is odd before it is halved, or does not divide into windows.

    Raises:
        ValueError: such a size, with one that fits.
    """
    unit = patch_size * window_size * 2 ** (stages - 1)
    grid, rest = divmod(image_size, patch_size)
    for stage in range(stages):
        fits = grid % window_size == 0 if grid > window_size else grid > 0
        if rest or not fits or (stage < stages - 1 and grid % 2):
            near = max(unit, round(image_size / unit) * unit)
            raise ValueError(
                f"image_size {image_size} with patch_size {patch_size}: stage {stage} has no whole grid of windows of "
                f"{window_size} ({image_size / patch_size / 2**stage:g} tokens an edge); take image_size {near}"
            )
        grid //= 2
