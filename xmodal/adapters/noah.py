"""NOAH: prompts, LoRA and adapters in one supernet, whose sizes per block are searched.

Paper: Neural Prompt Search (arXiv 2206.04673). Not the identity at the start (the adapter's biases are 1e-6). A subnet
of prompts p, ranks r and widths h has sum(p*D + 4*r*D + (2*D*h + h + D where h > 0)) weights.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xmodal.adapters.lora import LowRank
from xmodal.encoders.parts import QuickGELU
from xmodal.encoders.sites import place
from xmodal.registry import ADAPTERS, method
from xmodal.structures import Encoder, Grid

KINDS = ("prompt", "lora", "adapter")


class Prompts(nn.Module):
    """Replace the previous block's prompts at the end of the sequence by this block's; with none, the old ones stay.

    Args:
        num_tokens: largest number of prompts.
        dim: width D.
        dropout: on the prompts, in training.
    """

    def __init__(self, num_tokens: int, dim: int, dropout: float = 0.0):
        super().__init__()
        self.tokens = nn.Parameter(torch.empty(1, num_tokens, dim))
        self.dropout = nn.Dropout(dropout)
        self.active, self.dropped = num_tokens, 0
        nn.init.xavier_uniform_(self.tokens)

    def forward(self, x: Tensor, grid: Grid | None = None) -> Tensor:
        """Map x (B, N, D) to (B, N - dropped + active, D)."""
        if not self.active:
            return x
        own = self.dropout(self.tokens[:, : self.active].to(x.dtype).expand(x.shape[0], -1, -1))
        return torch.cat([x[:, : x.shape[1] - self.dropped], own], dim=1)


class SlicedLoRA(LowRank):
    """One low-rank update of the fused projection of which the leading ranks are active."""

    def __init__(self, dim: int, rank: int, dropout: float = 0.0):
        super().__init__(dim, 3 * dim, rank, dropout=dropout)
        self.active = rank

    def forward(self, y: Tensor, x: Tensor, grid: Grid | None = None) -> Tensor:  # type: ignore[override]
        """Add the update of x (B, N, D) to y (B, N, 3D)."""
        if not self.active:
            return y
        return y + F.linear(F.linear(self.dropout(x), self.a[: self.active]), self.b[:, : self.active])

    def fold(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return the layer's weight and bias with the update added."""
        return weight + self.b[:, : self.active] @ self.a[: self.active], bias


class SlicedAdapter(nn.Module):
    """A bottleneck behind the MLP of which the leading channels are active.

    Args:
        dim: width D.
        hidden: largest width h.
        dropout: between the layers, in training.
    """

    def __init__(self, dim: int, hidden: int, dropout: float = 0.0):
        super().__init__()
        self.down = nn.Linear(dim, hidden)
        self.up = nn.Linear(hidden, dim)
        self.act = QuickGELU()
        self.dropout = nn.Dropout(dropout)
        self.active = hidden
        for layer in (self.down, self.up):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.normal_(layer.bias, std=1e-6)

    def forward(self, y: Tensor, x: Tensor, grid: Grid | None = None) -> Tensor:
        """Map the MLP's output y (B, N, D)."""
        h = self.active
        if not h:
            return y
        u = self.act(F.linear(y, self.down.weight[:h], self.down.bias[:h]))
        return y + F.linear(self.dropout(u), self.up.weight[:, :h], self.up.bias)


@method(
    ADAPTERS,
    "noah",
    slot="adapter",
    paper="Neural Prompt Search (arXiv 2206.04673)",
    params="sum over blocks of p*D + 4*r*D + (2*D*h + h + D where h > 0)",
    parity=("noah",),
)
def noah(
    encoder: Encoder,
    prompt: int | Sequence[int] = 10,
    lora: int | Sequence[int] = 10,
    adapter: int | Sequence[int] = 10,
    dropout: float = 0.1,
    name: str = "noah",
) -> list[nn.Module]:
    """Place a supernet (numbers) or one subnet (a number per block) in an encoder.

    Args:
        encoder: a tower of blocks.
        prompt: prompts a block.
        lora: rank of the update of the fused q, k, v projection.
        adapter: width of the adapter behind the MLP.
        dropout: in all three, in training.
        name: the parts' name at their sites.

    Raises:
        ValueError: negative sizes, or a list that is not as long as the tower is deep.
    """
    sizes = {
        kind: per_block(kind, size, len(encoder.blocks))
        for kind, size in zip(KINDS, (prompt, lora, adapter), strict=True)
    }
    modules: list[nn.Module] = []
    for i, block in enumerate(encoder.blocks):
        p, r, h = (sizes[kind][i] for kind in KINDS)
        if p:
            modules.append(place(block, "pre_attn", name, Prompts(p, encoder.dim, dropout)))
        if r:
            modules.append(place(block, "attn.qkv", name, SlicedLoRA(encoder.dim, r, dropout)))
        if h:
            modules.append(place(block, "mlp", name, SlicedAdapter(encoder.dim, h, dropout)))
    choose_subnet(encoder, sizes, name)
    return modules


def per_block(kind: str, size: int | Sequence[int], depth: int) -> list[int]:
    """Sizes of one kind, a number per block."""
    sizes = [size] * depth if isinstance(size, int) else [int(s) for s in size]
    if len(sizes) != depth or min(sizes) < 0:
        raise ValueError(f"noah: {kind}={size} must be one number, or {depth} numbers (one a block), none below 0")
    return sizes


def choose_subnet(encoder: Encoder, sizes: Mapping[str, Sequence[int]], name: str = "noah") -> None:
    """Make the leading rows and columns of a placed supernet active.

    Args:
        encoder: a tower with the supernet in it.
        sizes: a number per block for `prompt`, `lora` and `adapter`; 0 switches a part off.
        name: of the supernet.

    Raises:
        ValueError: a size beyond what the supernet has.
    """
    before = 0
    for i, block in enumerate(encoder.blocks):
        sites = {"prompt": block.pre_attn, "lora": block.attn.qkv.edits, "adapter": block.mlp.edits}
        for kind, site in sites.items():
            part, size = dict(site.items()).get(name), int(sizes[kind][i])
            limit = 0 if part is None else largest(part)
            if not 0 <= size <= limit:
                raise ValueError(f"noah: {kind} of block {i} has sizes 0 to {limit}, not {size}")
            if part is not None:
                part.active = size
            if part is not None and kind == "prompt":
                part.dropped = before
        before = int(sizes["prompt"][i])


def largest(part: Prompts | SlicedLoRA | SlicedAdapter) -> int:
    """The largest size of a part of the supernet."""
    if isinstance(part, Prompts):
        return part.tokens.shape[1]
    return part.a.shape[0] if isinstance(part, SlicedLoRA) else part.down.out_features


def subnet_params(sizes: Mapping[str, Sequence[int]], dim: int) -> int:
    """Trained weights of a subnet (the head not counted)."""
    prompts, ranks = sum(sizes["prompt"]), sum(sizes["lora"])
    return dim * prompts + 4 * dim * ranks + sum(2 * dim * h + h + dim for h in sizes["adapter"] if h)


def searched_params(sizes: Mapping[str, Sequence[int]], dim: int, largest_prompt: int, positions: bool = True) -> int:
    """Count the weights that the released search compares with its limit.

    Beyond `subnet_params` it counts block 0's prompts twice and, with `positions`, position embeddings of the largest
    number of prompts: parts of the released model that no output depends on.
    """
    first = sizes["prompt"][0]
    extra = dim * (first + (largest_prompt if positions else 0)) if first else 0
    return subnet_params(sizes, dim) + extra
