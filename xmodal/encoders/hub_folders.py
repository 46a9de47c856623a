"""Load image towers from Hugging Face folders on disk: CLIP, SigLIP, SigLIP2, ViT, DINOv2 and DINOv3."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xmodal.encoders.files import load_exactly, read_config, read_folder, unfilled
from xmodal.encoders.keys import State, under
from xmodal.encoders.statistics import CLIP_MEAN, CLIP_STD, IMAGENET_MEAN, IMAGENET_STD
from xmodal.encoders.vit import VisionTransformer
from xmodal.registry import ENCODERS, did_you_mean

ACTIVATIONS = {"gelu": "gelu", "quick_gelu": "quick_gelu", "gelu_pytorch_tanh": "gelu_tanh", "silu": "silu"}
IMAGENET = dict(pixel_mean=IMAGENET_MEAN, pixel_std=IMAGENET_STD)
HALF = dict(pixel_mean=(0.5, 0.5, 0.5), pixel_std=(0.5, 0.5, 0.5))
NAMES = [  # of transformers; all that fit a key are applied, in this order
    (r"^vision_model\.", ""),
    (r"^embeddings\.(class_embedding|cls_token)$", "cls_token"),
    (r"^embeddings\.register_tokens$", "reg_token"),
    (r"^embeddings\.position_embedding(\.weight|s)$", "pos_embed"),
    (r"^embeddings\.patch_embedding(s\.projection|s)?\.", "patch_embed.proj."),
    (r"^pre_layrnorm\.", "norm_pre."),
    (r"^(post_layernorm|layernorm)\.", "norm."),
    (r"^(?:encoder\.layers|encoder\.layer|model\.layer|layer)\.", "blocks."),
    (r"^visual_projection\.", "proj."),
    (r"^head\.probe$", "attn_pool.latent"),
    (r"^head\.layernorm\.", "attn_pool.norm."),
    (r"^head\.mlp\.", "attn_pool.mlp."),
    (r"^head\.attention\.out_proj\.", "attn_pool.proj."),
    (r"\.layer_norm(\d)\.", r".norm\1."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.(self_attn\.out_proj|attention\.output\.dense|attention\.o_proj)\.", ".attn.proj."),
    (r"\.(?:self_attn|attention\.attention|attention)\.(q|k|v)(?:_proj|uery|ey|alue)\.", r".attn.\1_proj."),
    (r"\.mlp\.down_proj\.", ".mlp.fc2."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"(blocks\.\d+)\.output\.dense\.", r"\1.mlp.fc2."),
    (r"\.layer_scale(\d)\.lambda1$", r".ls\1.gamma"),
]


def common(config: dict[str, Any]) -> dict[str, Any]:
    """Arguments that all configs name alike.

    Raises:
        ValueError: an activation that is not known.
    """
    act = str(config.get("hidden_act", "gelu"))
    if act not in ACTIVATIONS:
        raise ValueError(f"config.json: hidden_act {act!r} is not supported; {did_you_mean(act, ACTIVATIONS)}")
    dim, hidden = config.get("hidden_size", 768), config.get("intermediate_size")
    return dict(
        image_size=config.get("image_size", 224),
        patch_size=config.get("patch_size", 16),
        dim=dim,
        depth=config.get("num_hidden_layers", 12),
        num_heads=config.get("num_attention_heads", 12),
        act=ACTIVATIONS[act],
        mlp_ratio=config.get("mlp_ratio", 4) if hidden is None else (hidden + 0.5) / dim,
    )


def clip(config: dict[str, Any]) -> dict[str, Any]:
    """CLIP: a norm in front, no bias of the patch projection, the projection of the whole model where it is there."""
    vision = dict(patch_size=32, hidden_act="quick_gelu", intermediate_size=3072) | config.get("vision_config", config)
    whole = "vision_config" in config
    return common(vision) | dict(
        pre_norm=True, patch_bias=False, norm_eps=vision.get("layer_norm_eps", 1e-5), pixel_mean=CLIP_MEAN,
        pixel_std=CLIP_STD, out_dim=config.get("projection_dim", 512) if whole else None,
    )  # fmt: skip


def siglip(config: dict[str, Any]) -> dict[str, Any]:
    """SigLIP: no class token, attention pooling."""
    vision = dict(hidden_act="gelu_pytorch_tanh", intermediate_size=3072) | config.get("vision_config", config)
    return common(vision) | dict(class_token=False, pool="map", norm_eps=vision.get("layer_norm_eps", 1e-6)) | HALF


def siglip2(config: dict[str, Any]) -> dict[str, Any]:
    """SigLIP2 NaFlex: images of any size and aspect ratio, positions resized for each."""
    vision = dict(num_patches=256) | config.get("vision_config", config)
    side = round(vision["num_patches"] ** 0.5)
    size = side * vision.get("patch_size", 16)
    return siglip(config) | dict(image_size=size, resize=dict(mode="bilinear", grid=side))


def dinov2(config: dict[str, Any]) -> dict[str, Any]:
    """DINOv2: LayerScale, the class token behind the last norm.

    Raises:
        ValueError: the giant model's gated MLP.
    """
    if config.get("use_swiglu_ffn"):
        raise ValueError("config.json: use_swiglu_ffn is not supported: take timm_encoder('vit_giant_patch14_dinov2')")
    about = dict(init_values=1.0, norm_eps=config.get("layer_norm_eps", 1e-6), qkv_bias=config.get("qkv_bias", True))
    return common(config) | about | IMAGENET


def dinov2_with_registers(config: dict[str, Any]) -> dict[str, Any]:
    """DINOv2 with registers: no positions on class token and registers (see `to_plain`)."""
    return dinov2(config) | dict(num_registers=config.get("num_register_tokens", 4), embed_prefix=False)


def vit(config: dict[str, Any]) -> dict[str, Any]:
    """Google's ViT: the class token behind the last norm."""
    about = common(dict(intermediate_size=3072) | config)
    return about | dict(norm_eps=config.get("layer_norm_eps", 1e-12), qkv_bias=config.get("qkv_bias", True)) | HALF


