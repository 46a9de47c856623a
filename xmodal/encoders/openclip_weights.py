"""Load CLIP and SigLIP towers of open_clip (architecture and weights) into xmodal's.

Its configs are read key by key; an unknown key is an error that names it.
"""

import copy
from pathlib import Path
from typing import Any

from torch import nn

from xmodal.encoders import timm_weights
from xmodal.encoders.clip import CLIP
from xmodal.encoders.files import load_exactly, missing_weights, read_state, seeded, unfilled
from xmodal.encoders.keys import from_clip_state, from_clip_visual_state, put_under
from xmodal.encoders.openai_weights import vision_spec
from xmodal.encoders.text import TextTransformer
from xmodal.encoders.timm_parts import describe
from xmodal.encoders.timm_weights import create
from xmodal.encoders.tokenizer import ClipTokenizer, HubTokenizer, Tokenizer
from xmodal.encoders.vit import CLIP_MEAN, CLIP_STD, CLIP_TOWER, VisionTransformer
from xmodal.registry import ENCODERS, did_you_mean
from xmodal.structures import Encoder

SUPPORTED = (
    "ViT-B-32, ViT-B-16, ViT-L-14, ViT-L-14-336, ViT-H-14, ViT-g-14, ViT-bigG-14, their -quickgelu forms, and the "
    "SigLIP, SigLIP2, EVA and PE-Core models"
)
VISION_KEYS = {"image_size", "layers", "width", "patch_size", "head_width", "mlp_ratio", "ls_init_value"}
TRUNK_KEYS = {
    "image_size", "timm_model_name", "timm_model_pretrained", "timm_pool", "timm_proj", "timm_drop", "timm_drop_path",
}  # fmt: skip
TEXT_KEYS = {
    "context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio", "no_causal_mask", "proj_bias", "pool_type",
    "norm_kwargs", "act_kwargs", "hf_tokenizer_name", "tokenizer_kwargs",
}  # fmt: skip
TOP_KEYS = {"embed_dim", "vision_cfg", "text_cfg", "quick_gelu", "custom_text", "init_logit_bias"}
POOLS = {"argmax": "end", "last": "last"}


@ENCODERS.register_module(name="open_clip_encoder")
def open_clip_encoder(
    name: str,
    pretrained: str | None = None,
    image_size: int | None = None,
    drop_path: float = 0.0,
    seed: int = 0,
    quick_gelu: bool | None = None,
    arch: dict | None = None,
    weights: str | None = None,
) -> VisionTransformer:
    """Load the image tower of an open_clip model as a `VisionTransformer`.

    Args:
        name: open_clip's name, such as `ViT-B-16-quickgelu` (OpenAI's weights) or `ViT-B-16` (LAION's).
        pretrained: a tag (`openai`, `laion2b_s34b_b88k`, ...), a file, or `random`.
        image_size: pixels, when another resolution than the model's own is wanted; positions are resized.
        drop_path: stochastic depth of the last block, in training only.
        seed: of random weights.
        quick_gelu: state the activation of a file's weights; by default that of `name`.
        arch: keys of open_clip's config that differ from the name's, as `dict(vision_cfg=dict(layers=2))`.
        weights: takes the place of `pretrained` where it is given: `model.encoder.weights=random` is the baseline of
            every point-cloud config, whatever its encoder.

    Returns:
        The tower in evaluation mode; statistics are those of the tag.

    Raises:
        ValueError: unknown names and tags, parts that are not supported, an activation that is not the weights' own,
            weights that do not fit.
        FileNotFoundError: weights that are neither cached nor reachable.
    """
    return open_clip_clip(name, weights or pretrained, image_size, drop_path, seed, quick_gelu, arch).visual


@ENCODERS.register_module(name="open_clip_clip")
def open_clip_clip(
    name: str,
    pretrained: str | None = None,
    image_size: int | None = None,
    drop_path: float = 0.0,
    seed: int = 0,
    quick_gelu: bool | None = None,
    arch: dict | None = None,
) -> CLIP:
    """Load both towers of an open_clip model; arguments and errors are those of `open_clip_encoder`."""
    config = config_of(name, arch)
    origin = origin_of(name, pretrained)
    quick = bool(config.get("quick_gelu", False)) if quick_gelu is None else quick_gelu
    if origin:
        check_activation(name, quick, bool(origin.get("quick_gelu", False)), f"the weights {pretrained!r}")
    config["quick_gelu"] = quick
    full = f"{name}/{Path(pretrained).stem if pretrained and not origin else pretrained}"
    if pretrained == "random":
        return seeded(seed, lambda: build(config, name, f"{full}-{seed}", image_size, drop_path)).eval()
    state = read_state(fetch(name, pretrained, origin) if origin else str(pretrained), torchscript=True)
    if "input_resolution" in state:
        check_activation(name, quick, True, f"OpenAI's file {Path(str(pretrained)).name}")
    clip = unfilled(lambda: build(config, name, full, image_size, drop_path, origin))
    return load_exactly(clip, from_clip_state(state), full)


