"""SSF: scale and shift the features behind every operation.

Paper: Scaling & Shifting Your Features: A New Baseline for Efficient Model Tuning (arXiv 2210.08823). Not the identity
at the start (scale N(1, 0.02), shift N(0, 0.02)). A ViT has 2*11*D*L + 4*D weights; in Swin and ConvNeXt every linear
layer, convolution and norm has two for each of its channels. Folds into the operations exactly.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from xmodal.encoders.sites import choose_blocks, place
from xmodal.registry import ADAPTERS, method
from xmodal.structures import Encoder, Grid

BLOCK_SITES = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")


class FeatureScaleShift(nn.Module):
    """y -> scale * y + shift, per channel.

    Args:
        dim: channels.
        maps: they are the second axis of maps (B, D, H, W), instead of the last.

    At start: close to the identity, not equal to it.
    Trains: all of it.
    Differs from the released code: which axis the channels are is known, and not found by its length.
    """

    def __init__(self, dim: int, maps: bool = False):
        super().__init__()
        self.maps = maps
        self.scale = nn.Parameter(torch.empty(dim))
        self.shift = nn.Parameter(torch.empty(dim))
        nn.init.normal_(self.scale, mean=1.0, std=0.02)
        nn.init.normal_(self.shift, std=0.02)

    def forward(self, y: Tensor, x: Tensor, grid: Grid | None = None) -> Tensor:
        """Map the output y (..., D), or (B, D, H, W), of an operation."""
        if self.maps:
            return y * self.scale[:, None, None] + self.shift[:, None, None]
        return y * self.scale + self.shift

    def fold(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the operation's weight (D, ...) and bias with scale and shift folded in."""
        scale = self.scale.reshape(-1, *[1] * (weight.ndim - 1))
        return weight * scale, self.shift if bias is None else bias * self.scale + self.shift


@method(
    ADAPTERS,
    "ssf",
    slot="adapter",
    paper="Scaling & Shifting Your Features: A New Baseline for Efficient Model Tuning (arXiv 2210.08823)",
    params="ViT: 2*11*D*L + 4*D",
    parity=("ssf",),
    families=("vit", "swin", "convnext"),
)
def ssf(encoder: Encoder, blocks: int | Iterable[int] | None = None, name: str = "ssf") -> list[nn.Module]:
    """Place a scale and a shift behind every operation of an encoder.

    Args:
        encoder: a vision transformer, a Swin or a ConvNeXt.
        blocks: None for the whole tower with patch projection and final norm; a number n for the last n blocks, or
            indices, for those blocks only.
        name: the adapter's name at its sites.

    Raises:
        ValueError: a tower whose operations have no sites (ResNets and their kin).
    """
    chosen = choose_blocks(encoder, blocks)
    if encoder.root is not None:
        roots = [encoder.root] if blocks is None else chosen
        owners = [(root, site) for root in roots for site, op in root.named_modules() if is_sited(op)]
    else:
        owners = [(block, site) for block in chosen for site in BLOCK_SITES]
        if blocks is None:
            owners = [(encoder, "patch_embed"), *owners, (encoder, "norm")]
    if not owners:
        raise ValueError(f"ssf: the operations of {encoder.name} have no sites; it takes ViT, Swin and ConvNeXt")
    return [place(owner, site, name, scale_shift(owner, site)) for owner, site in owners]


def is_sited(op: nn.Module) -> bool:
    """Return whether an operation has weights and a site."""
    return isinstance(op, nn.Linear | nn.LayerNorm | nn.Conv2d) and hasattr(op, "edits")


def scale_shift(owner: Any, site: str) -> FeatureScaleShift:
    """A scale and a shift of the width, and for the axis, of what comes out of an operation."""
    op = owner.get_submodule(site)
    weight = getattr(op, "weight", None)
    return FeatureScaleShift(owner.dim if weight is None else weight.shape[0], getattr(op, "maps", False))
