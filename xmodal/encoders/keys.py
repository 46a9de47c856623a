"""Translate names of weights between xmodal, timm and CLIP files, both ways; reshape tensors where they differ.

xmodal and timm agree except for the class head; CLIP files (OpenAI, open_clip) use other names throughout. Exports
leave out the weights of adapters.
"""

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from xmodal.encoders.timm_keys import State, from_plain, to_plain
from xmodal.registry import did_you_mean

PLACED = re.compile(r"(^|\.)(edits|pre_attn|pre_mlp|post|embedded|pre_blocks)\.")
TIMM_HEADS = ("head.", "head_dist.", "pre_logits.")
BLOCK = {
    "ln_1.": "norm1.",
    "attn.in_proj_": "attn.qkv.",
    "attn.out_proj.": "attn.proj.",
    "ls_1.": "ls1.",
    "attn.ln_q.": "attn.q_norm.",
    "attn.ln_k.": "attn.k_norm.",
    "attn.ln_inner.": "attn.norm.",
    "ln_2.": "norm2.",
    "mlp.ln.": "mlp.norm.",
    "mlp.c_fc.": "mlp.fc1.",
    "mlp.c_proj.": "mlp.fc2.",
    "ls_2.": "ls2.",
}
VISUAL = {
    "conv1.": "patch_embed.proj.",
    "class_embedding": "cls_token",
    "positional_embedding": "pos_embed",
    "ln_pre.": "norm_pre.",
    "ln_post.": "norm.",
    "attn_pool.query": "attn_pool.latent",
    "attn_pool.ln_q.": "attn_pool.norm_q.",
    "attn_pool.ln_k.": "attn_pool.norm_k.",
    "attn_pool.attn.out_proj.": "attn_pool.proj.",
    "attn_pool.attn.": "attn_pool.attn.",
    "proj": "proj.weight",
}
AFTER_POOL = {**VISUAL, "ln_post.": "fc_norm."}
TEXT = {
    "token_embedding.": "token_embedding.",
    "positional_embedding": "pos_embed",
    "cls_emb": "cls_token",
    "ln_final.": "norm.",
    "text_projection.": "proj.",
    "text_projection": "proj.weight",
}
RESBLOCK = re.compile(r"transformer\.resblocks\.(\d+)\.(.+)")
OWN_BLOCK = re.compile(r"blocks\.(\d+)\.(.+)")


def base_state(state: Mapping[str, Tensor]) -> State:
    """Return the tower's weights without those of placed modules."""
    return {key: value for key, value in state.items() if not PLACED.search(key)}


def under(state: Mapping[str, Tensor], prefix: str) -> State:
    """Entries whose keys start with `prefix`, which is cut off."""
    return {key[len(prefix) :]: value for key, value in state.items() if key.startswith(prefix)}


def put_under(state: Mapping[str, Tensor], prefix: str) -> State:
    """Put `prefix` in front of all keys."""
    return {prefix + key: value for key, value in state.items()}


def renamed(key: str, table: Mapping[str, str]) -> str:
    """`key` by a table of names; an entry that ends in `.` or `_` is a beginning, any other a whole key.

    Raises:
        ValueError: a key that the table does not know.
    """
    for old, new in table.items():
        if key == old or (old[-1] in "._" and key.startswith(old)):
            return new + key[len(old) :]
    raise ValueError(f"unknown weight {key!r}; {did_you_mean(key, table)}")


def from_clip(key: str, table: Mapping[str, str]) -> str:
    """Return the xmodal name of a key of a CLIP tower."""
    found = RESBLOCK.fullmatch(key)
    return f"blocks.{found[1]}.{renamed(found[2], BLOCK)}" if found else renamed(key, table)


def to_clip(key: str, table: Mapping[str, str]) -> str:
    """Return the CLIP name of an xmodal key."""
    found = OWN_BLOCK.fullmatch(key)
    if found:
        return f"transformer.resblocks.{found[1]}.{renamed(found[2], {new: old for old, new in BLOCK.items()})}"
    return renamed(key, {new: old for old, new in table.items()})


def from_clip_visual_state(state: Mapping[str, Tensor], after_pool: bool = False) -> State:
    """Rename the weights of a CLIP image tower, with or without `visual.` in front, to xmodal's names.

    Args:
        state: `conv1.weight`, `class_embedding` (D,), `positional_embedding` (N, D), ..., `proj` (D, D_out) or without.
        after_pool: whether the last norm stands behind pooling (CLIPA, CoCa).

    Returns:
        The state dict of a `VisionTransformer`.
    """
    state = under(state, "visual.") or dict(state)
    table = AFTER_POOL if after_pool else VISUAL
    out = query_pool_in_parts({from_clip(key, table): value for key, value in state.items()})
    if "cls_token" in out:
        out["cls_token"] = out["cls_token"].reshape(1, 1, -1)
    if "pos_embed" in out:
        out["pos_embed"] = out["pos_embed"].unsqueeze(0)  # (1, N, D)
    if "proj.weight" in out:
        out["proj.weight"] = out["proj.weight"].t().contiguous()  # (D_out, D)
    return out


def to_clip_visual_state(state: Mapping[str, Tensor]) -> State:
    """The inverse of `from_clip_visual_state`, keys without `visual.`.

    Raises:
        ValueError: a tower that CLIP's layout has no names for (registers, a bias of the patch projection, ...).
    """
    state = base_state(state)
    others = ("reg_token", "attn_pool.mlp.", "patch_embed.proj.bias")
    strangers = [key for key in state if key.startswith(others)]
    if strangers:
        raise ValueError(f"CLIP's layout has no name for {strangers[0]!r}: export this tower with to_timm_state")
    table = AFTER_POOL if "fc_norm.weight" in state else VISUAL
    out = {to_clip(key, table): value for key, value in query_pool_as_torch(state).items()}
    out["class_embedding"] = out["class_embedding"].flatten()
    out["positional_embedding"] = out["positional_embedding"].squeeze(0)
    if "proj" in out:
        out["proj"] = out["proj"].t().contiguous()
    return out


