"""Read the architecture of a live timm vision transformer, part by part; a part that is not supported is an error."""

import copy
from typing import Any, NoReturn

from torch import nn

SUPPORTED = (
    "timm's VisionTransformer and Eva models of supported parts (AugReg, in21k, MAE, DINO, DeiT, DINOv2, DINOv3, CLIP, "
    "SigLIP and SigLIP2, AIMv2, EVA-02, Perception Encoder, RoPE-ViT, BEiT, NaFlex, hybrids); docs/encoders.md has all"
)
NORMS = {"LayerNorm": "layer", "RmsNorm": "rms", "RMSNorm": "rms"}
GATED = ("GluMlp", "SwiGLU", "GeGluMlp")
BLOCKS = ("Block", "ResPostBlock", "ParallelScalingBlock", "EvaBlock", "EvaBlockPostNorm")


def refuse(name: str, why: str) -> NoReturn:
    """Say that a timm model is not supported, why, and what is."""
    raise ValueError(f"{name!r} is not supported: {why}. Supported are {SUPPORTED}")


def describe(model: Any, name: str) -> dict[str, Any]:
    """Return the arguments of a `VisionTransformer` that equals a live timm model.

    Raises:
        ValueError: a part that is not supported, by its name.
    """
    if type(model).__name__ == "NaFlexVit":
        model = NaFlexView(model, name)
    if type(model.blocks[0]).__name__ == "ParallelScalingBlock":
        model = ParallelView(model)
    check_parts(model, name)
    block, config = model.blocks[0], getattr(model, "pretrained_cfg", {})
    act = activation_of(block.mlp.act, name)
    return dict(
        dim=model.embed_dim,
        depth=len(model.blocks),
        num_heads=block.attn.num_heads,
        mlp_ratio=exact_ratio(hidden_of(block.mlp), model.embed_dim),
        qk_norm=has(block.attn, "q_norm"),
        init_values=None if gamma_of(block) is None else 1e-5,
        act=act,
        gated=type(block.mlp).__name__ in GATED,
        class_token=model.cls_token is not None,
        embed_prefix=not getattr(model, "no_embed_class", False),
        pre_norm=has(model, "norm_pre"),
        norm_eps=block.norm1.eps,
        pixel_mean=config.get("mean", (0.5, 0.5, 0.5)),
        pixel_std=config.get("std", (0.5, 0.5, 0.5)),
        name=name,
        rotary=rotary_of(model, name),
        positions=model.pos_embed is not None,
        relative=relative_of(model),
        norm=NORMS[type(block.norm1).__name__],
        attn_norm=has(block.attn, "norm"),
        mlp_norm=not hasattr(block.mlp, "w0") and has(block.mlp, "norm"),
        mlp_norm_in=hasattr(block.mlp, "w0"),
        bias=block.attn.proj.bias is not None,
        post_norm=type(block).__name__ in ("ResPostBlock", "EvaBlockPostNorm"),
        **patches_of(model),
        **tokens_of(model),
        **pooling_of(model, act, name),
        parallel=isinstance(model, ParallelView),
        **layout_of(model),
    )


class ParallelView:
    """Look at a model of parallel blocks as at one of plain blocks, which hold no weights."""

    def __init__(self, model: Any):
        self.model, self.blocks = model, [plain_of(block) for block in model.blocks]

    def __getattr__(self, key: str) -> Any:
        return getattr(self.model, key)


def plain_of(block: Any) -> nn.Module:
    """Build timm's plain block with the parts of a parallel one, without memory."""
    from timm.models.vision_transformer import Block

    behind, norm = block.out_proj or block.attn_out_proj, block.in_norm
    plain = Block(
        dim=norm.weight.shape[0],
        num_heads=block.num_heads,
        mlp_ratio=exact_ratio(block.in_split[0], norm.weight.shape[0]),
        qkv_bias=block.in_proj.bias is not None,
        qk_norm=has(block, "q_norm"),
        proj_bias=behind.bias is not None,
        init_values=1e-5 if has(block, "ls") else None,
        norm_layer=lambda dim, **kwargs: type(norm)(dim, eps=norm.eps, device="meta"),  # type: ignore[arg-type]
        device="meta",
    )
    plain.mlp.act = block.mlp_act
    return plain


