"""AIM: adapters behind spatial attention, around the same attention over time, and beside the MLP.

Paper: AIM: Adapting Image Models for Efficient Video Action Recognition (arXiv 2302.03024). With A the block's frozen
attention, n1 and n2 its norms, g(u) = up(gelu(down(u))) an adapter and d stochastic depth, a block computes
    u = n1(x) over the frames of each token; u = u + g_in(u) with temporal_adapters=2; x = x + d(g_t(A(u)))
    y = A(n1(x)) within each frame; x = x + y + g_s(y)
    x = x + MLP(n2(x)) + d(scale * g_m(n2(x)))
A learned position per frame is added in front of the tower's first norm. Identity at the start of a block but for the
attention over time, whose adapter is zero. With h = hidden: L * (2 + temporal_adapters)*(2*D*h + h + D) + T*D weights,
and the final norm.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from xmodal.bottleneck import Bottleneck
from xmodal.encoders.block import Block
from xmodal.encoders.sites import choose_blocks, linear, place, scale_behind, site_names, unscaled
from xmodal.registry import ADAPTERS, method
from xmodal.structures import Encoder, Grid, need_grid


class JointAdapter(Bottleneck):
    """Beside the MLP: y -> y + scale * adapter(x), dropped for all frames of a clip; the release drops positions."""

    def forward(self, y: Tensor, x: Tensor, grid: Grid | None = None) -> Tensor:
        """Map the MLP's output y of x (B*T, N, D)."""
        clips = x.unflatten(0, (-1, need_grid(grid, "aim").t))  # (B, T, N, D)
        return y + unscaled(self.adapt(clips).flatten(0, 1), self.behind[0])


class TemporalAttention(nn.Module):
    """The block's own frozen norm and attention, over the frames of each token, through an adapter.

    Args:
        block: whose norm and attention are used.
        dim: width D.
        hidden: width h of the adapters.
        adapters: 1 adapts what attention gives, 2 also what it reads.
        drop_path: probability of dropping the change of a whole clip, in training.
    """

    def __init__(self, block: Block, dim: int, hidden: int, adapters: int = 1, drop_path: float = 0.0):
        super().__init__()
        self.block = (block,)  # in a tuple: known, not owned
        self.adapter = Bottleneck(dim, hidden, init="bert_down", drop_path=drop_path)
        self.inner = Bottleneck(dim, hidden, init="bert_down") if adapters == 2 else None

    def forward(self, x: Tensor, grid: Grid | None = None) -> Tensor:
        """Map the residual stream (B*T, N, D) to the same shape."""
        frames = need_grid(grid, "aim").t
        block = self.block[0]
        u = block.norm1(x, grid).unflatten(0, (-1, frames))  # (B, T, N, D)
        u = u.transpose(1, 2).flatten(0, 1)  # (B*N, T, D)
        u = u if self.inner is None else u + self.inner.adapt(u)
        attn = block.attn
        qkv = linear(u, attn.qkv.weight, attn.qkv.bias)
        q, k, v = (attn.heads(part) for part in qkv.chunk(3, dim=-1))  # (B*N, H, T, D/H)
        y = nn.functional.scaled_dot_product_attention(attn.q_norm(q), attn.k_norm(k), v)
        y = attn.norm(y.transpose(1, 2).flatten(2))
        y = linear(y, attn.proj.weight, attn.proj.bias).unflatten(0, (-1, x.shape[1]))  # (B, N, T, D)
        return x + self.adapter.adapt(y.to(x.dtype)).transpose(1, 2).flatten(0, 1)


class TemporalPositions(nn.Module):
    """A learned position per frame, added to all its tokens.

    Args:
        num_frames: T.
        dim: width D.
    """

    def __init__(self, num_frames: int, dim: int):
        super().__init__()
        self.embedding = nn.Parameter(torch.zeros(1, num_frames, dim))

    def forward(self, x: Tensor, grid: Grid | None = None) -> Tensor:
        """Map (B*T, N, D) to the same shape.

        Raises:
            ValueError: clips of another number of frames.
        """
        frames, own = need_grid(grid, "aim").t, self.embedding.shape[1]
        if frames != own:
            raise ValueError(f"aim was built for clips of {own} frames and got {frames}")
        return x + self.embedding.transpose(0, 1).repeat(x.shape[0] // frames, 1, 1)


@method(
    ADAPTERS,
    "aim",
    slot="adapter",
    paper="AIM: Adapting Image Models for Efficient Video Action Recognition (arXiv 2302.03024)",
    params="L * (2 + temporal_adapters)*(2*D*h + h + D) + T*D + 2*D",
    parity=("aim",),
)
def aim(
    encoder: Encoder,
    num_frames: int = 8,
    hidden: int | None = None,
    scale: float = 0.5,
    temporal_adapters: int = 1,
    drop_path: float = 0.2,
    final_norm: bool = True,
    blocks: int | Iterable[int] | None = None,
    name: str = "aim",
) -> list[nn.Module]:
    """Place AIM's adapters in the blocks of an encoder and temporal positions in front of its first norm.

    Args:
        encoder: a tower of blocks.
        num_frames: T of the clips; 1 leaves the temporal parts out.
        hidden: width h of the adapters; None for a quarter of the encoder's width, as in the paper.
        scale: of the adapter beside the MLP; 1 on Something-Something v2.
        temporal_adapters: 1, or 2 for one in front of the attention over time too (Something-Something v2, ViT-B/16).
        drop_path: stochastic depth of the adapters in time and beside the MLP in the last block, linearly from 0.
        final_norm: train the tower's final norm too.
        blocks: None for all, a number n for the last n, or indices.
        name: the adapters' name at their sites.

    Raises:
        ValueError: no frame, a width below 1, neither 1 nor 2 temporal adapters, or norms behind attention.
    """
    hidden = int(encoder.dim * 0.25) if hidden is None else hidden
    if num_frames < 1 or hidden < 1 or temporal_adapters not in (1, 2):
        given = f"{num_frames}, {hidden} and {temporal_adapters}"
        raise ValueError(f"aim: num_frames and hidden must be at least 1, temporal_adapters 1 or 2, got {given}")
    if any(getattr(block, "post_norm", False) for block in encoder.blocks):
        raise ValueError(f"aim needs norms before attention and MLP, and {encoder.name} has them behind")
    modules: list[nn.Module] = []
    if num_frames > 1:
        front = "embedded" if "embedded" in site_names(encoder) else "pre_blocks"
        modules.append(place(encoder, front, name, TemporalPositions(num_frames, encoder.dim)))
    depths = {id(block): i for i, block in enumerate(encoder.blocks)}
    for block in choose_blocks(encoder, blocks):
        rate = drop_path * depths[id(block)] / max(len(encoder.blocks) - 1, 1)
        if num_frames > 1:
            time = TemporalAttention(block, encoder.dim, hidden, temporal_adapters, rate)
            modules.append(place(block, "pre_attn", name, time))
        modules.append(place(block, "attn", name, Bottleneck(encoder.dim, hidden, init="bert_down")))
        beside: Any = dict(scale=scale, init="bert_down", drop_path=rate, layer_scale=scale_behind(block, "mlp"))
        modules.append(place(block, "mlp", name, JointAdapter(encoder.dim, hidden, parallel=True, **beside)))
    if final_norm:
        modules.append(encoder.norm.requires_grad_(True))
    return modules
