"""Load timm vision transformers (architecture and weights) into `VisionTransformer`.

The architecture is read from the timm model and not from its name: models of supported parts are rebuilt, any other
part is an error that names it.
"""

import copy
import fnmatch
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from xmodal.encoders.files import load_exactly, missing_weights, read_state, seeded, unfilled
from xmodal.encoders.keys import from_timm_state
from xmodal.encoders.vit import VisionTransformer
from xmodal.registry import ENCODERS, did_you_mean
from xmodal.structures import Encoder

SUPPORTED = (
    "vit_*_patch*_224/384 (AugReg, in21k, MAE, DINO), deit_*, deit3_*, vit_*_dinov2, vit_*_reg4_dinov2, vit_*_clip_*, "
    "vit_*_clip_quickgelu_*, vit_*_siglip_* and vit_*_siglip_gap_* (SigLIP and SigLIP2), vit_*_gap_*, vit_*_reg*_gap_*"
)
FAMILIES = ("vit_*", "deit_*", "deit3_*")
LEFT_IN_FILES = ("mask_token", "decoder_", "head", "fc_norm.", "pre_logits.", "predictor.", "norm_pix")


@ENCODERS.register_module(name="timm_encoder")
def timm_encoder(
    name: str,
    weights: str = "pretrained",
    image_size: int | None = None,
    drop_path: float = 0.0,
    seed: int = 0,
    arch: dict | None = None,
) -> VisionTransformer:
    """Load a timm vision transformer as a `VisionTransformer`.

    Args:
        name: timm's name with or without a tag, such as `vit_base_patch16_224.augreg_in21k`.
        weights: `pretrained` for the tag's, `random`, or a file: safetensors, a torch file with a state dict (timm's
            own, MAE, DINO, DINOv2, DeiT, OpenAI's image tower) or JAX's `.npz` (ViT-B_16.npz of AugReg and in21k).
        image_size: pixels, when another resolution than the model's own is wanted; positions are resized.
        drop_path: stochastic depth of the last block, in training only.
        seed: of random weights.
        arch: arguments of timm's model that differ from the name's, such as `dict(depth=2)`.

    Returns:
        The tower in evaluation mode; statistics are those of the tag.

    Raises:
        ValueError: a name timm does not have, a model with parts that are not supported, weights that do not fit.
        FileNotFoundError: weights that are neither cached nor reachable.
    """
    arch = dict(arch or {})
    model = unfilled(lambda: create(name, image_size, arch))
    tag = model.pretrained_cfg.get("tag")
    if tag and tag != "untrained":
        name = f"{name.split('.')[0]}.{tag}"
    spec = {**describe(model, name), "drop_path": drop_path}
    if weights == "random":
        tower = seeded(seed, lambda: VisionTransformer(**spec)).eval()
        tower.name = f"{name}/random-{seed}"
        return tower
    if weights == "pretrained":
        state = fetch(name, image_size, arch)
    else:
        state = read_for(model, Path(weights), lambda: create(name, image_size, arch))
    spec["name"] = name if weights == "pretrained" else f"{name}/{Path(weights).stem}"
    return load_exactly(unfilled(lambda: VisionTransformer(**spec)), from_timm_state(state), str(weights))


def from_timm(model: Any, image_size: int | None = None, drop_path: float = 0.0) -> VisionTransformer:
    """The same tower as a live timm model, at its own resolution or another; its own stochastic depth where 0."""
    spec = describe(model, getattr(model, "pretrained_cfg", {}).get("architecture") or type(model).__name__)
    spec.update(drop_path=drop_path, image_size=image_size or spec["image_size"])
    tower = load_exactly(VisionTransformer(**spec), from_timm_state(model.state_dict()), str(spec["name"]))
    for mine, theirs in zip(tower.blocks, model.blocks, strict=True) if not drop_path else ():
        mine.drop_path1.drop_prob = float(getattr(theirs.drop_path1, "drop_prob", 0.0))
        mine.drop_path2.drop_prob = float(getattr(theirs.drop_path2, "drop_prob", 0.0))
    return tower


