"""Efficient Probing: learned queries average the values of frozen tokens, each its own group of channels.

Paper: Attention, Please! Revisiting Attentive Probing for Masked Image Modeling (arXiv 2506.10178). With tokens x
(N, D), queries u_j and V = x Wv^T (width D / d_out) in Q groups of channels V_j,
    y = concat_j sum_n softmax_n(u_j . x / sqrt(D))_n V_j[n]
without query, key or output projection. D*D/d_out + Q*D weights; the head has a BatchNorm without weights
(`ClassificationHead(norm="batch", init_std=None)`). Blind to the order of frames.
"""

import torch
from torch import Tensor, nn

from xmodal.encoders.patches import patches_of
from xmodal.encoders.taps import Taps
from xmodal.readers import Reader
from xmodal.registry import READERS, method
from xmodal.structures import Encoder, Grid


@method(
    READERS,
    "efficient_probe",
    slot="reader",
    paper="Attention, Please! Revisiting Attentive Probing (arXiv 2506.10178)",
    params="D*D/d_out + Q*D",
    parity=("efficient_probing",),
)
class EfficientProbe(Reader):
    """Efficient Probing on the tokens behind the final norm, of all frames of a clip.

    Args:
        encoder: the tower read.
        num_queries: Q.
        d_out: the feature has width D / d_out.
        prefix: read the class and register tokens too (the paper's `ep_all`).
        final_norm: read tokens behind the final norm; False for the raw output of the last block.
        bias: of the values.

    At start: random averages.
    Trains: all of it.

    Raises:
        ValueError: widths and queries that do not divide.
    """

    reads = "all"

    def __init__(
        self,
        encoder: Encoder,
        num_queries: int = 32,
        d_out: int = 1,
        prefix: bool = False,
        final_norm: bool = True,
        bias: bool = False,
    ):
        super().__init__()
        dim = encoder.dim
        if dim % d_out or (dim // d_out) % num_queries:
            raise ValueError(
                f"efficient_probe: width {dim} / d_out {d_out} does not divide into {num_queries} groups: choose "
                "num_queries among the divisors"
            )
        self.out_dim, self.prefix, self.final_norm = dim // d_out, prefix, final_norm
        self.queries = nn.Parameter(torch.randn(1, num_queries, dim) * 0.02)
        self.v = nn.Linear(dim, self.out_dim, bias=bias)

    def forward(self, tokens: Tensor, grid: Grid | None, encoder: Encoder, taps: Taps | None = None) -> Tensor:
        """Map (B*T, N, D) to (B, D / d_out)."""
        tokens = encoder.norm(tokens, grid) if self.final_norm else tokens
        tokens = patches_of(tokens, grid, 0 if self.prefix or grid is None else grid.prefix)
        return self.pool(tokens if grid is None else tokens.unflatten(0, (-1, grid.t)).flatten(1, 2))

    def attention(self, x: Tensor) -> Tensor:
        """Weights (B, Q, N) of the tokens (B, N, D) for every query."""
        return (self.queries @ x.mT * x.shape[-1] ** -0.5).softmax(-1)

    def pool(self, x: Tensor) -> Tensor:
        """Map tokens (B, N, D) to (B, D / d_out)."""
        maps = self.attention(x)  # (B, Q, N)
        values = self.v(x).unflatten(-1, (maps.shape[1], -1))  # (B, N, Q, d)
        return torch.einsum("bqn,bnqd->bqd", maps, values).flatten(1)
