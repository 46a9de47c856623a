"""AIM: adapters behind spatial attention, around the same attention over time, and beside the MLP.

Paper: AIM: Adapting Image Models for Efficient Video Action Recognition (arXiv 2302.03024). Identity at the start (the
up projections and the temporal positions are zero). With h = hidden: L * 3*(2*D*h + h + D) + T*D weights.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from xmodal.encoders.block import Block
from xmodal.encoders.sites import choose_blocks, linear, place
from xmodal.registry import ADAPTERS, method
from xmodal.structures import Encoder, Grid, need_grid


class Adapter(nn.Module):
    """Down, GELU, up.

    Args:
        dim: width D.
        hidden: width h between.
    """

    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.fc1, self.act, self.fc2 = nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim)
        nn.init.zeros_(self.fc2.weight)
        nn.init.zeros_(self.fc2.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., D) to (..., D)."""
        return self.fc2(self.act(self.fc1(x)))


class SpatialAdapter(Adapter):
    """Behind the attention over space: y -> y + adapter(y)."""

    def forward(self, y: Tensor, x: Tensor, grid: Grid | None = None) -> Tensor:  # type: ignore[override]
        """Map the attention's output (B*T, N, D)."""
        return y + super().forward(y)


class JointAdapter(Adapter):
    """Beside the MLP: y -> y + scale * adapter(x).

    Args:
        dim: width D.
        hidden: width h between.
        scale: constant factor.
    """

    def __init__(self, dim: int, hidden: int, scale: float = 0.5):
        super().__init__(dim, hidden)
        self.scale = scale

    def forward(self, y: Tensor, x: Tensor, grid: Grid | None = None) -> Tensor:  # type: ignore[override]
        """Map the MLP's output y of x (B*T, N, D)."""
        return y + self.scale * super().forward(x)


class TemporalAttention(nn.Module):
    """The block's own frozen norm and attention, over the frames of each token, through an adapter.

    Args:
        block: whose norm and attention are used.
        dim: width D.
        hidden: width h of the adapter.
    """

    def __init__(self, block: Block, dim: int, hidden: int):
        super().__init__()
        self.block = (block,)  # in a tuple: known, not owned
        self.adapter = Adapter(dim, hidden)

    def forward(self, x: Tensor, grid: Grid | None = None) -> Tensor:
        """Map the residual stream (B*T, N, D) to the same shape."""
        frames = need_grid(grid, "aim").t
        block = self.block[0]
        u = block.norm1(x, grid).unflatten(0, (-1, frames))  # (B, T, N, D)
        u = u.transpose(1, 2).flatten(0, 1)  # (B*N, T, D)
        attn = block.attn
        qkv = linear(u, attn.qkv.weight, attn.qkv.bias)
        q, k, v = (attn.heads(part) for part in qkv.chunk(3, dim=-1))  # (B*N, H, T, D/H)
        y = nn.functional.scaled_dot_product_attention(attn.q_norm(q), attn.k_norm(k), v)
        y = attn.norm(y.transpose(1, 2).flatten(2))
        y = linear(y, attn.proj.weight, attn.proj.bias)  # (B*N, T, D)
        y = y.unflatten(0, (-1, x.shape[1])).transpose(1, 2).flatten(0, 1)  # (B*T, N, D)
        return x + self.adapter(y.to(x.dtype))


class TemporalPositions(nn.Module):
    """A learned position per frame, added to all its tokens before the first block.

    Args:
        num_frames: T.
        dim: width D.
    """

    def __init__(self, num_frames: int, dim: int):
        super().__init__()
        self.embedding = nn.Parameter(torch.zeros(num_frames, 1, dim))

    def forward(self, x: Tensor, grid: Grid | None = None) -> Tensor:
        """Map (B*T, N, D) to the same shape.

        Raises:
            ValueError: clips of another number of frames.
        """
        frames = need_grid(grid, "aim").t
        if frames != len(self.embedding):
            raise ValueError(f"aim was built for clips of {len(self.embedding)} frames and got {frames}")
        return x + self.embedding.repeat(len(x) // frames, 1, 1)


@method(
    ADAPTERS,
    "aim",
    slot="adapter",
    paper="AIM: Adapting Image Models for Efficient Video Action Recognition (arXiv 2302.03024)",
    params="L * 3*(2*D*h + h + D) + T*D",
)
def aim(
    encoder: Encoder,
    num_frames: int = 8,
    hidden: int | None = None,
    scale: float = 0.5,
    blocks: int | Iterable[int] | None = None,
    name: str = "aim",
) -> list[nn.Module]:
    """Place AIM's three adapters in the blocks of an encoder, and temporal positions in front of them.

    Args:
        encoder: a tower of blocks.
        num_frames: T of the clips; 1 leaves the temporal parts out.
        hidden: width h of the adapters; None for a quarter of the encoder's width, as in the paper.
        scale: of the adapter beside the MLP.
        blocks: None for all, a number n for the last n, or indices.
        name: the adapters' name at their sites.

    Raises:
        ValueError: no frame, or a width below 1.
    """
    hidden = encoder.dim // 4 if hidden is None else hidden
    if num_frames < 1 or hidden < 1:
        raise ValueError(f"aim: num_frames and hidden must be at least 1, got {num_frames} and {hidden}")
    if any(getattr(block, "post_norm", False) for block in encoder.blocks):
        raise ValueError(f"aim needs norms before attention and MLP, and {encoder.name} has them behind")
    modules: list[nn.Module] = []
    if num_frames > 1:
        modules.append(place(encoder, "pre_blocks", name, TemporalPositions(num_frames, encoder.dim)))
    for block in choose_blocks(encoder, blocks):
        if num_frames > 1:
            modules.append(place(block, "pre_attn", name, TemporalAttention(block, encoder.dim, hidden)))
        modules.append(place(block, "attn", name, SpatialAdapter(encoder.dim, hidden)))
        modules.append(place(block, "mlp", name, JointAdapter(encoder.dim, hidden, scale)))
    return modules