def tower_and_head(model: Any) -> tuple[Encoder, nn.Module | None]:
    """Return a copy of the tower of a timm model, and of its classifier.

    Dropout of the tower is not taken over, which is said: frozen parts run in evaluation mode. Stochastic depth and the
    dropout in front of the classifier are.

    Raises:
        ValueError: a model with parts that are not supported.
    """
    name = getattr(model, "pretrained_cfg", {}).get("architecture") or type(model).__name__
    if not hasattr(model, "get_classifier"):
        refuse(name, f"a {type(model).__name__} (features_only=True) has no pooled feature: give the whole model")
    if type(model).__module__.startswith("timm.models.vision_transformer"):
        tower, drop = from_timm(model), model.head_drop
        warn_of_dropout(model, name)
        return tower, with_dropout(model.head, drop.p)
    from xmodal.encoders.convnet import ConvNet

    body = copy.deepcopy(model)
    head, rate = linear_head(body.get_classifier(), name), float(getattr(model, "drop_rate", 0.0) or 0.0)
    cfg = body.pretrained_cfg
    size = cfg.get("input_size", (3, 224, 224))[-1]
    try:
        body.reset_classifier(0)
        return ConvNet(body, size, cfg["mean"], cfg["std"], name), with_dropout(head, rate)
    except (AttributeError, TypeError, NotImplementedError) as error:
        raise ValueError(
            f"{name!r} is not supported: {type(model).__name__} has a part unknown here ({error})"
        ) from error


def warn_of_dropout(model: Any, name: str) -> None:
    """Say which dropout of a timm model a frozen tower leaves out."""
    rates = {
        path: m.p for path, m in model.named_modules() if isinstance(m, nn.Dropout) and m.p and path != "head_drop"
    }
    if rates:
        first = ", ".join(f"{path}={p:g}" for path, p in list(rates.items())[:3])
        warnings.warn(f"{name}: the frozen tower runs without its dropout ({first}, ...)", stacklevel=3)


def with_dropout(head: nn.Module, rate: float) -> nn.Module:
    """Copy a classifier; in training it drops inputs as the model's own did."""
    head = copy.deepcopy(head)
    if rate:
        head.register_forward_pre_hook(Dropped(rate))
    return head


class Dropped:
    """A hook that drops the inputs of a module in training; the module's keys stay as they are."""

    def __init__(self, rate: float):
        self.rate = rate

    def __call__(self, module: nn.Module, args: tuple) -> tuple:
        """Drop the first input."""
        return (nn.functional.dropout(args[0], self.rate, module.training), *args[1:])


def linear_head(classifier: nn.Module, name: str) -> nn.Module:
    """Return a classifier on pooled features (B, D): a 1x1 convolution (BiT) becomes the linear layer that it is.

    Raises:
        ValueError: a classifier of another kind.
    """
    if isinstance(classifier, nn.Conv2d) and classifier.kernel_size == (1, 1):
        head = nn.Linear(classifier.in_channels, classifier.out_channels, classifier.bias is not None)
        head.load_state_dict({k: v.flatten(1) if k == "weight" else v for k, v in classifier.state_dict().items()})
        return head.to(classifier.weight.device, classifier.weight.dtype)
    if not isinstance(classifier, nn.Linear | nn.Identity):
        refuse(name, f"its classifier is a {type(classifier).__name__}")
    return copy.deepcopy(classifier)


