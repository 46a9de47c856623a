"""Side4Video: a narrow network beside a frozen tower reads every block and mixes frames; no gradient enters the tower.

Paper: Side4Video (arXiv 2311.15769). The stem makes z of the pixels: BN(conv 3 x p x p). For a block's output o, with
u = W LN(o) (CLIP flavor), its class row c and c' = c with half of its channels from the next frame and half from the
previous one:
    z = (z + patches of u) / 2;  z = z + conv(BN(z)), conv = 1x1x1, depth-wise 3x1x1, 1x1x1
    y = LN([c'; z + E]);  z = z + MHA(y[1:], y, y);  z = z + fc2(gelu(fc1(BN(z))))
The feature is the mean over frames and patches of BN(z). In the EVA flavor (post-norm) u = LN(W o), every second block
is read, BN and LN stand behind their branches, and there is no last BN. Not an identity at the start.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xmodal.encoders.attend import attend
from xmodal.encoders.taps import Taps
from xmodal.readers import Reader
from xmodal.registry import READERS, method
from xmodal.structures import Encoder, Grid, need_grid


def shift(c: Tensor) -> Tensor:
    """First half of the channels of (B, T, d) from the next frame, second half from the previous; zeros at the ends."""
    first, second = c.chunk(2, -1)
    return torch.cat([F.pad(first[:, 1:], (0, 0, 0, 1)), F.pad(second[:, :-1], (0, 0, 1, 0))], -1)


def time_convolution(dim: int) -> nn.Sequential:
    """Point-wise, depth-wise over time, point-wise."""
    depthwise = nn.Conv3d(dim, dim, (3, 1, 1), padding=(1, 0, 0), groups=dim)
    return nn.Sequential(nn.Conv3d(dim, dim, 1), depthwise, nn.Conv3d(dim, dim, 1))


def to_rows(z: Tensor) -> Tensor:
    """Maps (B, d, T, h, w) as tokens (B*T, h*w, d)."""
    return z.flatten(3).permute(0, 2, 3, 1).flatten(0, 1)


def to_maps(rows: Tensor, z: Tensor) -> Tensor:
    """Tokens (B*T, h*w, d) as maps of the shape of z (B, d, T, h, w)."""
    return rows.unflatten(0, (-1, z.shape[2])).permute(0, 3, 1, 2).unflatten(3, z.shape[3:])


class SeparateAttention(nn.Module):
    """Attention with a layer each for queries, keys and values (EVA); called as `nn.MultiheadAttention` is.

    Args:
        dim: width.
        num_heads: attention heads.
    """

    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.q_proj, self.k_proj, self.v_proj, self.proj = (nn.Linear(dim, dim) for _ in range(4))

    def forward(self, query: Tensor, key: Tensor, value: Tensor, need_weights: bool = False) -> tuple[Tensor]:
        """Map queries (B, N, d), keys and values (B, M, d) to (B, N, d)."""
        given = (self.q_proj(query), self.k_proj(key), self.v_proj(value))
        q, k, v = (x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for x in given)
        return (self.proj(attend(q, k, v).transpose(1, 2).flatten(2)),)


class SideBlock(nn.Module):
    """Convolution over time, attention within the frame, MLP.

    Args:
        width: of the tower, W.
        dim: of the side network, d.
        num_heads: attention heads.
        post_norm: the EVA flavor, norms behind the branches; else in front (CLIP).
    """

    def __init__(self, width: int, dim: int, num_heads: int, post_norm: bool = False):
        super().__init__()
        self.post_norm = post_norm
        self.ln_in, self.linear = nn.LayerNorm(dim if post_norm else width), nn.Linear(width, dim)
        self.bn1, self.conv, self.bn2 = nn.BatchNorm3d(dim), time_convolution(dim), nn.BatchNorm3d(dim)
        self.ln = nn.LayerNorm(dim)
        attention: Any = SeparateAttention if post_norm else partial(nn.MultiheadAttention, batch_first=True)
        self.attn = attention(dim, num_heads)
        self.fc1, self.fc2 = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)
        if not post_norm:
            for layer, std in ((self.fc1, (2 * dim) ** -0.5), (self.fc2, (24 * dim) ** -0.5)):
                nn.init.normal_(layer.weight, std=std)
            nn.init.normal_(self.linear.weight, std=(2 * dim) ** -0.5)
            nn.init.normal_(self.attn.in_proj_weight, std=dim**-0.5)
            nn.init.normal_(self.attn.out_proj.weight, std=(24 * dim) ** -0.5)

    def forward(self, z: Tensor, o: Tensor, positions: Tensor) -> Tensor:
        """Map maps z (B, d, T, h, w) beside a block's output o (B*T, 1 + h*w, W)."""
        u = self.normed(self.ln_in, self.linear, o)  # (B*T, 1 + h*w, d)
        c = shift(u[:, 0].unflatten(0, (-1, z.shape[2]))).flatten(0, 1)[:, None]  # (B*T, 1, d)
        z = 0.5 * z + 0.5 * to_maps(u[:, 1:], z)
        z = z + self.normed(self.bn1, self.conv, z)
        y = torch.cat([c, to_rows(z) + positions], 1)
        z = z + to_maps(self.normed(self.ln, self.attend, y), z)
        return z + self.normed(self.bn2, self.expand, z)

    def normed(self, norm: nn.Module, operation: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """Apply an operation with its norm in front or behind."""
        return norm(operation(x)) if self.post_norm else operation(norm(x))

    def attend(self, y: Tensor) -> Tensor:
        """Let the patches of (B*T, 1 + P, d) attend to all tokens: (B*T, P, d)."""
        return self.attn(y[:, 1:], y, y, need_weights=False)[0]

    def expand(self, z: Tensor) -> Tensor:
        """Apply the MLP to every place of (B, d, T, h, w)."""
        return to_maps(self.fc2(F.gelu(self.fc1(to_rows(z)))), z)


@method(
    READERS,
    "side4video",
    slot="reader",
    paper="Side4Video (arXiv 2311.15769)",
    params="N*(14*d*d + W*d + 2*W + 24*d) + P*d + 9*p*p*d + 5*d",
    parity=("side4video", "side4video_eva"),
)
class Side4Video(Reader):
    """A side network on the outputs of a frozen tower's blocks and on the pixels of all frames.

    Args:
        encoder: the tower read; it needs a class token.
        dim: width d; 320 for ViT-B/16, 512 for L/14, 576 for EVA E/14.
        num_heads: attention heads; None for d // 64.
        post_norm: the EVA flavor; it reads every second block.
        layers: blocks read; None for all (CLIP), or for those with odd numbers (EVA).

    At start: not an identity.
    Trains: all of it; its BatchNorms use the statistics of the batch in training.

    Raises:
        ValueError: a tower without a class token, or heads that do not divide the width.
    """

    reads, taps, pixels = "taps", ("post",), True

    def __init__(
        self, encoder: Encoder, dim: int = 320, num_heads: int | None = None, post_norm: bool = False,
        layers: Sequence[int] | None = None,
    ):  # fmt: skip
        super().__init__()
        heads = num_heads or max(dim // 64, 1)
        if encoder.num_prefix != 1 or dim % heads or dim % 2:
            raise ValueError(
                f"side4video needs one class token and an even width of whole heads, got {dim} and {heads}"
            )
        depth, patch = len(encoder.blocks), encoder.patch_size
        self.layers = tuple(layers if layers is not None else range(1, depth, 2) if post_norm else range(depth))
        self.out_dim = dim
        self.stem = nn.Conv3d(3, dim, (3, patch, patch), stride=(1, patch, patch), padding=(1, 0, 0))
        self.stem_norm = nn.BatchNorm3d(dim)
        self.positions = nn.Parameter(torch.zeros((encoder.image_size // patch) ** 2, dim))
        nn.init.normal_(self.positions, std=0.02 if post_norm else 0.01)
        self.side = nn.ModuleList(SideBlock(encoder.dim, dim, heads, post_norm) for _ in self.layers)
        self.post_norm: nn.Module = nn.Identity() if post_norm else nn.BatchNorm3d(dim)

    def forward(self, tokens: Tensor, grid: Grid | None, encoder: Encoder, taps: Taps | None) -> Tensor:
        """Read the taps of a pass over (B*T, N, D) and the frames; returns (B, d).

        Raises:
            ValueError: frames of another size than the positions were made for.
        """
        grid = need_grid(grid, "side4video")
        if grid.num_patches != len(self.positions):
            raise ValueError(
                f"side4video was built for {len(self.positions)} patches, these frames have {grid.num_patches}"
            )
        return self.post_norm(self.states(taps)[-1]).mean((2, 3, 4))  # type: ignore[arg-type]

    def states(self, taps: Taps) -> list[Tensor]:
        """The side network's maps (B, d, T, h, w) behind every of its blocks."""
        assert taps.pixels is not None
        states = [self.stem_norm(self.stem(taps.pixels))]
        for block, i in zip(self.side, self.layers, strict=True):
            states.append(block(states[-1], taps["post", i].detach(), self.positions))
        return states[1:]
