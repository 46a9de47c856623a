"""The attentive probe of V-JEPA 2: one query reads all tokens of all segments of a video, behind self-attention blocks.

Paper: V-JEPA 2 (arXiv 2506.09985). With x all normed tokens of a clip's segments, d - 1 blocks as the encoder's
(pre-norm, without positions, LayerNorm eps 1e-5), then for the query q
    q = q + concat_heads softmax(Wq q (Wk n1(x))^T / sqrt(D/H)) Wv n1(x)      (no output projection, q not normed)
    q = q + fc2(gelu(fc1(n2(q))))
The probe is blind to the order of frames unless the encoder is not, or `num_frames` gives it a position for each.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from video.readers import frame_stream
from xmodal.encoders.block import Block, Mlp
from xmodal.encoders.taps import Taps
from xmodal.readers import Reader
from xmodal.registry import READERS, method
from xmodal.structures import Encoder, Grid


class CrossBlock(nn.Module):
    """A query attends to normed tokens; no output projection; then an MLP.

    Args:
        dim: width D.
        num_heads: attention heads H.
        mlp_ratio: hidden width of the MLP over D.
        eps: of the norms.
    """

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float = 4.0, eps: float = 1e-5):
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"attentive_probe: width {dim} does not divide into {num_heads} heads")
        self.num_heads = num_heads
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=eps), nn.LayerNorm(dim, eps=eps)
        self.q, self.kv = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))

    def forward(self, query: Tensor, x: Tensor) -> Tensor:
        """Map the query (1, 1, D) and tokens (B, N, D) to (B, 1, D).

        With one query, q.(Wk y) = (Wk^T q).y and the sum of a*(Wv y) is Wv(sum of a*y): tokens are not projected. The
        key bias shifts all scores alike and cancels.
        """
        y, heads = self.norm1(x), (self.num_heads, -1)
        (wk, wv), bias = self.kv.weight.chunk(2), self.kv.bias.chunk(2)[1]
        q = self.q(query)[0, 0].unflatten(0, heads)  # (H, d)
        asked = torch.einsum("hd,hdw->hw", q, wk.unflatten(0, heads)) * q.shape[-1] ** -0.5  # (H, D)
        read = (y @ asked.T).softmax(1).mT @ y  # (B, H, D)
        mixed = torch.einsum("bhw,hdw->bhd", read, wv.unflatten(0, heads)).flatten(1) + bias
        query = query + mixed[:, None]
        return query + self.mlp(self.norm2(query))


@method(
    READERS,
    "attentive_probe",
    slot="reader",
    paper="V-JEPA 2 (arXiv 2506.09985)",
    params="(depth - 1)*(12*D*D + 13*D) + 11*D*D + 13*D + num_frames*D",
    parity=("vjepa2_probe", "attentive_probe"),
)
class AttentiveProbe(Reader):
    """V-JEPA 2's attentive probe, on all tokens of one or more segments and of one or more blocks.

    Args:
        encoder: the tower read.
        depth: blocks, the last of which has the query; 4 in the released probes.
        num_heads: attention heads; None for the encoder's. Released probes have 16, whatever the encoder.
        segments: consecutive clips of a video that are read together, in time order.
        layers: blocks whose normed outputs are read, concatenated clip by clip; () for the last one.
        mlp_ratio: hidden width of the MLPs over D.
        per_frame: read one feature a frame, the class token or the mean of the patches, instead of all tokens.
        num_frames: frames of a clip, each of which gets a learned position (zero at start) behind the encoder's norm;
            None for no positions, as in V-JEPA 2.

    At start: not an identity.
    Trains: all of it.

    Raises:
        ValueError: no block, a number of heads that does not divide the width, clips of other than `num_frames` frames.
    """

    def __init__(
        self, encoder: Encoder, depth: int = 4, num_heads: int | None = None, segments: int = 1,
        layers: Sequence[int] = (), mlp_ratio: float = 4.0, per_frame: bool = False, num_frames: int | None = None,
    ):  # fmt: skip
        super().__init__()
        if depth < 1 or segments < 1:
            raise ValueError(f"attentive_probe: depth and segments must be at least 1, got {depth} and {segments}")
        dim = self.out_dim = encoder.dim
        self.segments, self.layers = segments, tuple(layers)
        self.reads, self.taps = ("taps", ("post",)) if layers else ("all", ())
        if per_frame and encoder.num_prefix and not layers:
            self.reads = "prefix"
        self.per_frame, self.num_frames = per_frame, num_frames
        self.time = None if num_frames is None else nn.Parameter(torch.zeros(num_frames, dim))
        heads = num_heads or encoder.num_heads
        self.query = nn.Parameter(torch.zeros(1, 1, dim))
        self.blocks = nn.ModuleList(Block(dim, heads, mlp_ratio, norm_eps=1e-5) for _ in range(depth - 1))
        self.cross = CrossBlock(dim, heads, mlp_ratio)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Truncated normal weights (std 0.02); what block i adds to the stream divided by sqrt(2 i)."""
        nn.init.trunc_normal_(self.query, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        with torch.no_grad():
            for i, block in enumerate(self.blocks, 1):
                block.attn.proj.weight.div_((2 * i) ** 0.5)  # type: ignore[union-attr, operator]
                block.mlp.fc2.weight.div_((2 * i) ** 0.5)  # type: ignore[union-attr, operator]
            self.cross.mlp.fc2.weight.div_((2 * max(len(self.blocks), 1)) ** 0.5)

    def forward(self, tokens: Tensor, grid: Grid | None, encoder: Encoder, taps: Taps | None = None) -> Tensor:
        """Map (B*S*T, N, D), or taps, to (B, D)."""
        return self.attend(self.sequence(tokens, grid, encoder, taps))

    def sequence(self, tokens: Tensor, grid: Grid | None, encoder: Encoder, taps: Taps | None = None) -> Tensor:
        """Join the normed tokens of all frames, blocks and segments of a video: (B, S*L*T*N, D)."""
        frames = 1 if grid is None else grid.t
        if self.layers:
            assert taps is not None
            levels = [encoder.norm_behind(i)(taps["post", i], grid) for i in self.layers]
        else:
            levels = [encoder.norm(tokens, grid)]
        if self.per_frame:
            levels = [frame_stream(x, grid)[:, None] for x in levels]
        levels = [self.timed(x.unflatten(0, (-1, frames))) for x in levels]  # (B*S, T, N, D)
        clips = torch.cat([x.flatten(1, 2) for x in levels], 1)  # (B*S, L*T*N, D)
        return clips.unflatten(0, (-1, self.segments)).flatten(1, 2)

    def timed(self, x: Tensor) -> Tensor:
        """Add the positions of the frames to the tokens (B*S, T, N, D) of clips."""
        if self.time is None:
            return x
        if x.shape[1] != len(self.time):
            raise ValueError(f"attentive_probe was built for num_frames={len(self.time)}, this clip has {x.shape[1]}")
        return x + self.time[:, None]

    def attend(self, x: Tensor) -> Tensor:
        """Map the tokens of a video (B, N, D) to its feature (B, D)."""
        for block in self.blocks:
            x = block(x)
        return self.cross(self.query, x)[:, 0]
