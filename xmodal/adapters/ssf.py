"""SSF: scale and shift the features behind every operation.

Paper: Scaling & Shifting Your Features: A New Baseline for Efficient Model Tuning (arXiv 2210.08823). Not the identity
at the start (scale N(1, 0.02), shift N(0, 0.02)). A ViT has 2*11*D*L + 4*D weights. Folds into the operations exactly.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from xmodal.encoders.sites import choose_blocks, place
from xmodal.registry import ADAPTERS, method
from xmodal.structures import Encoder, Grid

BLOCK_SITES = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")


class ScaleShift(nn.Module):
    """y -> scale * y + shift, per channel.

    Args:
        dim: channels.

    At start: close to the identity, not equal to it.
    Trains: all of it.
    Differs from the released code: the channels are the last axis, always.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.scale = nn.Parameter(torch.empty(dim))
        self.shift = nn.Parameter(torch.empty(dim))
        nn.init.normal_(self.scale, mean=1.0, std=0.02)
        nn.init.normal_(self.shift, std=0.02)

    def forward(self, y: Tensor, x: Tensor, grid: Grid | None = None) -> Tensor:
        """Map the output y (..., D) of an operation."""
        return y * self.scale + self.shift

    def fold(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
        """The operation's weight (D, ...) and bias with scale and shift in them."""
        scale = self.scale.reshape(-1, *[1] * (weight.ndim - 1))
        return weight * scale, self.shift if bias is None else bias * self.scale + self.shift


@method(
    ADAPTERS,
    "ssf",
    slot="adapter",
    paper="Scaling & Shifting Your Features: A New Baseline for Efficient Model Tuning (arXiv 2210.08823)",
    params="2*11*D*L + 4*D",
    parity=("ssf",),
)
def ssf(encoder: Encoder, blocks: int | Iterable[int] | None = None, name: str = "ssf") -> list[nn.Module]:
    """Place a scale and a shift behind every operation of an encoder.

    Args:
        encoder: a tower of blocks.
        blocks: None for the whole tower with patch projection and final norm; a number n for the last n blocks, or
            indices, for those blocks only.
        name: the adapter's name at its sites.
    """
    owners = [(block, site) for block in choose_blocks(encoder, blocks) for site in BLOCK_SITES]
    if blocks is None:
        owners = [(encoder, "patch_embed"), *owners, (encoder, "norm")]
    return [place(owner, site, name, ScaleShift(width_of(owner, site))) for owner, site in owners]


def width_of(owner: nn.Module, site: str) -> int:
    """Channels of what comes out of an operation."""
    op = owner.get_submodule(site)
    weight = getattr(op, "weight", None)
    return owner.dim if weight is None else weight.shape[0]  # type: ignore[return-value]
