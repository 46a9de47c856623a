"""Fold adapters into the weights they edit: the result is a plain tower of the same speed as before."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from xmodal.encoders.sites import Edits, Stream
from xmodal.structures import Encoder

Weighted = nn.Linear | nn.LayerNorm | nn.Conv2d


def merge_adapters(encoder: Encoder, partial: bool = False) -> nn.Module:
    """A copy of a tower with all its adapters folded into the base weights, in float32.

    Args:
        encoder: a tower with LoRA, FacT, SSF or KAdaptation in it.
        partial: leave what cannot be folded in its place, instead of refusing.

    Returns:
        A tower without adapters that gives the same outputs up to rounding.

    Raises:
        ValueError: an adapter that cannot be folded, by its name and place.
    """
    merged = copy.deepcopy(encoder)
    if not partial:
        refuse_unfoldable(merged)
    for _, owner in list(merged.named_modules()):
        edits = getattr(owner, "edits", None)
        if isinstance(edits, Edits) and len(edits) and foldable(owner):
            layer = weight_owner(owner)
            assert layer is not None
            fold_into(layer, edits)
            edits.clear()
    return merged


def refuse_unfoldable(encoder: Encoder) -> None:
    """Raise for every adapter that has no equivalent in the base weights."""
    for path, owner in encoder.named_modules():
        if isinstance(owner, Stream) and len(owner):
            raise ValueError(f"{path}.{next(iter(owner))} acts on the residual stream: it cannot be merged")
        edits = getattr(owner, "edits", None)
        for name, module in edits.items() if isinstance(edits, Edits) else ():
            if not foldable(owner):
                raise ValueError(f"{path}.{name} ({type(module).__name__}) has no weight to be merged into")


def foldable(owner: Any) -> bool:
    """Return whether everything placed at an operation can be folded into its weight."""
    return weight_owner(owner) is not None and all(hasattr(m, "fold") for m in owner.edits.values())


def weight_owner(owner: nn.Module) -> Weighted | None:
    """The module that holds the weight of an operation, None for one without."""
    for candidate in (owner, getattr(owner, "proj", None)):
        if isinstance(candidate, Weighted):
            return candidate
    return None


@torch.no_grad()
def fold_into(layer: Weighted, edits: Edits) -> None:
    """Fold edits, in their order, into the weight and bias of a layer."""
    weight = layer.weight.float()
    bias = None if layer.bias is None else layer.bias.float()
    folds: list[Any] = list(edits.values())
    for module in folds:
        weight, bias = module.fold(weight, bias)
    layer.weight = nn.Parameter(weight.to(layer.weight.dtype), requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias.to(layer.weight.dtype), requires_grad=False)


@torch.no_grad()
def largest_error(encoder: Encoder, merged: nn.Module, images: Tensor) -> float:
    """Largest absolute difference of the features of two towers, in evaluation mode.

    Args:
        encoder: with adapters.
        merged: without.
        images: (B, 3, H, W), normalized.
    """
    modes = encoder.training, merged.training
    a, b = encoder.eval()(images), merged.eval()(images)
    encoder.train(modes[0])
    merged.train(modes[1])
    return float((a - b).abs().max())
