"""Translate weights between timm's layouts of transformer blocks and that of `VisionTransformer`, both ways.

timm stores one projection of queries, keys and values or three, biases beside or inside them, a gated MLP in one layer
or two, and so on. Which layout a state dict has follows from its keys; to write one, its parts are named (`PARTS`).
"""

import re
from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch import Tensor

from xmodal.encoders.parallel_keys import from_parallel, to_parallel

State = dict[str, Tensor]
BLOCK = re.compile(r"(blocks\.\d+\.)(.+)")


def to_plain(state: State) -> State:
    """Rename and fuse the weights of any layout of timm that is known to those of `VisionTransformer`."""
    out: State = {}
    blocks: dict[str, State] = {}
    for key, value in from_naflex(state).items():
        found = BLOCK.fullmatch(key)
        if found:
            blocks.setdefault(found[1], {})[found[2]] = value
        elif key == "rope.freqs":
            for i, freqs in enumerate(value.unbind(1)):  # of (2, depth, H, d/2)
                blocks.setdefault(f"blocks.{i}.", {})["attn.rotary.freqs"] = freqs
        else:
            out["reg_token" if key == "dist_token" else key] = value
    for prefix, block in blocks.items():
        out.update({prefix + key: value for key, value in plain_block(block).items()})
    return out


def from_naflex(state: State) -> State:
    """Rename the embedding of a NaFlex model; its projection reads pixels of a patch with the color last."""
    out: State = {}
    for key, value in state.items():
        if key == "embeds.pos_embed":  # (1, h, w, D)
            value = value.flatten(1, 2)
        elif key == "embeds.proj.weight" and value.ndim == 2:
            side = round((value.shape[1] / 3) ** 0.5)
            value = value.unflatten(1, (side, side, 3)).permute(0, 3, 1, 2).contiguous()  # (D, 3, P, P)
        inside = key.removeprefix("embeds.")
        out[f"patch_embed.{inside}" if inside != key and inside.startswith(("proj.", "norm.")) else inside] = value
    return out


def to_naflex(state: State) -> State:
    """The inverse of `from_naflex`, for a linear projection."""
    out: State = {}
    for key, value in state.items():
        if key == "pos_embed":
            side = round(value.shape[1] ** 0.5)
            value = value.unflatten(1, (side, side))
        elif key == "patch_embed.proj.weight":
            value = value.permute(0, 2, 3, 1).flatten(1)
        inside = key.removeprefix("patch_embed.")
        out[f"embeds.{inside}" if inside != key or key in ("cls_token", "reg_token", "pos_embed") else key] = value
    return out


def plain_block(block: State) -> State:
    """Rename and fuse the weights of one block."""
    block = from_parallel(block) if "in_proj.weight" in block else block
    out = {RENAMED.get(key, key): value for key, value in block.items()}
    if "attn.q_proj.weight" in out:
        out["attn.qkv.weight"] = torch.cat([out.pop(f"attn.{p}_proj.weight") for p in "qkv"])
        biases = {p: out.pop(f"attn.{p}_proj.bias", None) for p in "qkv"}
    else:
        biases = {p: out.pop(f"attn.{p}_bias", None) for p in "qkv"}
    query = biases["q"]
    if query is not None:
        parts = (torch.zeros_like(query) if b is None else b for b in biases.values())
        out["attn.qkv.bias"] = torch.cat(list(parts))
    for kind in ("weight", "bias"):
        if f"mlp.w0.{kind}" in out:
            for ours, theirs in GEGLU.items():
                out[f"mlp.{ours}.{kind}"] = out.pop(f"mlp.{theirs}.{kind}")
        if f"mlp.fc1_g.{kind}" in out:
            out[f"mlp.fc1.{kind}"] = torch.cat([out.pop(f"mlp.fc1_{p}.{kind}") for p in "gx"])
    return out


def from_plain(state: State, layout: Iterable[str] = ()) -> State:
    """Write the weights of a `VisionTransformer` in a layout, the names of its parts.

    Raises:
        ValueError: a bias of the keys that the layout has no place for.
    """
    for part in layout:
        state = PARTS[part](state)
    return state


def in_blocks(state: State, change: Callable[[str, State], State]) -> State:
    """Write the weights of each block, given its prefix, in another way."""
    out: State = {}
    blocks: dict[str, State] = {}
    for key, value in state.items():
        found = BLOCK.fullmatch(key)
        (blocks.setdefault(found[1], {}) if found else out)[found[2] if found else key] = value
    for prefix, block in blocks.items():
        out |= {prefix + key: value for key, value in change(prefix, block).items()}
    return out