def query_pool_in_parts(state: State) -> State:
    """Rename the projections that torch's attention keeps in an attention pooling of several queries."""
    at = "attn_pool.attn."
    for kind in ("weight", "bias"):
        both = state.pop(f"{at}in_proj_{kind}", None)
        if both is not None:
            state |= {f"attn_pool.{p}.{kind}": part for p, part in zip("qkv", both.chunk(3), strict=True)}
    for p in "qkv":  # three where tokens are wider than queries
        if f"{at}{p}_proj_weight" in state:
            state[f"attn_pool.{p}.weight"] = state.pop(f"{at}{p}_proj_weight")
    return state


def query_pool_as_torch(state: State) -> State:
    """The inverse of `query_pool_in_parts`."""
    if "attn_pool.k.weight" not in state:
        return state
    at = "attn_pool.attn."
    weights, biases = ([state[f"attn_pool.{p}.{kind}"] for p in "qkv"] for kind in ("weight", "bias"))
    rest = {k: v for k, v in state.items() if not re.fullmatch(r"attn_pool\.[qkv]\.(weight|bias)", k)}
    rest[f"{at}in_proj_bias"] = torch.cat(biases)
    if len({w.shape for w in weights}) == 1:
        return {**rest, f"{at}in_proj_weight": torch.cat(weights)}
    return {**rest, **{f"{at}{p}_proj_weight": w for p, w in zip("qkv", weights, strict=True)}}


def from_clip_text_state(state: Mapping[str, Tensor]) -> State:
    """Weights of a CLIP or SigLIP text tower (keys without `text.`) under the names of a `TextTransformer`.

    Keys of an image tower and of the whole CLIP (`visual.*`, `logit_scale`) may be among them and are passed by.
    """
    whole = (
        "visual.", "logit_scale", "logit_bias", "input_resolution", "context_length", "vocab_size", "attn_mask",
        "text_decoder.",
    )  # fmt: skip
    out = {from_clip(key, TEXT): value for key, value in state.items() if not key.startswith(whole)}
    if "text_projection" in state:
        out["proj.weight"] = out["proj.weight"].t().contiguous()  # (D, W)
    return out


def to_clip_text_state(state: Mapping[str, Tensor]) -> State:
    """The inverse of `from_clip_text_state`."""
    state = base_state(state)
    linear = "proj.bias" in state
    table = {k: v for k, v in TEXT.items() if k != ("text_projection" if linear else "text_projection.")}
    out = {to_clip(key, table): value for key, value in state.items()}
    if "text_projection" in out:
        out["text_projection"] = out["text_projection"].t().contiguous()  # (W, D)
    return out


def from_timm_state(state: Mapping[str, Tensor]) -> State:
    """Return the weights of a timm vision transformer without the class head; most of xmodal's names are timm's."""
    return to_plain({key: value for key, value in state.items() if not key.startswith(TIMM_HEADS)})


def to_timm_state(state: Mapping[str, Tensor], layout: Iterable[str] = ()) -> State:
    """Return xmodal weights for a timm model built with `num_classes=0`, in a layout of `timm_keys.PARTS`.

    A projection of the feature has no place in such a model and is left out; it fits `head.weight` of one that was
    built with `num_classes` equal to its width.
    """
    return from_plain({key: value for key, value in base_state(state).items() if not key.startswith("proj.")}, layout)


def from_clip_state(state: Mapping[str, Tensor], after_pool: bool = False) -> State:
    """Rename the weights of a whole CLIP, its text tower under `text.` or bare, to those of xmodal's `CLIP`.

    A text decoder (CoCa's) is left out. `after_pool` is that of `from_clip_visual_state`.
    """
    visual = under(state, "visual.")
    trunk = under(visual, "trunk.")
    head = {k.removeprefix("proj."): v for k, v in under(visual, "head.").items()} or under(trunk, "head.")
    image = {**from_timm_state(trunk), **put_under(head, "proj.")} if trunk else {}
    image = image or from_clip_visual_state(visual, after_pool)
    text = from_clip_text_state(under(state, "text.") or state)
    scales = {key: state[key].reshape(()) for key in ("logit_scale", "logit_bias") if key in state}
    return {**put_under(image, "visual."), **put_under(text, "text."), **scales}


def to_clip_state(state: Mapping[str, Tensor], layout: Iterable[str] = ()) -> State:
    """Rename the weights of xmodal's `CLIP` to OpenAI's and open_clip's names.

    Args:
        state: of the `CLIP`.
        layout: of an image tower that open_clip takes from timm, see `timm_keys.PARTS`.
    """
    image, text = under(state, "visual."), to_clip_text_state(under(state, "text."))
    scales = {key: state[key] for key in ("logit_scale", "logit_bias") if key in state}
    body = under(base_state(image), "body.")
    if body:
        own = body if "attnpool.q_proj.weight" in body else put_under(body, "trunk.")
        return {**put_under(own | put_under(under(image, "proj."), "head."), "visual."), **text, **scales}
    of_timm = any(key in image for key in ("attn_pool.kv.weight", "proj.bias")) or "cls_token" not in image
    if not of_timm and not layout:
        return {**put_under(to_clip_visual_state(image), "visual."), **text, **scales}
    head = "visual.trunk.head." if "proj.bias" in image else "visual.head.proj."
    trunk = put_under(to_timm_state(image, layout), "visual.trunk.")
    return {**trunk, **put_under(under(image, "proj."), head), **put_under(text, "text."), **scales}