def create(name: str, image_size: int | None, arch: dict, **more: Any) -> Any:
    """A timm model without class head.

    Raises:
        ValueError: unknown names and tags, other families, arguments that timm refuses.
    """
    import timm

    plain = name.split(".")[0]
    if plain not in timm.list_models():
        near = did_you_mean(plain, [n for f in FAMILIES for n in timm.list_models(f)])
        raise ValueError(f"timm has no model {plain!r}; {near if near.startswith('did') else SUPPORTED}")
    if not any(fnmatch.fnmatch(plain, family) for family in FAMILIES):
        raise ValueError(f"{plain!r} is no plain vision transformer of timm; supported are {SUPPORTED}")
    size: dict[str, Any] = {} if image_size is None else {"img_size": image_size}
    try:
        model = timm.create_model(name, num_classes=0, **size, **arch, **more)
    except (TypeError, AssertionError) as error:
        raise ValueError(f"timm's {plain} does not take arch={arch}: {error}") from error
    except RuntimeError as error:
        if "tag" not in str(error):
            raise
        raise ValueError(f"{name!r}: timm knows the tags {', '.join(tags_of(plain)) or 'none'} of {plain}") from error
    patch = getattr(getattr(model, "patch_embed", None), "patch_size", (1, 1))[0]
    if image_size and image_size % patch:
        raise ValueError(f"image_size {image_size} is not a multiple of the patch size {patch} of {plain}")
    return model


def tags_of(plain: str) -> list[str]:
    """The tags of pretrained weights of a timm model."""
    import timm

    return [n.partition(".")[2] for n in timm.list_pretrained(f"{plain}.*")]


def fetch(name: str, image_size: int | None, arch: dict) -> dict[str, Tensor]:
    """Pretrained weights through timm's cache or the hub.

    Raises:
        FileNotFoundError: neither has them.
        ValueError: timm has no weights of that name.
    """
    import timm

    config = timm.get_pretrained_cfg(name, allow_unregistered=False)
    if config is None or not config.has_weights:
        tags = tags_of(name.split(".")[0])
        raise ValueError(f"timm has no weights for {name!r}; it has the tags {', '.join(tags) or '(none)'}")
    try:
        return create(name, image_size, arch, pretrained=True).state_dict()
    except ValueError:
        raise
    except Exception as error:
        hub = f"{config.hf_hub_id or config.url} (file {config.hf_hub_filename or 'model.safetensors'})"
        raise missing_weights(name, hub, "weights", error) from error


