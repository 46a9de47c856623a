"""Freeze modules: no gradient, evaluation mode, bit-identical after training."""

import hashlib

import torch
from torch import nn

from xmodal.encoders.parts import DropPath
from xmodal.encoders.sites import Edits, Linear, M, Stream

HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def freeze(module: M) -> M:
    """Freeze every weight of `module`; modules placed in it afterwards train."""
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    return module.eval()


def hold_frozen_in(blocks: nn.Module, dtype: str) -> None:
    """Hold the frozen linear layers of a tower's blocks in half precision or int8; they compute in it too.

    The residual stream, the norms and all that trains stay float32. Place adapters before. int8 (torchao: weights per
    row, activations per token as they come) has no gradient: it is for extraction and prediction.

    Raises:
        ValueError: an unknown precision, blocks without a frozen linear layer, or int8 without torchao.
    """
    if dtype not in (*HALVES, "int8"):
        raise ValueError(f"trunk_dtype {dtype!r}: choose bf16 (also on a CPU), fp16 (GPU), int8 or None for float32")
    layers = [m for m in blocks.modules() if isinstance(m, Linear) and not m.weight.requires_grad]
    if not layers:
        raise ValueError("trunk_dtype: the encoder's blocks have no frozen linear layer")
    if dtype == "int8":
        quantize(blocks, layers)
        return
    for layer in layers:
        for parameter in (layer.weight, layer.bias):
            if parameter is not None and not parameter.requires_grad:
                parameter.data = parameter.data.to(HALVES[dtype])
    for edits in blocks.modules():
        if isinstance(edits, Edits) and edits:
            edits.widen = True


def quantize(blocks: nn.Module, layers: list[Linear]) -> None:
    """Hold layers in int8 through torchao.

    Raises:
        ValueError: torchao is not installed.
    """
    try:
        from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_
    except ImportError as error:
        raise ValueError(f"trunk_dtype int8 needs torchao (pip install torchao): {error}") from None
    chosen = {id(layer) for layer in layers}
    quantize_(blocks, Int8DynamicActivationInt8WeightConfig(), filter_fn=lambda module, _: id(module) in chosen)
    for layer in layers:
        layer.weight.requires_grad_(False)


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


def moving_keys(module: nn.Module) -> set[str]:
    """Return the state-dict keys of trained weights and of the buffers beside them (BatchNorm statistics)."""
    state = module.state_dict(keep_vars=True)
    keys = {key for key, value in state.items() if value.requires_grad}
    for name, part in module.named_modules():
        if any(p.requires_grad for p in part.parameters(recurse=False)):
            keys |= {f"{name}.{key}".lstrip(".") for key, _ in part.named_buffers(recurse=False)} & state.keys()
    return keys


def count(module: nn.Module, trained_only: bool = False) -> int:
    """Count the weights of `module`, shared ones once."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not trained_only)


def fingerprint(module: nn.Module) -> str:
    """Hash the names and values of a module's weights and buffers with sha256."""
    if any(p.is_meta for p in module.parameters()):
        return "meta"  # weights without values, as in a test of the parts
    digest = hashlib.sha256()
    for key, value in sorted(module.state_dict().items()):
        digest.update(f"{key} {tuple(value.shape)}".encode())
        if type(value) is not torch.Tensor:  # held in int8
            value = value.dequantize()
        digest.update(value.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()