def rename(state: State, table: dict[str, str]) -> State:
    """Rename the ends of keys."""
    ends = {f".{new}": f".{old}" for old, new in table.items()}
    out = {}
    for key, value in state.items():
        end = next((e for e in ends if key.endswith(e)), None)
        out[key if end is None else key.removesuffix(end) + ends[end]] = value
    return out


def cut(state: State, name: str, parts: Callable[[str, Tensor], dict[str, Tensor]]) -> State:
    """Replace each weight of the blocks with a name by what `parts` makes of its prefix and value."""
    out: State = {}
    for key, value in state.items():
        out.update(parts(key.removesuffix(name), value) if key.endswith("." + name) else {key: value})
    return out


def without_key_bias(state: State, names: tuple[str, str]) -> State:
    """Write biases of queries and values under two names."""

    def parts(prefix: str, bias: Tensor) -> State:
        query, key, value = bias.chunk(3)
        if key.any():
            raise ValueError(
                f"{prefix}attn.qkv.bias: the keys have a trained bias, and timm's model has no place for it"
            )
        return {prefix + names[0]: query, prefix + names[1]: value}

    return cut(state, "attn.qkv.bias", parts)


def in_three(state: State, name: str, table: str = "qkv") -> State:
    """Write one weight of each block as three projections."""
    kind = name.rpartition(".")[2]
    return cut(
        state,
        name,
        lambda at, x: {f"{at}attn.{p}_proj.{kind}": part for p, part in zip(table, x.chunk(3), strict=True)},
    )


def gate_apart(state: State) -> State:
    """Write the first layer of gated MLPs as two."""
    for kind in ("weight", "bias"):
        halves = partial(gate_and_value, kind=kind)
        state = cut(state, f"mlp.fc1.{kind}", halves)
    return state


def gate_and_value(at: str, x: Tensor, kind: str) -> State:
    """Return the halves of a gated layer's weight or bias under timm's names."""
    return dict(zip(gated_names(at, kind), x.chunk(2), strict=True))


def gated_names(at: str, kind: str) -> list[str]:
    """Return timm's names of gate and value of a block's MLP."""
    return [f"{at}mlp.fc1_{p}.{kind}" for p in "gx"]


def frequencies_together(state: State) -> State:
    """Write the learned rotary frequencies of all blocks as one tensor."""
    own = [key for key in state if key.endswith(".attn.rotary.freqs")]
    rest = {key: value for key, value in state.items() if key not in own}
    return {**rest, "rope.freqs": torch.stack([state[key] for key in own], 1)}


def geglu(state: State) -> State:
    """Write gated MLPs with a norm in front as ViTamin does."""
    pairs = {
        f"mlp.{ours}.{kind}": f"mlp.{theirs}.{kind}" for ours, theirs in GEGLU.items() for kind in ("weight", "bias")
    }
    return rename(gate_apart(state), {theirs: ours for ours, theirs in pairs.items()})


GEGLU = {"fc1_g": "w0", "fc1_x": "w1", "fc2": "w2", "norm_in": "norm"}  # ours, ViTamin's
GAMMAS = {"gamma_1": "ls1.gamma", "gamma_2": "ls2.gamma"}
RELATIVE = {"attn.relative_position_bias_table": "attn.relative.table"}
RENAMED = {**GAMMAS, **RELATIVE}
PARTS: dict[str, Callable[[State], State]] = {
    "gamma": lambda state: rename(state, GAMMAS),
    "bias apart": lambda state: without_key_bias(state, ("attn.q_bias", "attn.v_bias")),
    "naflex": to_naflex,
    "parallel": lambda state: in_blocks(state, to_parallel),
    "parallel, one projection behind": lambda state: in_blocks(state, partial(to_parallel, fused=True)),
    "relative": lambda state: rename(state, RELATIVE),
    "three projections": lambda state: in_three(state, "attn.qkv.weight"),
    "three biases": lambda state: in_three(state, "attn.qkv.bias"),
    "two of three biases": lambda state: without_key_bias(state, ("attn.q_proj.bias", "attn.v_proj.bias")),
    "gate apart": gate_apart,
    "geglu": geglu,
    "mixed rotary": frequencies_together,
    "distilled": lambda state: {"dist_token" if k == "reg_token" else k: v for k, v in state.items()},
}