def read_for(model: Any, path: Path, make: Callable[[], Any]) -> dict[str, Tensor]:
    """Weights of a local file under timm's names, by timm's own converters of official layouts.

    Args:
        model: the timm model, for its shapes.
        path: of the file.
        make: builds the model anew, with memory: JAX's files are read into it.

    Raises:
        FileNotFoundError: no such file.
        ValueError: weights of the model that the file lacks.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no weights at {str(path)!r}")
    if path.suffix == ".npz":
        filled = make()
        filled.load_pretrained(str(path))
        return filled.state_dict()
    from timm.models.vision_transformer import checkpoint_filter_fn

    state, own = read_state(path), model.state_dict()
    patch, size = state.get("patch_embed.proj.weight"), own["patch_embed.proj.weight"].shape[-1]
    if patch is not None and patch.ndim == 4 and patch.shape[-1] != size:
        raise ValueError(f"{path.name} has patches of {patch.shape[-1]} pixels, and the model asked for of {size}")
    found = checkpoint_filter_fn(state, model, adapt_layer_scale=True)
    return {key: value for key, value in found.items() if key in own or not key.startswith(LEFT_IN_FILES)}


def describe(model: Any, name: str) -> dict:
    """The arguments of a `VisionTransformer` that equals a live timm model.

    Raises:
        ValueError: a part that is not supported, by its name.
    """
    from timm.models.vision_transformer import VisionTransformer as TimmViT

    if type(model) is not TimmViT:
        refuse(name, f"it is a {type(model).__name__}")
    block, config = model.blocks[0], getattr(model, "pretrained_cfg", {})
    check_parts(model, name)
    grid, patch = model.patch_embed.grid_size, model.patch_embed.patch_size
    if grid[0] != grid[1] or patch[0] != patch[1]:
        refuse(name, f"its grid is {grid[0]} x {grid[1]} of {patch[0]} x {patch[1]} pixels, not square")
    return dict(
        image_size=grid[0] * patch[0],
        patch_size=patch[0],
        dim=model.embed_dim,
        depth=len(model.blocks),
        num_heads=block.attn.num_heads,
        mlp_ratio=exact_ratio(block.mlp.fc1.out_features, model.embed_dim),
        qkv_bias=block.attn.qkv.bias is not None,
        qk_norm=isinstance(block.attn.q_norm, nn.LayerNorm),
        init_values=None if isinstance(block.ls1, nn.Identity) else 1e-5,
        act=activation_of(block.mlp.act, name),
        gated=type(block.mlp).__name__ == "GluMlp",
        class_token=model.cls_token is not None,
        num_registers=0 if model.reg_token is None else model.reg_token.shape[1],
        embed_prefix=not model.no_embed_class,
        pre_norm=isinstance(model.norm_pre, nn.LayerNorm),
        pool="map" if model.attn_pool is not None else model.global_pool,
        pool_prefix=bool(getattr(model, "pool_include_prefix", False)),
        pad_images=bool(getattr(model.patch_embed, "dynamic_img_pad", False)),
        fc_norm=isinstance(model.fc_norm, nn.LayerNorm),
        norm_eps=block.norm1.eps,
        patch_bias=model.patch_embed.proj.bias is not None,
        pixel_mean=config.get("mean", (0.5, 0.5, 0.5)),
        pixel_std=config.get("std", (0.5, 0.5, 0.5)),
        name=name,
    )


def exact_ratio(hidden: int, dim: int) -> float:
    """A ratio whose product with `dim` comes back as `hidden` when cut to an integer."""
    ratio = hidden / dim
    return ratio if int(dim * ratio) == hidden else (hidden + 0.5) / dim


def check_parts(model: Any, name: str) -> None:
    """Refuse, by name, every part of a timm model that is not supported."""
    block = model.blocks[0]
    if type(block).__name__ != "Block":
        refuse(name, f"its block is {type(block).__name__}; supported: Block")
    parts = {
        "attention": (type(block.attn).__name__, ("Attention",)),
        "MLP": (type(block.mlp).__name__, ("Mlp", "GluMlp")),
        "norm": (type(block.norm1).__name__, ("LayerNorm",)),
        "patch embedding": (type(model.patch_embed).__name__, ("PatchEmbed",)),
        "pooling": (model.global_pool, ("token", "avg", "map")),
        "attention pooling": (type(model.attn_pool).__name__, ("NoneType", "AttentionPoolLatent")),
        "norm inside attention": (type(block.attn.norm).__name__, ("Identity",)),
        "norm inside the MLP": (type(block.mlp.norm).__name__, ("Identity",)),
    }
    for part, (found, known) in parts.items():
        if found not in known:
            refuse(name, f"its {part} is {found}; supported: {', '.join(k for k in known if k != 'NoneType')}")
    if isinstance(model.norm, nn.Identity) and isinstance(model.fc_norm, nn.Identity):
        refuse(name, "it has no final norm")
    if model.patch_embed.proj.in_channels != 3:
        refuse(name, f"it takes images of {model.patch_embed.proj.in_channels} channels; supported: 3")
    if model.pos_embed is None:
        refuse(name, "it has no learned positions")
    if getattr(block.mlp, "gate_last", False):
        refuse(name, "its MLP is gated by the second half")


def refuse(name: str, why: str) -> None:
    """Say that a timm model is not supported, why, and what is."""
    raise ValueError(f"{name!r} is not supported: {why}. Supported are {SUPPORTED}")


def activation_of(module: nn.Module, name: str) -> str:
    """Return the short name of a timm activation."""
    kind = type(module).__name__
    if kind == "GELU":
        return "gelu_tanh" if getattr(module, "approximate", "none") == "tanh" else "gelu"
    known = {"GELUTanh": "gelu_tanh", "QuickGELU": "quick_gelu", "QuickGELUActivation": "quick_gelu", "SiLU": "silu"}
    if kind not in known:
        refuse(name, f"its activation is {kind}")
    return known[kind]