class NaFlexView:
    """Look at a NaFlex model of timm as at a plain one.

    Raises:
        ValueError: positions or patches of a kind that is not supported.
    """

    no_embed_class = True

    def __init__(self, model: Any, name: str):
        self.model, embeds = model, model.embeds
        wrong = {
            f"its positions are of kind {embeds.pos_embed_type}": embeds.pos_embed_type != "learned",
            "its positions are sampled (pos_embed_use_grid_sample)": embeds.pos_embed_use_grid_sample,
            "its pixels are normed before the projection": embeds.norm_input is not None,
            "its patches are no linear projection with the color last": not embeds.is_linear
            or not embeds.channels_last,
        }
        if any(wrong.values()):
            refuse(name, "; ".join(why for why, there in wrong.items() if there))
        embeds.grid_size = embeds.pos_embed_grid_size
        self.patch_embed, self.cls_token = embeds, embeds.cls_token
        self.reg_token, self.pos_embed = embeds.reg_token, embeds.pos_embed
        self.own_size = model.pretrained_cfg.get("input_size", (3, 256, 256))[-1]
        self.resize = dict(
            mode=embeds.pos_embed_interp_mode,
            antialias=embeds.pos_embed_antialias,
            align_corners=embeds.pos_embed_align_corners,
            square=embeds.pos_embed_ar_preserving,
            grid=embeds.pos_embed_grid_size[0],
        )

    def __getattr__(self, key: str) -> Any:
        return getattr(self.model, key)


def has(owner: Any, part: str) -> bool:
    """Return whether an optional part is there and does something."""
    return not isinstance(getattr(owner, part, None), nn.Identity | None)


def stride_of(model: Any) -> int:
    """Pixels of a patch of a timm model, 1 where it has no patches."""
    embed: Any = getattr(model, "patch_embed", getattr(model, "embeds", None))
    return embed.feat_ratio() if hasattr(embed, "feat_ratio") else getattr(embed, "patch_size", (1, 1))[0]


def patches_of(model: Any) -> dict[str, Any]:
    """How the patches are made of images."""
    embed = model.patch_embed
    side, patch = embed.grid_size, stride_of(model)
    found: dict[str, Any] = dict(image_size=side[0] * patch, patch_size=patch)
    if type(embed).__name__ == "NaFlexEmbeds":
        found |= dict(image_size=model.own_size, resize=model.resize)
    if type(embed).__name__ == "HybridEmbed":
        return found | dict(stem=lambda: copy.deepcopy(embed))
    return found | dict(
        patch_bias=embed.proj.bias is not None,
        patch_norm=not isinstance(embed.norm, nn.Identity),
        pad_images=bool(getattr(embed, "dynamic_img_pad", False)),
        crop_images=bool((getattr(embed, "img_size", None) or side)[0] % patch) and "resize" not in found,
    )


def layers_of(mlp: Any) -> list[Any]:
    """Return the linear layers of an MLP, the last one behind the activation."""
    names = ("fc1_g", "fc1_x", "fc1", "fc2", "w0", "w1", "w2")
    return [getattr(mlp, name) for name in names if hasattr(mlp, name)]


def relative_of(model: Any) -> bool:
    """Return whether attention has a bias by relative position."""
    return getattr(model.blocks[0].attn, "relative_position_bias_table", None) is not None


def hidden_of(mlp: Any) -> int:
    """Rows of the first layer of an MLP, gate and value together."""
    return sum(layer.out_features for layer in layers_of(mlp)[:-1])


def exact_ratio(hidden: int, dim: int) -> float:
    """A ratio whose product with `dim` comes back as `hidden` when cut to an integer."""
    ratio = hidden / dim
    return ratio if int(dim * ratio) == hidden else (hidden + 0.5) / dim


def gamma_of(block: Any) -> Any:
    """LayerScale of the attention of a block, None for none."""
    return getattr(getattr(block, "ls1", None), "gamma", getattr(block, "gamma_1", None))


