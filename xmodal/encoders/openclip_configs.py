"""Read the architecture of open_clip's models: from a config by way of a model without memory, or from a live one."""

from collections.abc import Callable
from typing import Any, NoReturn

from torch import nn

from xmodal.encoders.files import unfilled
from xmodal.encoders.statistics import CLIP_MEAN, CLIP_STD
from xmodal.encoders.timm_parts import activation_of, describe, exact_ratio
from xmodal.encoders.timm_weights import FAMILIES
from xmodal.encoders.tokenizer import ClipTokenizer, HubTokenizer, Tokenizer
from xmodal.registry import did_you_mean

SUPPORTED = "those that docs/encoders.md lists: CLIP, OpenCLIP, CLIPA, CoCa, SigLIP, EVA, PE-Core, ViTamin, ConvNeXt"
POOLS = {"argmax": "end", "last": "last", "eos": "eos", "first": "first"}
TOP_KEYS = {"embed_dim", "vision_cfg", "text_cfg", "multimodal_cfg", "quick_gelu", "custom_text", "init_logit_bias"}


def refuse(name: str, why: str) -> NoReturn:
    """Say that an open_clip model is not supported, why, and what is."""
    raise ValueError(f"{name!r} is not supported: {why}. Supported are {SUPPORTED}")


def config_of(name: str, arch: dict | None) -> dict[str, Any]:
    """Return open_clip's config of a model with the changes of `arch`.

    Raises:
        ValueError: a name that open_clip does not have, or a key that is not known.
    """
    import open_clip

    config = open_clip.get_model_config(name) if ":" not in name else None
    if config is None:
        near = did_you_mean(name, [n for n in open_clip.list_models() if n.startswith("ViT")])
        raise ValueError(f"open_clip has no model {name!r}; {near if near.startswith('did') else SUPPORTED}")
    for key, value in (arch or {}).items():
        config[key] = {**config.get(key, {}), **value} if isinstance(value, dict) else value
    strange = sorted(config.keys() - TOP_KEYS)
    if strange:
        refuse(name, ", ".join(f"{key} = {config[key]!r} is not known" for key in strange))
    if config["vision_cfg"].get("timm_drop"):  # stochastic depth is an argument of the door
        refuse(name, f"vision_cfg.timm_drop = {config['vision_cfg']['timm_drop']!r}: a frozen tower has no dropout")
    return config


def visual_of(config: dict[str, Any], name: str) -> Any:
    """Build open_clip's image tower of a config, with weights that are not initialized in any particular way.

    Raises:
        ValueError: a key that open_clip does not know.
    """
    from open_clip.model import CLIPVisionCfg, _build_vision_tower

    check_keys(name, "vision_cfg", config["vision_cfg"], CLIPVisionCfg)
    vision = {**config["vision_cfg"], "timm_model_pretrained": False}
    return _build_vision_tower(config["embed_dim"], vision, bool(config.get("quick_gelu")))


def text_of(config: dict[str, Any], name: str) -> dict[str, Any]:
    """Return the arguments of the text tower of a config.

    Raises:
        ValueError: a text tower of another kind.
    """
    from open_clip.model import CLIPTextCfg, _build_text_tower

    text = config["text_cfg"]
    check_keys(name, "text_cfg", text, CLIPTextCfg)
    if text.get("hf_model_name"):
        refuse(
            name,
            f"its text tower is the Hugging Face model {text['hf_model_name']} (text_cfg.hf_model_name); its image "
            f"tower alone is read by open_clip_encoder({name!r}, ...)",
        )
    quick = bool(config.get("quick_gelu"))
    return describe_text(unfilled(lambda: _build_text_tower(config["embed_dim"], text, quick)), name)


def check_keys(name: str, where: str, found: dict, known: Any) -> None:
    """Refuse keys of a config that open_clip does not know."""
    strange = sorted(found.keys() - known.__dataclass_fields__.keys())
    if strange:
        refuse(name, ", ".join(f"{where}.{key} = {found[key]!r} is not known" for key in strange))


def describe_visual(visual: Any, name: str) -> dict[str, Any]:
    """Return the arguments of a `VisionTransformer` that equals open_clip's, live or without memory.

    Raises:
        ValueError: a part that is not supported, by its name.
    """
    if type(visual).__name__ == "TimmModel":
        return describe_trunk(visual, name)
    block, size, patch = visual.transformer.resblocks[0], visual.image_size, visual.patch_size
    check_block(block, name)
    wrong = {
        f"its images are {size[0]} x {size[1]} and its patches {patch[0]} x {patch[1]} pixels, not square": (
            size[0] != size[1] or patch[0] != patch[1]
        ),
        "it gives all tokens and no feature (pool_type = 'none')": visual.pool_type == "none",
        "its two attention poolings (CoCa's paper) are no released model's": getattr(
            visual, "attn_pool_contrastive", None
        )
        is not None,
        "it averages queries": visual.attn_pool is not None and visual.pool_type != "tok",
    }
    for why, there in wrong.items():
        if there:
            refuse(name, why)
    hidden, width = block.mlp.c_fc.out_features, block.mlp.c_fc.in_features
    pool = visual.attn_pool
    return dict(
        image_size=size[0],
        patch_size=patch[0],
        dim=width,
        depth=len(visual.transformer.resblocks),
        mlp_ratio=exact_ratio(hidden, width),
        pre_norm=not isinstance(visual.ln_pre, nn.Identity),
        patch_bias=visual.conv1.bias is not None,
        fc_norm=visual.final_ln_after_pool or pool is not None,
        out_dim=None if visual.proj is None else visual.proj.shape[1],
        pixel_mean=getattr(visual, "image_mean", None) or CLIP_MEAN,
        pixel_std=getattr(visual, "image_std", None) or CLIP_STD,
        **block_of(block, name),
        **pooling_of(visual.pool_type, pool),
    )