def build(
    config: dict,
    model: str,
    name: str,
    image_size: int | None = None,
    drop_path: float = 0.0,
    origin: dict | None = None,
) -> CLIP:
    """Build a CLIP from an open_clip config without loading weights."""
    spec = vision_of(config, model, image_size)
    stats = {f"pixel_{k}": origin[k] for k in ("mean", "std") if origin and k in origin}
    visual = VisionTransformer(**{**spec, **stats, "name": name, "drop_path": drop_path})
    text = TextTransformer(**text_of(config, model), name=name)
    return CLIP(visual, text, tokenizer_of(config, model), logit_bias=config.get("init_logit_bias"))


def config_of(name: str, arch: dict | None) -> dict[str, Any]:
    """Return open_clip's config of a model with the changes of `arch`.

    Raises:
        ValueError: a name that open_clip does not have, or a key that is not supported.
    """
    import open_clip

    config = open_clip.get_model_config(name) if ":" not in name else None
    if config is None:
        near = did_you_mean(name, [n for n in open_clip.list_models() if n.startswith("ViT")])
        raise ValueError(f"open_clip has no model {name!r}; {near if near.startswith('did') else SUPPORTED}")
    for key, value in (arch or {}).items():
        config[key] = {**config.get(key, {}), **value} if isinstance(value, dict) else value
    vision, text = config["vision_cfg"], config["text_cfg"]
    trunk = "timm_model_name" in vision
    check_known(name, "", config, TOP_KEYS)
    check_known(name, "vision_cfg.", vision, TRUNK_KEYS if trunk else VISION_KEYS)
    check_known(name, "text_cfg.", text, TEXT_KEYS)
    wrong = {
        "vision_cfg.layers": vision.get("layers") if isinstance(vision.get("layers"), list) else None,
        "vision_cfg.timm_drop": vision.get("timm_drop") or None,  # stochastic depth is an argument of the door
        "vision_cfg.timm_proj": vision.get("timm_proj") if vision.get("timm_proj", "none") != "none" else None,
        "text_cfg.pool_type": text.get("pool_type") if text.get("pool_type", "argmax") not in POOLS else None,
    }
    for key, value in wrong.items():
        if value is not None:
            raise ValueError(f"{name!r} is not supported: {key} = {value!r}. Supported are {SUPPORTED}")
    return config


def check_known(name: str, where: str, found: dict, known: set[str]) -> None:
    """Refuse keys of a config that are not supported."""
    strange = sorted(found.keys() - known)
    if strange:
        said = ", ".join(f"{where}{key} = {found[key]!r}" for key in strange)
        raise ValueError(f"{name!r} is not supported: {said}. Supported are {SUPPORTED}")


def vision_of(config: dict, model: str, image_size: int | None) -> dict:
    """Arguments of the image tower of a config."""
    vision = config["vision_cfg"]
    size = image_size or vision["image_size"]
    if "timm_model_name" in vision:
        pool = {"global_pool": vision["timm_pool"]}
        spec = describe(unfilled(lambda: create(vision["timm_model_name"], size, pool)), model)
        # without a word on the projection, open_clip takes the trunk's own class head for it
        return spec if vision.get("timm_proj") else spec | dict(out_dim=config["embed_dim"], out_bias=True)
    width = vision["width"]
    return dict(
        CLIP_TOWER,
        image_size=size,
        patch_size=vision["patch_size"],
        dim=width,
        depth=vision["layers"],
        num_heads=width // vision.get("head_width", 64),
        mlp_ratio=vision.get("mlp_ratio", 4.0),
        init_values=vision.get("ls_init_value"),
        act="quick_gelu" if config["quick_gelu"] else "gelu",
        out_dim=config["embed_dim"],
    )


def text_of(config: dict, model: str) -> dict:
    """Arguments of the text tower of a config."""
    text = config["text_cfg"]
    act = "gelu_tanh" if text.get("act_kwargs") else "gelu"
    if text.get("act_kwargs") not in (None, {"approximate": "tanh"}):
        raise ValueError(f"{model!r} is not supported: text_cfg.act_kwargs = {text['act_kwargs']!r}")
    return dict(
        vocab_size=text["vocab_size"],
        context_length=text["context_length"],
        dim=text["width"],
        depth=text["layers"],
        num_heads=text["heads"],
        out_dim=config["embed_dim"],
        mlp_ratio=text.get("mlp_ratio", 4.0),
        act="quick_gelu" if config["quick_gelu"] else act,
        norm_eps=text.get("norm_kwargs", {}).get("eps", 1e-5),
        causal=not text.get("no_causal_mask", False),
        pool=POOLS[text.get("pool_type", "argmax")],
        proj_bias=text.get("proj_bias", False),
    )


