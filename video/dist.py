"""DiST: a light convolutional encoder on dense frames beside a frozen tower on sparse frames, joined at every block.

Paper: Disentangling Spatial and Temporal Learning for Efficient Image-to-Video Transfer Learning (arXiv 2309.07911).
The tower sees every alpha-th frame; o_l is the output of its block l. With x the stem's maps of all frames, q the
QuickGELU and R = 0 at first, for each l:
    x = q(x + conv2(q(conv1(LN x)))),  m = W o_l + R
    x, m = x + up(m), m + down(x)      (both from before: up repeats in time, down strides by alpha, with a class row)
    R = ffn(LN m) + temporal_ffn(LN m)
From F = R + m, pooling layers let a query s per frame read F and a query a per clip read s + positions, and the feature
is LN(a + W mean_t(class token of o)) @ proj. Not an identity at the start.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from xmodal.encoders.parts import QuickGELU
from xmodal.encoders.taps import Taps
from xmodal.readers import Reader
from xmodal.registry import READERS, method
from xmodal.structures import Encoder, Grid, need_grid


def mlp(dim: int, hidden: int) -> nn.Sequential:
    """Two linear layers around a QuickGELU."""
    return nn.Sequential(nn.Linear(dim, hidden), QuickGELU(), nn.Linear(hidden, dim))


class JoinLayer(nn.Module):
    """Run one layer beside a block of the tower: temporal encoder, exchange of features, integration.

    Args:
        width: of the tower.
        dim: of the integration branch, D_i.
        channels: of the temporal encoder, C.
        alpha: dense frames a sparse one.
        frames: sparse frames t.
        kernel: of convolutions over time.
        ratios: hidden widths of the temporal encoder, of the MLP and of the MLP over time, over their widths.
    """

    def __init__(
        self, width: int, dim: int, channels: int, alpha: int, frames: int, kernel: int, ratios: Sequence[float]
    ):
        super().__init__()
        wide, hidden, narrow = int(channels * ratios[0]), int(dim * ratios[1]), int(dim * ratios[2])
        over_time: Any = dict(kernel_size=(kernel, 1, 1), padding=(kernel // 2, 0, 0))
        self.alpha, self.act, self.input = alpha, QuickGELU(), nn.Linear(width, dim)
        self.norm = nn.LayerNorm(channels)
        self.conv1 = nn.Conv3d(channels, wide, **over_time)
        self.conv2 = nn.Conv3d(wide, channels, (1, 3, 3), padding=(0, 1, 1))
        self.up, self.down = nn.Linear(dim, channels), nn.Conv3d(channels, dim, (alpha, 1, 1), stride=(alpha, 1, 1))
        self.cls_token = nn.Parameter(torch.zeros(1, 1, frames, dim))
        self.ln, self.ffn, self.ln_temporal = nn.LayerNorm(dim), mlp(dim, hidden), nn.LayerNorm(dim)
        self.temporal_ffn = nn.Sequential(
            nn.Conv3d(dim, narrow, 1),
            nn.Conv3d(narrow, narrow, **over_time),
            QuickGELU(),
            nn.Conv3d(narrow, dim, 1),
        )

    def forward(self, x: Tensor, o: Tensor, past: Tensor | float) -> tuple[Tensor, Tensor, Tensor]:
        """Map maps x (B, C, T, h, w), a block's output o (B, t, 1 + P, W) and R to x, m and R (B, t, 1 + P, D_i)."""
        y = self.norm(x.movedim(1, -1)).movedim(-1, 1)
        x = self.act(x + self.conv2(self.act(self.conv1(y))))
        m = self.input(o) + past
        up = self.up(m[:, :, 1:]).permute(0, 3, 1, 2).unflatten(3, x.shape[3:])  # (B, C, t, h, w)
        down = self.down(x).flatten(3).permute(0, 2, 3, 1)  # (B, t, P, D_i)
        rows = self.cls_token[0, 0][:, None].expand(x.shape[0], -1, -1, -1)  # (B, t, 1, D_i)
        x, m = x + up.repeat_interleave(self.alpha, 2), m + torch.cat([rows, down], 2)
        time = self.temporal_ffn(self.ln_temporal(m).permute(0, 3, 1, 2)[..., None])[..., 0].permute(0, 2, 3, 1)
        return x, m, self.ffn(self.ln(m)) + time


class Reading(nn.Module):
    """A query reads tokens, then an MLP: q = q + MHA(LN q, LN x, LN x); q = q + mlp(LN q).

    Args:
        dim: width.
        num_heads: attention heads.
    """

    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        self.ln, self.attn = nn.LayerNorm(dim), nn.MultiheadAttention(dim, num_heads, batch_first=True)
        self.ln_out, self.mlp = nn.LayerNorm(dim), mlp(dim, 4 * dim)

    def forward(self, query: Tensor, x: Tensor) -> Tensor:
        """Map the query (B, 1, D) beside tokens (B, N, D)."""
        seen = self.ln(x)
        query = query + self.attn(self.ln(query), seen, seen, need_weights=False)[0]
        return query + self.mlp(self.ln_out(query))


