"""Translate weights of V-JEPA 2 between the tower, the official release and Hugging Face transformers, both ways."""

from collections.abc import Mapping

import torch
from torch import Tensor

from xmodal.encoders.keys import State, base_state

QKV = ("query", "key", "value")
FROM_OFFICIAL = {
    "patch_embed_img.": "image_embed.",
    "img_mod_embed": "image_token",
    "video_mod_embed": "video_token",
}
FROM_TRANSFORMERS = {
    "embeddings.patch_embeddings.": "patch_embed.",
    "layernorm.": "norm.",
    "layer.": "blocks.",
}


def from_official(state: Mapping[str, Tensor]) -> State:
    """Rename official weights, without `module.backbone.` in front, to those of a `VJEPA2`."""
    last = max((int(key.split(".")[1]) for key in state if key.startswith("norms_block.")), default=0)
    table = {**FROM_OFFICIAL, f"norms_block.{last}.": "norm.", "norms_block.": "level_norms."}
    return {start_replaced(key, table): value for key, value in state.items()}


def to_official(state: Mapping[str, Tensor]) -> State:
    """The inverse of `from_official`; adapters are left out."""
    state = base_state(state)
    later = "image_token" in state
    last = 1 + max((int(key.split(".")[1]) for key in state if key.startswith("level_norms.")), default=-1)
    table = {new: old for old, new in FROM_OFFICIAL.items()}
    if later:
        table |= {"norm.": f"norms_block.{last}.", "level_norms.": "norms_block."}
    return {start_replaced(key, table): value for key, value in state.items()}


def start_replaced(key: str, table: Mapping[str, str]) -> str:
    """Replace the beginning of a key by the first entry of a table that fits."""
    old = next((old for old in table if key.startswith(old)), None)
    return key if old is None else table[old] + key.removeprefix(old)


def from_transformers(state: Mapping[str, Tensor]) -> State:
    """Rename and fuse the encoder's weights of transformers' VJEPA2Model, without `encoder.` in front."""
    renamed = {start_replaced(key, FROM_TRANSFORMERS).replace(".attention.", ".attn."): v for key, v in state.items()}
    out: State = {}
    for key, value in renamed.items():
        head, _, part = key.rpartition(".attn.query.")
        if head:
            out[f"{head}.attn.qkv.{part}"] = torch.cat([renamed[f"{head}.attn.{p}.{part}"] for p in QKV])
        elif ".attn.key." not in key and ".attn.value." not in key:
            out[key] = value
    return out


def to_transformers(state: Mapping[str, Tensor]) -> State:
    """The inverse of `from_transformers`, with `encoder.` in front; V-JEPA 2.1 has no class there.

    Raises:
        ValueError: weights of V-JEPA 2.1.
    """
    if "image_token" in state:
        raise ValueError("transformers has no class for V-JEPA 2.1: write the official names")
    table = {new: old for old, new in FROM_TRANSFORMERS.items()}
    out: State = {}
    for key, value in base_state(state).items():
        key = "encoder." + start_replaced(key, table).replace(".attn.", ".attention.")
        head, _, part = key.rpartition(".qkv.")
        if head:
            out |= {f"{head}.{p}.{part}": x for p, x in zip(QKV, value.chunk(3), strict=True)}
        else:
            out[key] = value
    return out