def pooling_of(kind: str, pool: Any) -> dict[str, Any]:
    """How the feature is made of the tokens."""
    if pool is None:
        return dict(pool="token" if kind == "tok" else kind)
    return dict(pool="queries", pool_prefix=True, pool_heads=pool.attn.num_heads, pool_queries=len(pool.query))


def check_block(block: Any, name: str) -> None:
    """Refuse options of open_clip's own block that are not supported."""
    wrong = {
        "its attention is a scaled cosine (scaled_cosine_attn)": getattr(block.attn, "logit_scale", None) is not None,
        "its heads are scaled (scale_heads)": getattr(block.attn, "head_scale", None) is not None,
        "there is a norm behind its attention (scale_attn)": not isinstance(
            getattr(block, "ln_attn", nn.Identity()), nn.Identity
        ),
    }
    for why, there in wrong.items():
        if there:
            refuse(name, why)


def block_of(block: Any, name: str) -> dict[str, Any]:
    """Return the arguments of a block of text and image towers."""
    inside = {"qk_norm": (block.attn, "ln_q"), "attn_norm": (block.attn, "ln_inner"), "mlp_norm": (block.mlp, "ln")}
    return dict(
        num_heads=block.attn.num_heads,
        init_values=1.0 if hasattr(block.ls_1, "gamma") else None,
        act=activation_of(block.mlp.gelu, name),
        norm_eps=block.ln_1.eps,
        **{key: not isinstance(getattr(m, part, nn.Identity()), nn.Identity) for key, (m, part) in inside.items()},
    )


def describe_trunk(visual: Any, name: str) -> dict[str, Any]:
    """Return the arguments of a `VisionTransformer` that equals a tower that open_clip takes from timm.

    Raises:
        ValueError: a part that is not supported, by its name.
    """
    spec, head = describe(visual.trunk, name), visual.head
    own: Any = getattr(visual.trunk, "head", None)
    found: dict[str, Callable[[], dict]] = {
        "": lambda: dict(out_dim=own.out_features, out_bias=own.bias is not None) if hasattr(own, "weight") else {},
        "drop proj": lambda: dict(out_dim=head.proj.out_features, out_bias=head.proj.bias is not None),
    }
    parts = " ".join(key for key, _ in head.named_children())
    if parts not in found:
        refuse(name, f"its features go through {parts} (vision_cfg.timm_pool, timm_proj)")
    return spec | found[parts]()


def family_of(visual: Any) -> str:
    """Return how an image tower of open_clip is read: `vit`, `maps` (convolutions and Swins), or "" for not at all."""
    if type(visual).__name__ == "TimmModel":
        return "vit" if type(visual.trunk).__module__.rpartition(".")[2] in FAMILIES else "maps"
    return {"VisionTransformer": "vit", "ModifiedResNet": "maps"}.get(type(visual).__name__, "")


def describe_text(text: Any, name: str) -> dict[str, Any]:
    """Return the arguments of a `TextTransformer` that equals open_clip's.

    Raises:
        ValueError: a part that is not supported, by its name.
    """
    block, projection = text.transformer.resblocks[0], text.text_projection
    check_block(block, name)
    if text.pool_type not in POOLS or text.use_pad_mask or text.correct_cls_mask:
        refuse(name, f"its text tower has pool_type = {text.pool_type!r} or masks its padding (use_pad_mask)")
    found = block_of(block, name)
    extra = [key for key in ("qk_norm", "attn_norm", "mlp_norm", "init_values") if found.pop(key)]
    if extra:
        refuse(name, f"its text tower has options that are not supported there: {', '.join(extra)}")
    bias = isinstance(projection, nn.Linear)
    return dict(
        vocab_size=text.vocab_size,
        context_length=text.context_length,
        dim=text.width,
        depth=len(text.transformer.resblocks),
        out_dim=None if projection is None else projection.out_features if bias else projection.shape[1],
        mlp_ratio=exact_ratio(block.mlp.c_fc.out_features, text.width),
        causal=text.attn_mask is not None,
        pool="class" if text.cls_emb is not None else POOLS[text.pool_type],
        end_id=text.eos_id,
        pad_id=text.pad_id,
        proj_bias=bias,
        **found,
    )


def tokenizer_of(config: dict, model: str) -> Tokenizer:
    """The tokenizer of a config."""
    length = config["text_cfg"]["context_length"]
    return HubTokenizer(model, length) if "hf_tokenizer_name" in config["text_cfg"] else ClipTokenizer(length)
