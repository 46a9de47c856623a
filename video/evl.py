"""EVL: a small decoder with one learned query reads the frozen tower's last blocks.

Paper: Frozen CLIP Models are Efficient Video Learners (arXiv 2208.03550). No gradient reaches the tower. Weights with
N layers, query width Q, MLP factor m, T frames and a grid of G x G patches:
N*(4*D*Q + 3*Q + D + 2*m*D*D + m*D + D + 6*D) + N*4*D + N*T*D + N*2*(2G-1)^2*D + D, head not included.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from video.evl_tokens import Augment, ReadTokens
from video.motion import MotionTable
from xmodal.encoders.parts import QuickGELU
from xmodal.encoders.taps import Taps
from xmodal.readers import Reader
from xmodal.registry import READERS, method
from xmodal.structures import Encoder, Grid, need_grid


class QueryAttention(nn.Module):
    """Attention of one query over many tokens, without normed tokens and without projecting them to keys and values.

    With one query, q.(Wk y) = (Wk^T q).y and the sum of a*(Wv y) is Wv(sum of a*y): two small products instead of two
    projections of every token. The key bias shifts all scores alike and cancels; it is kept for checkpoints and does
    not train.
    """

    def __init__(self, dim: int, qkv_dim: int, num_heads: int):
        super().__init__()
        if qkv_dim % num_heads:
            raise ValueError(f"evl: qkv_dim {qkv_dim} does not divide into {num_heads} heads")
        self.num_heads = num_heads
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(dim, qkv_dim) for _ in range(3))
        self.out_proj = nn.Linear(qkv_dim, dim)
        for linear in (self.q_proj, self.k_proj, self.v_proj, self.out_proj):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)
        self.k_proj.bias.requires_grad_(False)

    def forward(self, x: Tensor, tokens: Tensor, norm: nn.LayerNorm) -> Tensor:
        """Let x (B, 1, D) read what norm makes of tokens (B, N, D); returns (B, 1, D)."""
        q = self.q_proj(x)[:, 0].unflatten(-1, (self.num_heads, -1))  # (B, H, d)
        wk = self.k_proj.weight.unflatten(0, (self.num_heads, -1))  # (H, d, D)
        wv = self.v_proj.weight.unflatten(0, (self.num_heads, -1))  # (H, d, D)
        query = (q.transpose(0, 1) @ wk).transpose(0, 1) * q.shape[-1] ** -0.5  # (B, H, D)
        wide = torch.promote_types(query.dtype, torch.float32)
        inputs = (t.to(wide) for t in (query, tokens, norm.weight, norm.bias))
        read = ReadTokens.apply(*inputs, norm.eps).to(query.dtype)  # (B, H, D)
        mixed = (wv @ read.permute(1, 2, 0)).permute(2, 0, 1).flatten(1) + self.v_proj.bias  # (B, Q)
        return self.out_proj(mixed)[:, None]


class EVLLayer(nn.Module):
    """Temporal modules on one block's tokens, then a decoder layer for the query.

    Args:
        dim: width D.
        num_frames: T.
        grid: patches (h, w).
        qkv_dim: width of queries, keys and values.
        num_heads: attention heads.
        mlp_factor: hidden width of the MLP over D.
        dropout: inside the MLP.
        temporal_conv: depth-wise convolution over time.
        temporal_pos_embed: learned time positions.
        temporal_cross_attention: motion from the attention between neighboring frames.
        recompute: make the augmented tokens again in the backward pass.
    """

    def __init__(
        self,
        dim: int,
        num_frames: int,
        grid: tuple[int, int],
        qkv_dim: int,
        num_heads: int,
        mlp_factor: float = 4.0,
        dropout: float = 0.5,
        temporal_conv: bool = True,
        temporal_pos_embed: bool = True,
        temporal_cross_attention: bool = True,
        recompute: bool = False,
    ):
        super().__init__()
        self.recompute = recompute
        self.temporal_conv = nn.Conv1d(dim, dim, 3, padding=1, groups=dim) if temporal_conv else None
        self.temporal_pos_embed = nn.Parameter(torch.zeros(num_frames, dim)) if temporal_pos_embed else None
        self.cross_attention = MotionTable(dim, grid) if temporal_cross_attention else None
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(dim) for _ in range(3))
        self.attn = QueryAttention(dim, qkv_dim, num_heads)
        hidden = round(mlp_factor * dim)
        self.fc1, self.fc2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
        self.act, self.dropout = QuickGELU(), nn.Dropout(dropout)
        for linear in (self.fc1, self.fc2):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.normal_(linear.bias, std=1e-6)

    def augment(self, frames: Tensor, motion: Tensor | None, grid: Grid) -> Tensor:
        """Add what the temporal modules see.

        Args:
            frames: tokens of one block (B, T, N, D); never changed in place.
            motion: what `cross_attention` makes of that block's maps (B, T, n, D).
            grid: where the patches sit.

        Returns:
            Tokens (B, T, N, D).
        """
        conv, time = self.temporal_conv, self.temporal_pos_embed
        weight, bias = (None, None) if conv is None else (conv.weight[..., None], conv.bias)
        return Augment.apply(frames, weight, bias, time, motion, grid.prefix)

    def read(self, x: Tensor, frames: Tensor, past: Tensor | None, future: Tensor | None, grid: Grid) -> Tensor:
        """Attend with the query x (B, 1, D) to the augmented tokens of one block (B, T, N, D)."""
        motion = None if self.cross_attention is None else self.cross_attention((past, future))  # (B, T, hw, D)
        tokens = self.augment(frames, motion, grid).flatten(1, 2)  # (B, T*N, D)
        return self.attn(self.norm1(x), tokens, self.norm3)

    def forward(self, x: Tensor, frames: Tensor, maps: tuple[Tensor, Tensor] | None, grid: Grid) -> Tensor:
        """Let the query x (B, 1, D) read the tokens of one block (B, T, N, D); under autocast it reads in float32."""
        with torch.autocast(x.device.type, enabled=False):
            dtype = self.norm3.weight.dtype
            inputs = x.to(dtype), frames.to(dtype), *(maps or (None, None)), grid
            if self.recompute and torch.is_grad_enabled():
                x = x + checkpoint(self.read, *inputs, use_reentrant=False)
            else:
                x = x + self.read(*inputs)
        return x + self.fc2(self.dropout(self.act(self.fc1(self.norm2(x)))))


@method(
    READERS,
    "evl",
    slot="reader",
    paper="EVL: Frozen CLIP Models are Efficient Video Learners (arXiv 2208.03550)",
    params="N*(4*D*Q + 3*Q + 2*m*D*D + m*D + 8*D) + N*4*D + N*T*D + N*2*(2*Gh-1)*(2*Gw-1)*D + D",
    parity=("evl",),
)
class EVLDecoder(Reader):
    """The EVL decoder on the last blocks of a frozen tower.

    Args:
        encoder: the tower read.
        num_frames: T.
        num_layers: decoder layers N; layer i reads block depth - N + i.
        qkv_dim: width of queries, keys and values; default D.
        num_heads: attention heads; default the encoder's (12 for B/16, 16 for L/14).
        mlp_factor: hidden width of the MLP over D.
        mlp_dropout: inside the MLPs.
        temporal_conv: depth-wise convolution over time.
        temporal_pos_embed: learned time positions.
        temporal_cross_attention: motion from the attention between neighboring frames.
        recompute: decoder layers, from the last, that make their tokens again in the backward pass. Each keeps T*N*D
            numbers less and costs about 0.5 % of a step at ViT-B/16.

    Raises:
        ValueError: more layers than the encoder has blocks.

    At start: not an identity (the convolution is not zero).
    Trains: all of it but the key biases, which cannot change the output.
    """

    reads = "taps"

    def __init__(
        self,
        encoder: Encoder,
        num_frames: int,
        num_layers: int = 4,
        qkv_dim: int | None = None,
        num_heads: int | None = None,
        mlp_factor: float = 4.0,
        mlp_dropout: float = 0.5,
        temporal_conv: bool = True,
        temporal_pos_embed: bool = True,
        temporal_cross_attention: bool = True,
        recompute: int = 2,
    ):
        super().__init__()
        depth, dim = len(encoder.blocks), encoder.dim
        if not 0 < num_layers <= depth:
            raise ValueError(f"evl: num_layers={num_layers}, but the encoder has {depth} blocks")
        self.taps = ("attn.q", "attn.k", "post") if temporal_cross_attention else ("post",)
        self.layers = tuple(range(depth - num_layers, depth))
        self.out_dim = dim
        self.num_frames = num_frames
        side = encoder.image_size // encoder.patch_size
        self.query = nn.Parameter(torch.zeros(dim))
        self.decoder = nn.ModuleList(
            EVLLayer(
                dim,
                num_frames,
                (side, side),
                qkv_dim or dim,
                num_heads or encoder.num_heads,
                mlp_factor,
                mlp_dropout,
                temporal_conv,
                temporal_pos_embed,
                temporal_cross_attention,
                i >= num_layers - recompute,
            )
            for i in range(num_layers)
        )

    def forward(self, tokens: Tensor, grid: Grid | None, encoder: Encoder, taps: Taps | None) -> Tensor:
        """Read the taps of a pass over (B*T, N, D); returns (B, D).

        Raises:
            ValueError: clips of another length than `num_frames`.
        """
        return self.from_frozen(self.frozen(tokens, grid, encoder, taps), grid, encoder)

    def frozen(self, tokens: Tensor, grid: Grid | None, encoder: Encoder, taps: Taps | None) -> dict[str, Tensor]:
        """Block outputs (B*T, N, D) and, of their attention, the maps between frames (B, T-1, n, n)."""
        kept = {}
        for layer, i in zip(self.decoder, self.layers, strict=True):
            frames, maps = self.seen(layer, i, need_grid(grid, "evl"), taps)  # type: ignore[arg-type]
            kept[f"post.{i}"] = frames.flatten(0, 1)
            if maps is not None:
                kept[f"past.{i}"], kept[f"future.{i}"] = maps
        return kept

    def from_frozen(self, kept: dict[str, Tensor], grid: Grid | None, encoder: Encoder) -> Tensor:
        """Let the query read what `frozen` gave; returns (B, D)."""
        grid = need_grid(grid, "evl")
        if grid.t != self.num_frames:
            raise ValueError(f"evl was built for num_frames={self.num_frames}, this clip has {grid.t}")
        x = self.query.expand(kept[f"post.{self.layers[0]}"].shape[0] // grid.t, 1, -1)  # (B, 1, D)
        for layer, i in zip(self.decoder, self.layers, strict=True):
            frames = kept[f"post.{i}"].unflatten(0, (-1, grid.t))  # (B, T, N, D)
            maps = (kept[f"past.{i}"], kept[f"future.{i}"]) if f"past.{i}" in kept else None
            x = layer(x, frames, maps, grid)
        return x[:, 0]

    def seen(self, layer: Any, i: int, grid: Grid, taps: Taps) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        """Return what a decoder layer reads of block i: tokens (B, T, N, D) and attention maps between frames."""
        frames = taps["post", i].unflatten(0, (-1, grid.t))
        if layer.cross_attention is None:
            return frames, None
        return frames, layer.cross_attention.maps(taps["attn.q", i], taps["attn.k", i], grid)