def dinov3(config: dict[str, Any]) -> dict[str, Any]:
    """DINOv3: rotary positions alone, registers, a gated MLP in the larger models.

    Raises:
        ValueError: a bias in only one of attention and MLP.
    """
    bias, gated = config.get("proj_bias", True), config.get("use_gated_mlp", False)
    if bias != config.get("mlp_bias", True):
        raise ValueError("config.json: proj_bias and mlp_bias differ, which is not supported")
    biases = {"query_bias": True, "key_bias": False, "value_bias": True}
    about = common(config)
    if gated:  # gate and value are one layer here
        about["mlp_ratio"] = (2 * config["intermediate_size"] + 0.5) / about["dim"]
    return about | dict(
        positions=False, num_registers=config.get("num_register_tokens", 0), init_values=1.0, gated=gated, bias=bias,
        qkv_bias=any(config.get(key, default) for key, default in biases.items()),
        norm_eps=config.get("layer_norm_eps", 1e-5), **IMAGENET,
        rotary=dict(kind="centered", temperature=config.get("rope_theta", 100.0), layout="half"),
    )  # fmt: skip


KINDS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "clip": clip,
    "clip_vision_model": clip,
    "siglip": siglip,
    "siglip_vision_model": siglip,
    "siglip2": siglip2,
    "siglip2_vision_model": siglip2,
    "vit": vit,
    "dinov2": dinov2,
    "dinov2_with_registers": dinov2_with_registers,
    "dinov3_vit": dinov3,
}


