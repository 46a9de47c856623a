"""Readers that combine the features of a clip's frames."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xmodal.encoders.patches import patches_of
from xmodal.encoders.taps import Taps
from xmodal.readers import Reader
from xmodal.registry import READERS, method
from xmodal.structures import Encoder, Grid, need_grid


def frame_stream(tokens: Tensor, grid: Grid | None) -> Tensor:
    """Return one token per frame (B*T, D): the class token, or the mean of the patches where there is none."""
    if grid is not None and grid.prefix:
        return tokens[:, 0]
    return patches_of(tokens, grid, 0).mean(1)


@READERS.register_module(name="time_mean")
class TimeMeanReader(Reader):
    """Average the class token over frames on the raw residual stream, then apply the encoder's final norm.

    Papers: ST-Adapter (arXiv 2206.13559), mean(norm); AIM (2302.03024), norm first. The order moves the logits. CLIP's
    projection is not used. Towers without a class token are averaged over patches.

    Args:
        encoder: the tower read.
        norm_first: apply the final norm to each frame, then average.
    """

    def __init__(self, encoder: Encoder, norm_first: bool = False):
        super().__init__()
        self.norm_first = norm_first
        self.reads = "prefix" if encoder.num_prefix else "all"
        self.out_dim = encoder.dim

    def forward(self, tokens: Tensor, grid: Grid | None, encoder: Encoder, taps: Taps | None = None) -> Tensor:
        """Map (B*T, N, D) to (B, D)."""
        frames = frame_stream(tokens, grid).unflatten(0, (-1, need_grid(grid, "TimeMeanReader").t))  # (B, T, D)
        return encoder.norm(frames).mean(1) if self.norm_first else encoder.norm(frames.mean(1))


@method(
    READERS,
    "attention_probe",
    slot="reader",
    paper="attentive probing over time (as in V-JEPA, arXiv 2404.08471)",
    parity=("attention_probe",),
    params="T*D + D + 4*D*D + 4*D + 2*D",
)
class AttentionProbe(Reader):
    """One learned query attends over the frames' features: the order-aware probe of frozen frames.

    Args:
        encoder: the tower read.
        num_frames: T.
        num_heads: attention heads; default the encoder's.

    At start: the query and the time positions are zero: the mean over frames, projected.
    Trains: all of it.
    """

    def __init__(self, encoder: Encoder, num_frames: int, num_heads: int | None = None):
        super().__init__()
        self.reads = "prefix" if encoder.num_prefix else "all"
        dim = self.out_dim = encoder.dim
        self.num_heads = num_heads or encoder.num_heads
        self.query = nn.Parameter(torch.zeros(1, 1, dim))
        self.num_frames = num_frames
        self.time = nn.Parameter(torch.zeros(num_frames, dim))
        self.norm = nn.LayerNorm(dim)
        self.q, self.k, self.v, self.proj = (nn.Linear(dim, dim) for _ in range(4))

    def forward(self, tokens: Tensor, grid: Grid | None, encoder: Encoder, taps: Taps | None = None) -> Tensor:
        """Map (B*T, N, D) to (B, D).

        Raises:
            ValueError: clips of another length than `num_frames`.
        """
        grid = need_grid(grid, "AttentionProbe")
        if grid.t != len(self.time):
            raise ValueError(f"AttentionProbe was built for num_frames={len(self.time)}, this clip has {grid.t}")
        frames = encoder.norm(frame_stream(tokens, grid)).unflatten(0, (-1, grid.t))  # (B, T, D)
        frames = self.norm(frames + self.time)
        q = self.heads(self.q(self.query.expand(frames.shape[0], -1, -1)))
        y = F.scaled_dot_product_attention(q, self.heads(self.k(frames)), self.heads(self.v(frames)))
        return self.proj(y.transpose(1, 2).flatten(1))  # (B, D)

    def heads(self, x: Tensor) -> Tensor:
        """Split (B, N, D) into (B, H, N, D/H)."""
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
