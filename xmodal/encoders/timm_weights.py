"""Load timm vision transformers (architecture and weights) into `VisionTransformer`.

The architecture is read from the timm model and not from its name: models of supported parts are rebuilt, any other
part is an error that names it.
"""

import copy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from timm.layers import HybridEmbed
from torch import Tensor, nn

from xmodal.encoders.files import load_exactly, missing_weights, read_state, seeded, unfilled
from xmodal.encoders.keys import from_timm_state
from xmodal.encoders.timm_parts import SUPPORTED, describe, refuse, stride_of
from xmodal.encoders.vit import VisionTransformer
from xmodal.registry import ENCODERS, did_you_mean
from xmodal.structures import Encoder

# timm's modules whose models are read
FAMILIES = ("vision_transformer", "deit", "eva", "beit", "naflexvit", "vision_transformer_hybrid", "vitamin")
MISSING = {  # what the other vision transformers of timm have that the tower here has not, by timm's module
    "cait": "it mixes attention heads and adds the class token in late blocks of another kind",
    "crossvit": "it has two branches of patches of two sizes",
    "deepseek_vit": "its tower is that of a multimodal model (MLP without bias, projector), and is not read yet",
    "gemma4_vit": "its blocks have four norms each, and its values are normed",
    "hiera": "it pools tokens between stages",
    "hieradet_sam2": "it pools tokens between stages and attends in windows",
    "mvitv2": "its attention pools keys and values",
    "qwen3_vit": "its tower is that of a multimodal model (bilinear positions, projector), and is not read yet",
    "tiny_vit": "it has convolution stages and attends in windows",
    "twins": "it has stages and attends in windows",
    "vision_transformer_relpos": "its attention has a bias by relative position",
    "vision_transformer_sam": "it attends in windows with a bias by relative position",
    "volo": "it has outlook attention",
    "xcit": "it attends over channels",
}
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
    if weights == "random" and isinstance(
        getattr(model, "patch_embed", None), HybridEmbed
    ):  # its network needs weights
        model = seeded(seed, lambda: create(name, image_size, arch))
    spec = {**describe(model, name), "drop_path": drop_path}
    spec["image_size"] = image_size or spec["image_size"]
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
        for part in ("drop_path1", "drop_path2"):  # parallel blocks have one
            drop = getattr(theirs, part, getattr(theirs, "drop_path", None))
            getattr(mine, part).drop_prob = float(getattr(drop, "drop_prob", 0.0))
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
    if type(model).__module__.rpartition(".")[2] in FAMILIES:
        if hasattr(model, "head_dist") and model.num_classes:
            refuse(name, "it averages two class heads: call reset_classifier(0) on it first")
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
    if not timm.is_model(plain):
        near = did_you_mean(plain, [n for f in FAMILIES for n in timm.list_models(module=f)])
        raise ValueError(f"timm has no model {plain!r}; {near if near.startswith('did') else SUPPORTED}")
    family = timm.model_entrypoint(plain).__module__.rpartition(".")[2]
    if family not in FAMILIES:
        why = f": {MISSING[family]}" if family in MISSING else ""
        refuse(plain, f"it is no plain vision transformer but of timm's family {family}{why}")
    any_size = image_size is None or family == "naflexvit"
    size: dict[str, Any] = {} if any_size else {"img_size": image_size}
    try:
        model = timm.create_model(name, num_classes=0, **size, **arch, **more)
    except (TypeError, AssertionError) as error:
        raise ValueError(f"timm's {plain} does not take arch={arch}: {error}") from error
    except RuntimeError as error:
        if "tag" not in str(error):
            raise
        raise ValueError(f"{name!r}: timm knows the tags {', '.join(tags_of(plain)) or 'none'} of {plain}") from error
    patch = stride_of(model)
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
    state, own = read_state(path), model.state_dict()
    patch = state.get("patch_embed.proj.weight") if "embeds.proj.weight" not in own else None
    size = own.get("patch_embed.proj.weight", torch.zeros(1)).shape[-1]
    if patch is not None and patch.ndim == 4 and patch.shape[-1] != size:
        raise ValueError(f"{path.name} has patches of {patch.shape[-1]} pixels, and the model asked for of {size}")
    found = filtered(state, model)
    return {key: value for key, value in found.items() if key in own or not key.startswith(LEFT_IN_FILES)}


def filtered(state: dict[str, Tensor], model: Any) -> dict[str, Tensor]:
    """Rename an official checkpoint to timm's names, as timm does for models of this class."""
    from timm.models import beit, eva, naflexvit, vision_transformer

    if isinstance(model, naflexvit.NaFlexVit):
        return naflexvit.checkpoint_filter_fn(state, model)
    if isinstance(model, eva.Eva):
        return eva.checkpoint_filter_fn(state, model)
    if isinstance(model, beit.Beit):
        return beit.checkpoint_filter_fn(state, model)
    return vision_transformer.checkpoint_filter_fn(state, model, adapt_layer_scale=True)
