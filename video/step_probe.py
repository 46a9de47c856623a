"""A STEP-style probe for actions that differ by the order of frames: one attention with a position per frame.

After STEP (arXiv 2503.24298), of which only the abstract could be read: this is our definition and no official
result. With the patch tokens x_t of
frame t and a class token c,
    s = [c, x_1 + p_1, ..., x_T + p_T],   feature = Wo concat_heads softmax(q_c K^T / sqrt(D/H)) V + b
where q, k, v are linear in s: no norm, no residual, no MLP. 4*D*D + 5*D + T*D weights.
"""

import torch
from torch import Tensor, nn

from xmodal.encoders.attend import attend
from xmodal.encoders.block import Mlp
from xmodal.encoders.patches import patches_of
from xmodal.encoders.taps import Taps
from xmodal.readers import Reader
from xmodal.registry import READERS, method
from xmodal.structures import Encoder, Grid, need_grid


@method(
    READERS,
    "step_probe",
    slot="reader",
    paper="STEP-style, our definition after the abstract of arXiv 2503.24298",
    params="4*D*D + 5*D + T*D",
    parity=("step_probe",),
)
class StepProbe(Reader):
    """One self-attention of a class token over all patch tokens, with a learned position per frame.

    Args:
        encoder: the tower read.
        num_frames: positions P; clips may be shorter.
        num_heads: attention heads; None for the encoder's.
        norm: a LayerNorm in front.
        residual: add the class token to what attention gives.
        mlp: an MLP with a residual behind attention.

    At start: not an identity.
    Trains: all of it.

    Raises:
        ValueError: a number of heads that does not divide the width.
    """

    reads = "all"

    def __init__(
        self,
        encoder: Encoder,
        num_frames: int,
        num_heads: int | None = None,
        norm: bool = False,
        residual: bool = False,
        mlp: bool = False,
    ):
        super().__init__()
        dim = self.out_dim = encoder.dim
        self.num_heads = num_heads or encoder.num_heads
        if dim % self.num_heads:
            raise ValueError(f"step_probe: width {dim} does not divide into {self.num_heads} heads")
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.frame_pos = nn.Parameter(torch.zeros(1, num_frames, 1, dim))
        self.norm = nn.LayerNorm(dim) if norm else nn.Identity()
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.residual = residual
        self.mlp = nn.Sequential(nn.LayerNorm(dim), Mlp(dim, 4 * dim)) if mlp else None
        for token in (self.cls_token, self.frame_pos):
            nn.init.trunc_normal_(token, std=0.02)

    def forward(self, tokens: Tensor, grid: Grid | None, encoder: Encoder, taps: Taps | None = None) -> Tensor:
        """Map (B*T, N, D) to (B, D)."""
        grid = need_grid(grid, "step_probe")
        patches = patches_of(encoder.norm(tokens, grid), grid, grid.prefix)
        return self.attend(patches.unflatten(0, (-1, grid.t)))

    def attend(self, x: Tensor) -> Tensor:
        """Map the patch tokens of clips (B, T, S, D) to (B, D).

        Raises:
            ValueError: clips of more frames than there are positions.
        """
        frames, known = x.shape[1], self.frame_pos.shape[1]
        if frames > known:
            raise ValueError(f"step_probe has positions for {known} frames, and the clip has {frames}")
        c = self.cls_token.expand(x.shape[0], -1, -1)
        s = self.norm(torch.cat([c, (x + self.frame_pos[:, :frames]).flatten(1, 2)], 1))  # (B, 1 + T*S, D)
        dim = s.shape[-1]
        q = nn.functional.linear(s[:, :1], self.qkv.weight[:dim], self.qkv.bias[:dim])
        k, v = nn.functional.linear(s, self.qkv.weight[dim:], self.qkv.bias[dim:]).chunk(2, -1)
        q, k, v = (t.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for t in (q, k, v))
        y = self.proj(attend(q, k, v).transpose(1, 2).flatten(2))
        y = y + c if self.residual else y
        y = y if self.mlp is None else y + self.mlp(y)
        return y[:, 0]