def tokens_of(model: Any) -> dict[str, Any]:
    """Registers, and the token of distillation, which stands where one would."""
    if hasattr(model, "dist_token"):
        return dict(num_registers=1, pool_tokens=2)
    registers = getattr(model, "reg_token", None)
    return dict(num_registers=0 if registers is None else registers.shape[1])


def pooling_of(model: Any, act: str, name: str) -> dict[str, Any]:
    """How the feature is made of the tokens."""
    tokens, pooled = has(model, "norm"), has(model, "fc_norm")
    if tokens and pooled:
        refuse(name, "it has a norm before pooling and one behind")
    found = dict(final_norm=tokens or pooled, fc_norm=pooled)
    pool = getattr(model, "attn_pool", None)
    if pool is None:
        return dict(found, pool=model.global_pool, pool_prefix=getattr(model, "pool_include_prefix", False))
    strange = {
        "positions": pool.pos_embed is not None,
        f"{pool.latent_len} queries": pool.latent_len != 1,
        "a query without projection": isinstance(pool.q, nn.Identity),
        "normed queries": not isinstance(pool.q_norm, nn.Identity),
        "no MLP": pool.mlp is None,
        "another activation": pool.mlp is not None and activation_of(pool.mlp.act, name) != act,
    }
    for what, there in strange.items():
        if there:
            refuse(name, f"its attention pooling has {what}")
    return dict(
        found,
        pool="map",
        pool_prefix=getattr(model, "pool_include_prefix", True),  # Eva's pooling reads all tokens
        pool_heads=pool.num_heads,
        pool_ratio=exact_ratio(pool.mlp.fc1.out_features, model.embed_dim),
    )


def rotary_of(model: Any, name: str) -> dict[str, Any] | None:
    """Arguments of `rotary.Rotary`, None for a model without rotary positions."""
    rope = getattr(model, "rope", None)
    if rope is None:
        return None
    kind, layout = type(rope).__name__, "half" if getattr(rope, "rotate_half", False) else "interleaved"
    if kind == "RotaryEmbeddingMixed":
        return dict(kind="mixed", temperature=rope.temperature, order=rope.grid_indexing)
    if kind == "RotaryEmbeddingCat" and rope.grid_type == "index" and not rope.in_pixels:
        return dict(
            kind="axial", temperature=float(rope.temperature), order=rope.grid_indexing, offset=rope.grid_offset,
            reference=rope.ref_feat_shape, layout=layout,
        )  # fmt: skip
    if kind == "RotaryEmbeddingDinoV3" and rope.normalize_coords == "separate" and rope.min_period is None:
        return dict(
            kind="centered", temperature=rope.temperature, order=rope.grid_indexing, offset=rope.grid_offset,
            layout=layout,
        )  # fmt: skip
    refuse(name, f"its rotary positions are {kind} with settings that are not known")


def layout_of(model: Any) -> dict[str, Any]:
    """Bias of the projections, and in which layout timm holds the weights (`timm_keys.PARTS`)."""
    if isinstance(model, ParallelView):
        own = model.model.blocks[0]
        part = "parallel" if own.out_proj is None else "parallel, one projection behind"
        return dict(qkv_bias=own.in_proj.bias is not None, layout=(part,))
    block = model.blocks[0]
    attn, layout = block.attn, []
    if hasattr(block, "gamma_1"):
        layout.append("gamma")
    if attn.qkv is None:
        bias = attn.q_proj.bias is not None
        layout.append("three projections")
        if bias:
            layout.append("three biases" if attn.k_proj.bias is not None else "two of three biases")
    else:
        bias = attn.qkv.bias is not None
        if getattr(attn, "q_bias", None) is not None:
            bias = True
            layout.append("bias apart")
    further = {
        "gate apart": hasattr(block.mlp, "fc1_g"),
        "geglu": hasattr(block.mlp, "w0"),
        "relative": relative_of(model),
        "naflex": isinstance(model, NaFlexView),
        "mixed rotary": type(getattr(model, "rope", None)).__name__ == "RotaryEmbeddingMixed",
        "distilled": hasattr(model, "dist_token"),
    }
    layout += [part for part, there in further.items() if there]
    return dict(qkv_bias=bias, layout=tuple(layout))