@ENCODERS.register_module(name="hub_folder_encoder")
def hub_folder_encoder(folder: str, image_size: int | None = None, drop_path: float = 0.0) -> VisionTransformer:
    """Load the image tower of a Hugging Face folder on disk.

    Args:
        folder: with `config.json` and the weights (safetensors or `pytorch_model.bin`, also in several files with their
            index), of the types `clip`, `siglip` (also SigLIP2 of fixed size), `siglip2` (NaFlex), their vision models,
            `vit`, `dinov2`, `dinov2_with_registers` or `dinov3_vit`.
        image_size: pixels, when another resolution than the model's own is wanted; positions are resized.
        drop_path: stochastic depth of the last block, in training only.

    Returns:
        The tower in evaluation mode.

    Raises:
        FileNotFoundError: a file that is missing.
        ValueError: another type of model, weights that do not fit.
    """
    path = Path(folder)
    config = read_config(path)
    kind = str(config.get("model_type"))
    if kind not in KINDS:
        raise ValueError(f"{folder}/config.json: model_type {kind!r} is not supported; {did_you_mean(kind, KINDS)}")
    spec = KINDS[kind](config) | dict(name=path.name, drop_path=drop_path)
    own = spec["image_size"]
    tower = load_exactly(
        unfilled(lambda: VisionTransformer(**spec)),
        to_plain(read_folder(path)),
        folder,
    )
    if image_size in (None, own):
        return tower
    resized = unfilled(lambda: VisionTransformer(**spec | dict(image_size=image_size)))
    return load_exactly(resized, tower.state_dict(), folder)


def to_plain(state: State) -> State:
    """Rename and fuse transformers' weights of an image tower to those of a `VisionTransformer`, without the others."""
    aside = (
        "text_model.",
        "logit_",
        "text_projection.",
        "embeddings.mask_token",
        "vision_model.embeddings.position_ids",
        "classifier.",
        "pooler.",
    )
    for whole in ("dinov2.", "dinov2_with_registers.", "vit."):
        state = under(state, whole) or state
    renamed: State = {}
    for key, value in state.items():
        if key.startswith(aside):
            continue
        for pattern, name in NAMES:
            key = re.sub(pattern, name, key)
        if value.numel():  # DINOv3 without registers holds an empty tensor of them
            renamed[key] = shaped(key, value)
    if {"cls_token", "reg_token", "pos_embed"} <= renamed.keys():  # DINOv2: the first position is the class token's
        places = renamed["pos_embed"]
        renamed |= {"cls_token": renamed["cls_token"] + places[:, :1], "pos_embed": places[:, 1:]}
    return split_pooling(fused(renamed))


def shaped(key: str, value: Tensor) -> Tensor:
    """Give tokens and positions the shape (1, N, D), and a linear projection of pixels that of a convolution."""
    if key == "patch_embed.proj.weight" and value.ndim == 2:  # pixels of a patch, the color last
        side = round((value.shape[1] / 3) ** 0.5)
        return value.unflatten(1, (side, side, 3)).permute(0, 3, 1, 2).contiguous()
    return value.reshape(1, -1, value.shape[-1]) if key in ("cls_token", "pos_embed", "reg_token") else value


def fused(state: State) -> State:
    """Write three projections as one, with zeros for biases that are not there, and gate and value as one layer."""
    out: State = {}
    for key, value in state.items():
        place, _, kind = key.partition(".attn.v_proj.")
        gate, _, part = key.partition(".mlp.up_proj.")
        if kind:
            parts = (state.get(f"{place}.attn.{p}_proj.{kind}", torch.zeros_like(value)) for p in "qkv")
            out[f"{place}.attn.qkv.{kind}"] = torch.cat(list(parts))
        elif part:
            first = state.get(f"{gate}.mlp.gate_proj.{part}")
            out[f"{gate}.mlp.fc1.{part}"] = value if first is None else torch.cat([first, value])
        elif not re.search(r"\.attn\.[qk]_proj\.|\.mlp\.gate_proj\.", key):
            out[key] = value
    return out


def split_pooling(state: State) -> State:
    """Split torch's projection of attention pooling into that of the query and that of keys and values."""
    for kind in ("weight", "bias"):
        both = state.pop(f"head.attention.in_proj_{kind}", None)
        if both is not None:
            width = both.shape[0] // 3
            state |= {f"attn_pool.q.{kind}": both[:width], f"attn_pool.kv.{kind}": both[width:]}
    return state
