"""Translate the weights of timm's parallel blocks (ViT-22B, arXiv 2302.05442) to those of a `Block`, and back.

timm's parallel block has one norm, one projection in front and one scale for attention and MLP together.
"""

import torch
from torch import Tensor

State = dict[str, Tensor]
BEHIND = {"attn.proj.": "attn_out_proj.", "mlp.fc2.": "mlp_out_proj.", "attn.q_": "q_", "attn.k_": "k_"}  # ours, timm's
SHARED = (("in_norm.weight", "norm", "weight"), ("in_norm.bias", "norm", "bias"), ("ls.gamma", "ls", "gamma"))


def from_parallel(block: State) -> State:
    """Give attention and MLP of one block weights of their own; norm and scale are copied."""
    out: State = {}
    width = block["in_norm.weight"].shape[0]
    hidden = block["in_proj.weight"].shape[0] - 3 * width
    for shared, name, kind in SHARED:
        if shared in block:
            out |= {f"{name}{i}.{kind}": block[shared].clone() for i in (1, 2)}
    out["mlp.fc1.weight"], out["attn.qkv.weight"] = block["in_proj.weight"].split([hidden, 3 * width])
    if "in_proj.bias" in block:
        out["mlp.fc1.bias"], out["attn.qkv.bias"] = block["in_proj.bias"].split([hidden, 3 * width])
    else:
        out["mlp.fc1.bias"] = block["mlp_bias"]
    if "out_proj.weight" in block:
        out["attn.proj.weight"], out["mlp.fc2.weight"] = block["out_proj.weight"].split([width, hidden], 1)
        out["attn.proj.bias"], out["mlp.fc2.bias"] = block["out_proj.bias"], torch.zeros_like(block["out_proj.bias"])
    for ours, theirs in BEHIND.items():
        out |= {ours + key.removeprefix(theirs): x for key, x in block.items() if key.startswith(theirs)}
    return out


def to_parallel(prefix: str, block: State, fused: bool = False) -> State:
    """Write one block as timm does.

    Args:
        prefix: name of the block, for errors.
        block: weights of a `Block`.
        fused: whether the projections behind attention and MLP are one, too.

    Raises:
        ValueError: norms or scales of attention and MLP that were trained apart.
    """
    block, out = dict(block), {}
    for shared, name, kind in SHARED:
        first, second = (block.pop(f"{name}{i}.{kind}", None) for i in (1, 2))
        if first is None or second is None:
            continue
        if not torch.equal(first, second):
            raise ValueError(f"{prefix}{name}1 and {name}2 differ, and timm's parallel block has one for both")
        out[shared] = first
    out["in_proj.weight"] = torch.cat([block.pop("mlp.fc1.weight"), block.pop("attn.qkv.weight")])
    bias, own = block.pop("mlp.fc1.bias"), block.pop("attn.qkv.bias", None)
    out |= {"mlp_bias": bias} if own is None else {"in_proj.bias": torch.cat([bias, own])}
    if fused:
        out["out_proj.weight"] = torch.cat([block.pop("attn.proj.weight"), block.pop("mlp.fc2.weight")], 1)
        out["out_proj.bias"] = block.pop("attn.proj.bias") + block.pop("mlp.fc2.bias")
    for key, value in block.items():
        ours = next((start for start in BEHIND if key.startswith(start)), "")
        out[BEHIND.get(ours, "") + key.removeprefix(ours)] = value
    return out