def tokenizer_of(config: dict, model: str) -> Tokenizer:
    """The tokenizer of a config."""
    length = config["text_cfg"]["context_length"]
    return HubTokenizer(model, length) if "hf_tokenizer_name" in config["text_cfg"] else ClipTokenizer(length)


def origin_of(name: str, pretrained: str | None) -> dict | None:
    """Return open_clip's notes on a tag; None for a file and for random weights.

    Raises:
        ValueError: neither a tag of this model, nor a file, nor `random`.
    """
    import open_clip
    from open_clip.pretrained import get_pretrained_cfg, list_pretrained_tags_by_model

    if pretrained == "random":
        return None
    origin = get_pretrained_cfg(name, pretrained) if pretrained else None
    if origin:
        return origin
    tags = list_pretrained_tags_by_model(name)
    if pretrained is None:
        raise ValueError(f"{name}: say which weights, pretrained='random' or a file or one of {', '.join(tags)}")
    if Path(pretrained).suffix and not Path(pretrained).exists():
        raise FileNotFoundError(f"no weights at {pretrained!r}")
    if not Path(pretrained).is_file():
        others = [m for m in open_clip.list_models() if pretrained in list_pretrained_tags_by_model(m)]
        hint = f"models with that tag: {', '.join(others)}" if others else did_you_mean(pretrained, tags)
        raise ValueError(f"{name} has no weights {pretrained!r}; {hint}")
    return None


def check_activation(name: str, built: bool, trained: bool, what: str) -> None:
    """Refuse weights that were trained with another activation: accuracy would drop without a word.

    Raises:
        ValueError: with the name that fits.
    """
    if built == trained:
        return
    other = name.removesuffix("-quickgelu") if built else f"{name}-quickgelu"
    word = {True: "QuickGELU", False: "GELU"}
    raise ValueError(f"{what} were trained with {word[trained]}, and {name!r} computes {word[built]}: take {other!r}")


def fetch(name: str, tag: str | None, origin: dict) -> str:
    """Return the weight file of a tag, from open_clip's cache or the hub.

    Raises:
        FileNotFoundError: neither has them.
    """
    from open_clip.pretrained import download_pretrained

    try:
        return download_pretrained(origin)
    except Exception as error:
        hub = f"{origin.get('hf_hub', '').rstrip('/') or origin.get('url')} (open_clip_model.safetensors)"
        raise missing_weights(f"{name} {tag}", hub, "pretrained", error) from error


def from_open_clip(model: nn.Module, name: str, image_size: int | None = None, arch: dict | None = None) -> CLIP:
    """Convert a live open_clip model that was built with `name` and these changes of its config."""
    config = config_of(name, arch)
    config.setdefault("quick_gelu", False)
    return load_exactly(build(config, name, name, image_size), from_clip_state(model.state_dict()), name)


def tower_and_head(model: Any) -> tuple[Encoder, nn.Module | None]:
    """Return a copy of the image tower of an open_clip model, and of what timm towers have behind it.

    Raises:
        ValueError: a tower that is not known here.
    """
    visual = getattr(model, "visual", model)
    kind = type(visual).__name__
    if kind == "TimmModel":  # SigLIP and others that have timm's tower in them
        tower, head = timm_weights.tower_and_head(visual.trunk)
        tower.pixel_mean, tower.pixel_std = tuple(visual.image_mean), tuple(visual.image_std)
        return tower, nn.Sequential(head or nn.Identity(), copy.deepcopy(visual.head))
    mean, std = getattr(visual, "image_mean", None) or CLIP_MEAN, getattr(visual, "image_std", None) or CLIP_STD
    if kind == "ModifiedResNet":
        from xmodal.encoders.convnet import ConvNet

        return ConvNet(copy.deepcopy(visual), visual.image_size, mean, std, "clip"), None
    if kind != "VisionTransformer":
        raise ValueError(
            f"{kind} is no image tower of open_clip that is known: VisionTransformer, ModifiedResNet and TimmModel are"
        )
    block, state = visual.transformer.resblocks[0], put_under(visual.state_dict(), "visual.")
    spec = vision_spec(state, "open_clip") | dict(
        num_heads=block.attn.num_heads,
        init_values=1.0 if "visual.transformer.resblocks.0.ls_1.gamma" in state else None,
        act="quick_gelu" if type(block.mlp.gelu).__name__ == "QuickGELU" else "gelu",
        norm_eps=block.ln_1.eps,
        patch_bias=visual.conv1.bias is not None,
        pixel_mean=mean,
        pixel_std=std,
    )
    return load_exactly(VisionTransformer(**spec), from_clip_visual_state(state), "open_clip"), None