class FramePooling(nn.Module):
    """A query of each frame reads its tokens, a query of the clip reads those.

    Args:
        dim: width.
        num_heads: attention heads.
        frames: t.
    """

    def __init__(self, dim: int, num_heads: int, frames: int):
        super().__init__()
        self.positions = nn.Parameter(torch.zeros(1, frames, dim))
        self.space, self.time = Reading(dim, num_heads), Reading(dim, num_heads)

    def forward(self, s: Tensor, a: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Map s (B*t, 1, D), a (B, 1, D) and tokens (B*t, N, D)."""
        s = self.space(s, tokens)
        return s, self.time(a, s.unflatten(0, (a.shape[0], -1))[:, :, 0] + self.positions)


@method(
    READERS,
    "dist",
    slot="reader",
    paper="DiST (arXiv 2309.07911)",
    params="see the module; 19,001,184 on ViT-B/16 with 16 frames and 2 pooling layers",
    parity=("dist",),
)
class DiST(Reader):
    """DiST on a frozen tower; the feature is compared with text features (`zero_shot` with templates=["{}"]).

    Args:
        encoder: the tower read; it needs a class token and a projection.
        num_frames: dense frames T of a clip.
        alpha: the tower sees every alpha-th frame.
        layers: blocks read; None for all.
        dim: width D_i of the integration branch.
        channels: C of the temporal encoder.
        num_heads: attention heads of the pooling; None for D_i // 64.
        pooling_layers: 2 on Something-Something v2, 4 on Kinetics.
        kernel: of convolutions over time.
        stem_kernel: frames that the stem's kernel spans.
        ratios: hidden widths of the temporal encoder, of the MLP and of the MLP over time, over their widths.

    At start: not an identity.
    Trains: all of it but the last exchange into the temporal encoder, which cannot change the output.

    Raises:
        ValueError: frames that alpha does not divide, or a tower without a class token.
    """

    reads, taps, pixels = "taps", ("post",), True

    def __init__(
        self, encoder: Encoder, num_frames: int = 16, alpha: int = 2, layers: Sequence[int] | None = None,
        dim: int = 384, channels: int = 96, num_heads: int | None = None, pooling_layers: int = 2, kernel: int = 3,
        stem_kernel: int = 5, ratios: Sequence[float] = (1, 1, 0.25),
    ):  # fmt: skip
        super().__init__()
        if num_frames % alpha or encoder.num_prefix != 1:
            raise ValueError(f"dist needs one class token, and {num_frames} frames that alpha {alpha} divides")
        self.num_frames, self.frame_step = num_frames, alpha
        frames, patch = num_frames // alpha, encoder.patch_size
        self.layers = tuple(range(len(encoder.blocks)) if layers is None else layers)
        self.out_dim = encoder.out_dim
        stem = (stem_kernel, patch, patch)
        self.stem = nn.Conv3d(3, channels, stem, stride=(1, patch, patch), padding=(stem_kernel // 2, 0, 0))
        given = (encoder.dim, dim, channels, alpha, frames, kernel, ratios)
        self.join = nn.ModuleList(JoinLayer(*given) for _ in self.layers)
        self.join[-1].up.requires_grad_(False)  # nothing reads what it would change; kept for checkpoints
        heads = num_heads or max(dim // 64, 1)
        self.pooling = nn.ModuleList(FramePooling(dim, heads, frames) for _ in range(pooling_layers))
        self.frame_query, self.query = (nn.Parameter(torch.zeros(1, 1, dim)) for _ in range(2))
        self.cls_proj, self.norm = nn.Linear(encoder.dim, dim), nn.LayerNorm(dim)
        self.proj = nn.Parameter(torch.randn(dim, self.out_dim) * dim**-0.5)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Truncated normal weights, tokens and positions (std 0.02), zero biases."""
        for name, p in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(p)
            elif p.ndim > 1 and name != "proj" and "in_proj" not in name:
                nn.init.trunc_normal_(p, std=0.02)

    def forward(self, tokens: Tensor, grid: Grid | None, encoder: Encoder, taps: Taps | None) -> Tensor:
        """Read the taps of a pass over the sparse frames (B*t, N, D) and all frames; returns (B, out_dim).

        Raises:
            ValueError: clips of another number of frames.
        """
        assert taps is not None
        assert taps.pixels is not None
        frames, past = need_grid(grid, "dist").t, torch.zeros((), device=taps.pixels.device)
        if taps.pixels.shape[2] != self.num_frames:
            given = taps.pixels.shape[2]
            raise ValueError(f"dist was built for clips of {self.num_frames} frames, and these have {given}")
        x = self.stem(taps.pixels)
        for layer, i in zip(self.join, self.layers, strict=True):
            x, m, past = layer(x, taps["post", i].unflatten(0, (-1, frames)), past)
        tokens = (past + m).flatten(0, 1)  # (B*t, 1 + P, D_i)
        a = self.query.expand(tokens.shape[0] // frames, -1, -1)
        s = self.frame_query.expand(tokens.shape[0], -1, -1)
        for layer in self.pooling:
            s, a = layer(s, a, tokens)
        seen = taps["post", self.layers[-1]][:, 0].unflatten(0, (-1, frames)).mean(1)
        return self.norm(a[:, 0] + self.cls_proj(seen)) @ self.proj
