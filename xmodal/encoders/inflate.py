"""Inflate an image encoder to videos, such that a static video gives exactly the image's features.

Papers: I3D (arXiv 1705.07750) for repeated weights, Video Swin (2106.13230) for windows in time, Florence (2111.11432),
which adapts its image encoder to video so. Everything trains unless it is frozen afterwards.
"""

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xmodal.encoders.swin import SwinEncoder, by_stage
from xmodal.encoders.taps import Taps
from xmodal.encoders.vit import VisionTransformer
from xmodal.registry import ENCODERS, build, method
from xmodal.structures import Encoder, Grid


@method(
    ENCODERS,
    "inflated",
    slot="encoder",
    paper="Quo Vadis, Action Recognition?, arXiv 1705.07750; Video Swin Transformer, arXiv 2106.13230",
    params="all, + T'*D (ViT) or (2t-1) position tables (Swin)",
    families=("vit", "swin"),
)
def inflate(
    encoder: Any,
    num_frames: int = 8,
    tubelet: int = 1,
    temporal_window: int = 8,
    init: str = "average",
    attention: str = "joint",
) -> nn.Module:
    """Turn an image encoder into a video encoder.

    At start: a video of equal frames gives the feature of the image.
    Trains: everything, such as in `TransferModel(..., freeze_encoder=False)`.

    Args:
        encoder: a `VisionTransformer` or `SwinEncoder`, or its config; copied.
        num_frames: frames of the videos it will read mostly (positions in time are resized for others).
        tubelet: frames that one patch spans; frames must divide by it.
        temporal_window: steps in time that a window of a Swin spans.
        init: of the patch's kernel in time: `average` repeats the weights over time and divides, `center` puts them on
            the middle frame and 0 elsewhere.
        attention: of a ViT: `joint` over space and time, or `space` frame by frame.

    Raises:
        ValueError: an option that does not exist, an encoder that cannot be inflated, frames that do not divide.
    """
    encoder = build(encoder, ENCODERS)
    if init not in ("average", "center"):
        raise ValueError(f"init={init!r}: choose average or center")
    if attention not in ("joint", "space"):
        raise ValueError(f"attention={attention!r}: choose joint or space")
    if tubelet < 1 or num_frames % tubelet:
        raise ValueError(f"num_frames={num_frames} does not divide into tubelets of {tubelet} frames")
    if encoder.inflation == "vit":
        return InflatedViT(copy.deepcopy(encoder), num_frames // tubelet, tubelet, init, attention)
    if encoder.inflation == "swin":
        return InflatedSwin(copy.deepcopy(encoder), tubelet, temporal_window, init)
    raise ValueError(f"{type(encoder).__name__} cannot be inflated; supported: vit, swin")


class TubeletConv(nn.Conv3d):
    """A patch convolution over `tubelet` consecutive images of a batch, made of a convolution of one image."""

    def __init__(self, conv: nn.Conv2d, tubelet: int, init: str):
        (kh, kw), stride, padding = conv.kernel_size, conv.stride, conv.padding
        super().__init__(
            conv.in_channels, conv.out_channels, (tubelet, kh, kw), (tubelet, *stride), (0, *padding),  # type: ignore[arg-type]
            bias=conv.bias is not None,
        )  # fmt: skip
        with torch.no_grad():
            self.weight.zero_()
            if init == "average":
                self.weight.copy_(conv.weight[:, :, None].expand_as(self.weight) / tubelet)
            else:
                self.weight[:, :, tubelet // 2] = conv.weight
            if conv.bias is not None:
                self.bias.copy_(conv.bias)  # type: ignore[union-attr]
        self.tubelet = tubelet

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B*T, 3, H, W) to (B*T/tubelet, D, h, w)."""
        clips = images.unflatten(0, (-1, self.tubelet)).transpose(1, 2)  # (B*T', 3, tubelet, H, W)
        return super().forward(clips)[:, :, 0]


class Inflated(Encoder):
    """Base class of inflated towers, which wraps the image tower that they were made of."""

    def __init__(self, tower: Any, tubelet: int):
        facts = ("dim", "out_dim", "depth", "num_heads", "image_size", "patch_size", "pixel_mean", "pixel_std",
                 "pool_type", "num_prefix", "family")  # fmt: skip
        super().__init__(name=f"{tower.name}-inflated", **{fact: getattr(tower, fact) for fact in facts})
        self.tower, self.tubelet = tower, tubelet

    @property
    def blocks(self) -> Any:  # type: ignore[override]
        """The blocks in order."""
        return self.tower.blocks

    @property
    def norm(self) -> nn.Module:  # type: ignore[override]
        """The final norm."""
        return self.tower.norm

    @property
    def proj(self) -> nn.Module:  # type: ignore[override]
        """The projection of the feature."""
        return self.tower.proj

    def behind_blocks(self) -> list[nn.Module]:
        """Return the modules that are run after the last block."""
        return self.tower.behind_blocks()

    def to_tubelets(self, images: Tensor, num_frames: int) -> tuple[Tensor, int]:
        """Frames that divide into tubelets, and how many those make; an image is a video of equal frames.

        Raises:
            ValueError: a number of frames that does not divide.
        """
        if num_frames == 1:
            return images.repeat_interleave(self.tubelet, 0), 1
        if num_frames % self.tubelet:
            raise ValueError(
                f"{num_frames} frames do not divide into tubelets of {self.tubelet}: sample another number"
            )
        return images, num_frames // self.tubelet

    def embed(self, images: Tensor, num_frames: int = 1) -> tuple[Tensor, Grid]:
        """Make tokens of frames (B*T, 3, H, W): (B*T', N, D) with T' = T / tubelet steps in time, and their grid."""
        images, steps = self.to_tubelets(images, num_frames)
        return self.tower.embed(images, steps)

    def pool(self, tokens: Tensor, grid: Grid | None = None) -> Tensor:
        """Pool normed tokens (B*T', N, D) to a feature a step in time."""
        return self.tower.pool(tokens, grid)


class InflatedViT(Inflated):
    """A ViT over space and time; every step in time keeps its own class token, so that equal steps change nothing.

    Args:
        tower: taken over.
        steps: rows of the position table in time, which starts at 0.
        tubelet: frames a patch spans.
        init: see `inflate`.
        attention: see `inflate`.
    """

    def __init__(self, tower: VisionTransformer, steps: int, tubelet: int, init: str, attention: str):
        super().__init__(tower, tubelet)
        for block in tower.blocks:
            block.attn.joint = attention == "joint"
        if tubelet > 1:
            tower.patch_embed.proj = TubeletConv(tower.patch_embed.proj, tubelet, init)  # type: ignore[assignment]
        self.time_embed = nn.Parameter(torch.zeros(1, steps, 1, tower.dim))

    def embed(self, images: Tensor, num_frames: int = 1) -> tuple[Tensor, Grid]:
        """See `Inflated.embed`; positions in time are added."""
        tokens, grid = super().embed(images, num_frames)
        steps = tokens.unflatten(0, (-1, grid.t)) + self.times(grid.t)  # (B, T', N, D)
        return steps.flatten(0, 1), grid

    def times(self, steps: int) -> Tensor:
        """Positions in time (1, steps, 1, D), resized when there are others than the table's; the mean for an image."""
        if steps == self.time_embed.shape[1]:
            return self.time_embed
        table = self.time_embed[:, :, 0].transpose(1, 2)  # (1, D, T')
        table = F.interpolate(table, size=steps, mode="linear") if steps > 1 else table.mean(2, keepdim=True)
        return table.transpose(1, 2)[:, :, None]

    def forward_blocks(
        self,
        tokens: Tensor,
        grid: Any = None,
        read: str = "all",
        taps: Taps | None = None,
        start: int = 0,
        stop: int | None = None,
    ) -> Tensor:
        """Run the blocks on tokens (B*T', N, D), which see all steps of their video with `joint` attention."""
        self.tower.recompute = self.recompute
        return self.tower.forward_blocks(tokens, grid, read, taps, start, stop)


class InflatedSwin(Inflated):
    """A Swin whose windows reach in time, and shift in time where they shift in space.

    Args:
        tower: taken over.
        tubelet: frames a patch spans.
        window: steps in time of a window; fewer when a video has fewer.
        init: see `inflate`.
    """

    def __init__(self, tower: SwinEncoder, tubelet: int, window: int, init: str):
        super().__init__(tower, tubelet)
        if tubelet > 1:
            embed: Any = tower.patch_embed
            embed.proj = TubeletConv(embed.proj, tubelet, init)
        for stage in tower.stages:
            stage.blocks = nn.ModuleList(
                SpaceTimeBlock(block, window, shifts=bool(i % 2))
                for i, block in enumerate(stage.blocks)  # type: ignore[arg-type]
            )

    def forward_blocks(
        self,
        tokens: Tensor,
        grid: Any = None,
        read: str = "all",
        taps: Taps | None = None,
        start: int = 0,
        stop: int | None = None,
    ) -> Tensor:
        """Run all stages: tokens (B*T', h*w, D1) to (B*T', h'*w', D).

        Raises:
            ValueError: taps were asked for.
        """
        if taps is not None:
            raise ValueError(f"{self.name} has no taps: choose a reader that reads tokens")
        x = tokens
        for stage, block, first in list(by_stage(self.tower.stages))[start:stop]:
            h, w = grid.h >> (stage - first), grid.w >> (stage - first)
            x = x.unflatten(1, (h, w))
            x = self.tower.stages[stage].downsample(x) if first else x
            x = block(x, grid.t).flatten(1, 2)
        return x


class SpaceTimeBlock(nn.Module):
    """timm's Swin block with windows of `window` steps in time; its position table is repeated in time."""

    def __init__(self, block: Any, window: int, shifts: bool):
        super().__init__()
        self.norm1, self.norm2, self.mlp = block.norm1, block.norm2, block.mlp
        self.drop_path1, self.drop_path2 = block.drop_path1, block.drop_path2
        self.qkv, self.proj, self.num_heads = block.attn.qkv, block.attn.proj, block.attn.num_heads
        self.size, self.shift = tuple(block.window_size), tuple(block.shift_size)
        self.window, self.shifts = window, shifts
        table = block.attn.relative_position_bias_table.detach()  # (S, heads)
        self.bias_table = nn.Parameter(table[None].repeat(2 * window - 1, 1, 1))  # (2*window-1, S, heads)
        self.register_buffer("space_index", block.attn.relative_position_index.clone(), persistent=False)

    def forward(self, x: Tensor, steps: int) -> Tensor:
        """Map (B*T', h, w, C) to the same."""
        x = x + self.drop_path1(self.attend(self.norm1(x), steps))
        return x + self.drop_path2(self.mlp(self.norm2(x)))

    def attend(self, x: Tensor, steps: int) -> Tensor:
        """Attention within windows of space and time.

        Raises:
            ValueError: steps in time that windows do not divide.
        """
        deep = min(self.window, steps)
        if steps % deep:
            raise ValueError(
                f"{steps} steps in time do not divide into windows of {deep}: choose another temporal_window"
            )
        x = x.unflatten(0, (-1, steps))  # (B, T', h, w, C)
        size = (deep, *self.size)
        shift = (deep // 2 if self.shifts and steps > deep else 0, *self.shift)
        dims = (1, 2, 3)
        if any(shift):
            x = x.roll([-s for s in shift], dims)
        windows = to_windows(x, size)  # (B*nW, n, C)
        q, k, v = (p.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for p in self.qkv(windows).chunk(3, -1))
        bias = self.bias(deep)[None]  # (1, heads, n, n)
        if any(shift):
            mask = shift_mask(x.shape[1:4], size, shift).to(bias)  # (nW, n, n)
            bias = (bias + mask[:, None]).repeat(x.shape[0], 1, 1, 1)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype))
        y = from_windows(self.proj(y.transpose(1, 2).flatten(2)), size, x.shape)
        y = y.roll(shift, dims) if any(shift) else y
        return y.flatten(0, 1)

    def bias(self, deep: int) -> Tensor:
        """Position bias (heads, n, n) of windows of `deep` steps."""
        index, n = self.space_index, self.size[0] * self.size[1]
        step = torch.arange(deep, device=index.device)  # type: ignore[arg-type]
        rows = step[:, None] - step[None] + self.window - 1  # (deep, deep)
        found = self.bias_table[rows[:, None, :, None], index.view(n, n)[None, :, None]]  # type: ignore[operator]  # (deep, n, deep, n, heads)
        return found.reshape(deep * n, deep * n, -1).permute(2, 0, 1)


def to_windows(x: Tensor, size: tuple[int, ...]) -> Tensor:
    """Cut (B, T, h, w, C) into windows (B*nW, t*a*b, C)."""
    (b, t, h, w, c), (dt, dh, dw) = x.shape, size
    x = x.view(b, t // dt, dt, h // dh, dh, w // dw, dw, c)
    return x.permute(0, 1, 3, 5, 2, 4, 6, 7).reshape(-1, dt * dh * dw, c)


def from_windows(windows: Tensor, size: tuple[int, ...], shape: torch.Size) -> Tensor:
    """Put windows (B*nW, t*a*b, C) together again: (B, T, h, w, C)."""
    (b, t, h, w, c), (dt, dh, dw) = shape, size
    x = windows.view(b, t // dt, h // dh, w // dw, dt, dh, dw, c)
    return x.permute(0, 1, 4, 2, 5, 3, 6, 7).reshape(shape)


def shift_mask(shape: Any, size: tuple[int, ...], shift: tuple[int, ...]) -> Tensor:
    """(nW, n, n): -100 between tokens that shifting brought into one window from opposite edges, else 0."""
    region = torch.zeros(1, *shape, 1)
    for axis, (length, edge, by) in enumerate(zip(shape, size, shift, strict=True)):
        part = torch.zeros(length)
        if by:
            part[length - edge :], part[length - by :] = 1, 2
        view = [1] * 5
        view[axis + 1] = length
        region = region * 3 + part.view(view)
    own = to_windows(region, size)[..., 0]  # (nW, n)
    return (own[:, None] != own[:, :, None]).float() * -100