def check_parts(model: Any, name: str) -> None:
    """Refuse, by name, every part of a timm model that is not supported."""
    known: tuple[str, ...] = ("VisionTransformer", "VisionTransformerDistilled", "Eva", "Beit")
    known_here = isinstance(model, NaFlexView | ParallelView) or type(model).__module__.startswith("timm.models.")
    if type(model).__name__ not in (*known, "NaFlexView", "ParallelView") or not known_here:
        refuse(name, f"it is a {type(model).__name__}")
    block = model.blocks[0]
    kind = type(block).__name__
    if kind not in BLOCKS:
        refuse(name, f"its block is {kind}; supported: {', '.join(BLOCKS)}")
    parts = {
        "attention": (type(block.attn).__name__, ("Attention", "EvaAttention", "AttentionRope")),
        "MLP": (type(block.mlp).__name__, ("Mlp", *GATED)),
        "norm": (type(block.norm1).__name__, tuple(NORMS)),
        "patch embedding": (type(model.patch_embed).__name__, ("PatchEmbed", "HybridEmbed", "NaFlexEmbeds")),
        "pooling": (model.global_pool or "none", ("token", "avg", "map")),
        "attention pooling": (type(getattr(model, "attn_pool", None)).__name__, ("NoneType", "AttentionPoolLatent")),
    }
    for part, (found, allowed) in parts.items():
        if found not in allowed:
            refuse(name, f"its {part} is {found}; supported: {', '.join(k for k in allowed if k != 'NoneType')}")
    check_details(model, block, name)


def check_details(model: Any, block: Any, name: str) -> None:
    """Refuse options of supported parts that are not supported."""
    attn, grid, patch = block.attn, model.patch_embed.grid_size, model.patch_embed.patch_size
    channels = getattr(model.patch_embed, "in_chans", None) or model.patch_embed.proj.in_channels
    eps = {float(m.eps) for m in norms_of(model)}
    shapes = [{key: value.shape for key, value in b.state_dict().items()} for b in model.blocks]
    biases = {layer.bias is not None for layer in (attn.proj, *layers_of(block.mlp))}
    wrong = {
        f"its grid is {grid[0]} x {grid[1]} of {patch[0]} x {patch[1]} pixels, not square": (
            grid[0] != grid[1] or patch[0] != patch[1]
        ),
        f"it takes images of {channels} channels, not 3": channels != 3,
        "its MLP is gated by the second half": getattr(block.mlp, "gate_last", False),
        "its blocks share a bias by relative position": getattr(model, "rel_pos_bias", None) is not None,
        "its attention is gated": getattr(attn, "gate", None) is not None,
        "its keys and values have fewer heads": getattr(attn, "num_kv_heads", attn.num_heads) != attn.num_heads,
        "its heads are not as wide as the tokens": attn.proj.in_features != model.embed_dim,
        f"its norms have eps {sorted(eps)}": len(eps) > 1,
        "its blocks differ in shape": any(s != shapes[0] for s in shapes),
        "only some of its layers have a bias": len(biases) > 1,
        "LayerScale is on its attention only": getattr(block, "gamma_1", None) is not None and block.gamma_2 is None,
        "its norms are of several kinds": len({NORMS.get(type(m).__name__) for m in norms_of(model)}) > 1,
    }
    if any(wrong.values()):
        refuse(name, "; ".join(why for why, there in wrong.items() if there))


def norms_of(model: Any) -> list[Any]:
    """All norms of a model, without those of a convolution network that makes the patches."""
    return [m for name, m in model.named_modules() if hasattr(m, "eps") and "patch_embed.backbone." not in name]


def activation_of(module: nn.Module, name: str) -> str:
    """Return the short name of a timm activation."""
    kind = type(module).__name__
    if kind == "GELU":
        return "gelu_tanh" if getattr(module, "approximate", "none") == "tanh" else "gelu"
    known = {"GELUTanh": "gelu_tanh", "QuickGELU": "quick_gelu", "QuickGELUActivation": "quick_gelu", "SiLU": "silu"}
    if kind not in known:
        refuse(name, f"its activation is {kind}")
    return known[kind]
