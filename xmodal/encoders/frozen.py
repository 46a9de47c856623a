"""What frozen means: no gradient, evaluation mode, bit-identical after training."""

import hashlib

from torch import nn

from xmodal.encoders.block import DropPath
from xmodal.encoders.sites import Edits, Stream


def freeze(module: nn.Module) -> nn.Module:
    """Stop training every weight of `module`. What is placed in it afterwards trains."""
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    return module.eval()


def keep_frozen_in_eval(module: nn.Module) -> None:
    """Put the frozen parts below `module` back in evaluation mode, BatchNorm statistics and dropout included.

    A part is frozen when none of its weights train. Placed adapters keep the mode they are in, and so does stochastic
    depth, which a recipe asks for on frozen towers.
    """
    if isinstance(module, Stream | Edits | DropPath):
        return
    if not any(p.requires_grad for p in module.parameters()):
        set_eval(module)
        return
    if any(True for _ in module.parameters(recurse=False)) or any(True for _ in module.buffers(recurse=False)):
        own = [p.requires_grad for p in module.parameters(recurse=False)]
        module.training = module.training and any(own)
    for child in module.children():
        keep_frozen_in_eval(child)


def set_eval(module: nn.Module) -> None:
    """`module.eval()` that passes by placed adapters and stochastic depth."""
    if isinstance(module, Stream | Edits | DropPath):
        return
    module.training = False
    for child in module.children():
        set_eval(child)


def count(module: nn.Module, trained_only: bool = False) -> int:
    """Number of weights of `module`, shared ones counted once."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not trained_only)


def fingerprint(module: nn.Module) -> str:
    """sha256 over the names and values of a module's weights and buffers: equal weights, equal hash."""
    if any(p.is_meta for p in module.parameters()):
        return "meta"  # weights without values, as in a test of the parts
    digest = hashlib.sha256()
    for key, value in sorted(module.state_dict().items()):
        digest.update(f"{key} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()
