"""VPT: learned prompt tokens in the sequence of a frozen transformer.

Paper: Visual Prompt Tuning (arXiv 2203.12119). Not the identity at the start. Shallow: P*D weights; deep: L*P*D.
"""

import math

import torch
from torch import Tensor, nn

from xmodal.encoders.sites import Stream, place
from xmodal.registry import ADAPTERS, method
from xmodal.structures import Encoder, Grid


class AppendPrompts(nn.Module):
    """Put prompts behind the sequence, before the first block.

    Args:
        num_tokens: P.
        width: of the stored prompts.
        bound: they start uniform in +-bound.
        replaced: blocks that replace the prompts by fresh ones; those are stored here too.
        dim: D where prompts of another width are projected, by a linear layer shared by all of them.
        dropout: on the prompts, in training.

    At start: not the identity.
    Trains: all of it.
    """

    def __init__(
        self,
        num_tokens: int,
        width: int,
        bound: float,
        replaced: int = 0,
        dim: int | None = None,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.tokens = nn.Parameter(torch.empty(1, num_tokens, width).uniform_(-bound, bound))
        if replaced:
            self.deep = nn.Parameter(torch.empty(replaced, num_tokens, width).uniform_(-bound, bound))
        self.projection = nn.Linear(width, dim) if dim else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        if isinstance(self.projection, nn.Linear):
            nn.init.kaiming_normal_(self.projection.weight, a=0, mode="fan_out")

    def forward(self, x: Tensor, grid: Grid | None = None) -> Tensor:
        """Map x (B, N, D) to (B, N+P, D)."""
        return torch.cat([x, self.rows(self.tokens, x)], dim=1)

    def rows(self, tokens: Tensor, x: Tensor) -> Tensor:
        """Stored prompts (1, P, width) for each row of x (B, N, D): (B, P, D)."""
        return self.dropout(self.projection(tokens).to(x.dtype).expand(x.shape[0], -1, -1))

    @property
    def num_tokens(self) -> int:
        """P."""
        return self.tokens.shape[1]


class ReplacePrompts(nn.Module):
    """Put fresh prompts where those of the block before stand.

    Args:
        index: which of the fresh prompts that `prompts` stores.
        prompts: the module that appended the prompts.
        stream: the site it stands at; what else appends tokens there tells where they are.
    """

    def __init__(self, index: int, prompts: AppendPrompts, stream: Stream):
        super().__init__()
        self.index = index
        self.where = (prompts, stream)  # in a tuple: known, not owned

    def forward(self, x: Tensor, grid: Grid | None = None) -> Tensor:
        """Map x (B, N, D) to the same shape."""
        prompts, _ = self.where
        start = self.start(x, grid)
        fresh = prompts.rows(prompts.deep[self.index : self.index + 1], x)
        return torch.cat([x[:, :start], fresh, x[:, start + prompts.num_tokens :]], dim=1)

    def start(self, x: Tensor, grid: Grid | None) -> int:
        """Index of the first prompt: behind the patches, or counted from the end where there is no grid."""
        own, stream = self.where
        every = [m for m in stream.values() if isinstance(m, AppendPrompts)]
        index = next(i for i, m in enumerate(every) if m is own)
        if grid is not None:
            return grid.prefix + grid.num_patches + sum(m.num_tokens for m in every[:index])
        return x.shape[1] - sum(m.num_tokens for m in every[index:])


@method(
    ADAPTERS,
    "vpt",
    slot="adapter",
    paper="Visual Prompt Tuning (arXiv 2203.12119)",
    params="P*D shallow, L*P*D deep; projection: width instead of D, and width*D + D",
    parity=("vpt_shallow", "vpt_deep"),
)
def vpt(
    encoder: Encoder,
    num_tokens: int = 10,
    deep: bool = True,
    projection: int | None = None,
    dropout: float = 0.0,
    name: str = "vpt",
) -> list[nn.Module]:
    """Place prompts in an encoder, at the end of the sequence (attention does not care where they stand).

    Args:
        encoder: a tower of blocks.
        num_tokens: P.
        deep: fresh prompts in every block instead of one set that flows through.
        projection: store prompts of this width and project them with one linear layer; None stores them at width D.
        dropout: on the prompts, in training.
        name: the prompts' name at their sites.

    Raises:
        ValueError: no token, or a projection from no width.
    """
    if num_tokens < 1 or (projection is not None and projection < 1):
        raise ValueError(f"vpt: num_tokens and projection must be at least 1, got {num_tokens} and {projection}")
    width = projection or encoder.dim
    bound = math.sqrt(6 / (3 * getattr(encoder, "patch_size", 16) ** 2 + width))
    fresh = len(encoder.blocks) - 1 if deep else 0
    prompts = AppendPrompts(num_tokens, width, bound, fresh, encoder.dim if projection else None, dropout)
    modules: list[nn.Module] = [place(encoder, "pre_blocks", name, prompts)]
    for i in range(fresh):
        modules.append(place(encoder.blocks[i + 1], "pre_attn", name, ReplacePrompts(i, prompts, encoder.pre_blocks)))
    return modules
