"""Load image and text towers of open_clip (architecture and weights) into xmodal's."""

import copy
from pathlib import Path
from typing import Any

from torch import nn

from xmodal.encoders import timm_weights
from xmodal.encoders.clip import CLIP, LOGIT_SCALE
from xmodal.encoders.convnet import ConvNet
from xmodal.encoders.files import load_exactly, missing_weights, read_state, seeded, unfilled
from xmodal.encoders.keys import State, from_clip_state, put_under, under
from xmodal.encoders.openclip_configs import (
    config_of,
    describe_visual,
    family_of,
    refuse,
    text_of,
    tokenizer_of,
    visual_of,
)
from xmodal.encoders.statistics import CLIP_MEAN, CLIP_STD
from xmodal.encoders.text import TextTransformer
from xmodal.encoders.vit import VisionTransformer
from xmodal.registry import ENCODERS, did_you_mean
from xmodal.registry import build as build_part
from xmodal.structures import Encoder


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
) -> Encoder:
    """Load the image tower of an open_clip model: a `VisionTransformer`, or a `ConvNet` for CNNs and Swins.

    Args:
        name: open_clip's name, such as `ViT-B-16-quickgelu` (OpenAI's weights) or `ViT-B-16` (LAION's).
        pretrained: a tag (`openai`, `laion2b_s34b_b88k`, ...), a file, or `random`.
        image_size: pixels, when another resolution than the model's own is wanted; positions are resized.
        drop_path: stochastic depth of the last block, in training only (of vision transformers).
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
    source = WeightsSource(name, weights or pretrained, quick_gelu, arch)
    settings = (image_size, drop_path)
    if source.random:
        full = f"{source.full}-{seed}"
        return seeded(seed, lambda: build_visual(source.config, name, full, *settings, filled=True)).eval()
    state = source.state()
    visual = build_visual(source.config, name, source.full, *settings, source.origin)
    return load_exactly(visual, visual_state(state, visual), source.full)


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
    source = WeightsSource(name, pretrained, quick_gelu, arch)
    settings = (image_size, drop_path)
    if source.random:
        full = f"{source.full}-{seed}"
        return seeded(seed, lambda: build(source.config, name, full, *settings, filled=True)).eval()
    text = text_of(source.config, name)  # before a file is fetched
    state = source.state()
    clip = build(source.config, name, source.full, *settings, source.origin, text=text)
    return load_exactly(clip, clip_state(state, clip.visual), source.full)


@ENCODERS.register_module(name="open_clip_beside")
def open_clip_beside(
    visual: Any, name: str, pretrained: str | None = None, seed: int = 0, arch: dict | None = None
) -> CLIP:
    """Join another tower of the same width with the text tower of an open_clip model, whose own is not built.

    Args:
        visual: an encoder, or its config; its `logit_scale` is taken where it has one.
        name: of open_clip's model.
        pretrained: see `open_clip_encoder`.
        seed: of random weights.
        arch: see `open_clip_encoder`.

    Returns:
        The CLIP in evaluation mode.

    Raises:
        ValueError: towers whose features differ in width; else as `open_clip_encoder`.
    """
    visual = build_part(visual, ENCODERS)
    source = WeightsSource(name, pretrained, None, arch)
    spec, tokenizer = text_of(source.config, name), tokenizer_of(source.config, name)
    scale, bias = float(getattr(visual, "logit_scale", LOGIT_SCALE)), source.config.get("init_logit_bias")
    if source.random:
        text = seeded(seed, lambda: TextTransformer(**spec, name=f"{source.full}-{seed}"))
        return CLIP(visual, text, tokenizer, scale, bias).eval()
    text = unfilled(lambda: TextTransformer(**spec, name=source.full))
    CLIP(visual, text, tokenizer)  # says that the widths differ before a file is read
    rest = {key: value for key, value in source.state().items() if not key.startswith("visual.")}
    return CLIP(
        visual, load_exactly(text, under(from_clip_state(rest), "text."), source.full), tokenizer, scale, bias
    ).eval()


class WeightsSource:
    """Say which config and which weights of open_clip are meant.

    Raises:
        ValueError: unknown names and tags, or an activation that is not the weights' own.
    """

    def __init__(self, name: str, pretrained: str | None, quick_gelu: bool | None, arch: dict | None):
        self.name, self.pretrained = name, pretrained
        self.config = config_of(name, arch)
        self.origin = origin_of(name, pretrained)
        self.random = pretrained == "random"
        quick = bool(self.config.get("quick_gelu", False)) if quick_gelu is None else quick_gelu
        if self.origin:
            check_activation(name, quick, bool(self.origin.get("quick_gelu", False)), f"the weights {pretrained!r}")
        self.config["quick_gelu"] = quick
        self.full = f"{name}/{Path(pretrained).stem if pretrained and not self.origin else pretrained}"

    def state(self) -> State:
        """Read the weights."""
        path = fetch(self.name, self.pretrained, self.origin) if self.origin else str(self.pretrained)
        state = read_state(path, torchscript=True)
        if "input_resolution" in state:
            check_activation(self.name, self.config["quick_gelu"], True, f"OpenAI's file {Path(path).name}")
        return state


def build(
    config: dict,
    model: str,
    name: str,
    image_size: int | None = None,
    drop_path: float = 0.0,
    origin: dict | None = None,
    filled: bool = False,
    text: dict | None = None,
) -> CLIP:
    """Build a CLIP from an open_clip config without loading weights; see `build_visual`."""
    text = text or text_of(config, model)
    visual = build_visual(config, model, name, image_size, drop_path, origin, filled)
    with_memory = (lambda make: make()) if filled else unfilled
    tower = with_memory(lambda: TextTransformer(**text, name=name))
    return CLIP(visual, tower, tokenizer_of(config, model), logit_bias=config.get("init_logit_bias"))


def build_visual(
    config: dict,
    model: str,
    name: str,
    image_size: int | None = None,
    drop_path: float = 0.0,
    origin: dict | None = None,
    filled: bool = False,
) -> Encoder:
    """Build the image tower of an open_clip config.

    Args:
        config: of open_clip.
        model: its name there.
        name: what the tower calls itself.
        image_size: pixels, None for the model's own.
        drop_path: stochastic depth of the last block.
        origin: open_clip's notes on the weights, with their statistics.
        filled: draw weights; otherwise vision transformers come without memory, for `load_exactly`.

    Raises:
        ValueError: a part that is not supported.
    """
    theirs = unfilled(lambda: visual_of(config, model))
    stats = {f"pixel_{k}": origin[k] for k in ("mean", "std") if origin and k in origin}
    if family_of(theirs) == "vit":
        spec = describe_visual(theirs, model)
        if filled and spec.get("stem"):  # its network needs weights
            spec = describe_visual(visual_of(config, model), model)
        spec |= dict(**stats, name=name, drop_path=drop_path, image_size=image_size or spec["image_size"])
        return VisionTransformer(**spec) if filled else unfilled(lambda: VisionTransformer(**spec))
    size = image_size or config["vision_cfg"].get("image_size", 224)
    mean, std = (stats.get(f"pixel_{key}", own) for key, own in (("mean", CLIP_MEAN), ("std", CLIP_STD)))
    maps_of(theirs, size, mean, std, name, model)
    return maps_of(visual_of(config, model), size, mean, std, name, model)


def maps_of(visual: Any, size: int, mean: Any, std: Any, name: str, model: str) -> ConvNet:
    """Build a `ConvNet` of an open_clip tower of stages, which is changed in place.

    Raises:
        ValueError: a part that is not supported.
    """
    if type(visual).__name__ == "ModifiedResNet":
        return ConvNet(visual, size, mean, std, name)
    parts = [key for key, _ in visual.head.named_children()]
    if not parts or "pool" in parts:
        refuse(model, "its features go through the class head or an attention pooling of its tower in timm")
    try:
        return ConvNet(visual.trunk, size, mean, std, name, proj=visual.head)
    except ValueError as error:
        refuse(model, str(error))


def visual_state(state: State, visual: Encoder) -> State:
    """Rename the image tower's part of an open_clip state dict to the names of `visual`."""
    own = under(state, "visual.") or state
    if isinstance(visual, ConvNet):
        trunk = under(own, "trunk.")
        return {**put_under(trunk or own, "body."), **(put_under(under(own, "head."), "proj.") if trunk else {})}
    assert isinstance(visual, VisionTransformer)
    return under(
        from_clip_state(put_under(own, "visual."), after_pool=isinstance(visual.fc_norm, nn.LayerNorm)), "visual."
    )


def clip_state(state: State, visual: Encoder) -> State:
    """Rename an open_clip state dict to the names of a `CLIP` around `visual`."""
    rest = {key: value for key, value in state.items() if not key.startswith("visual.")}
    return {**put_under(visual_state(state, visual), "visual."), **from_clip_state(rest)}


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
    if kind == "ModifiedResNet":
        mean, std = getattr(visual, "image_mean", None), getattr(visual, "image_std", None)
        return ConvNet(copy.deepcopy(visual), visual.image_size, mean or CLIP_MEAN, std or CLIP_STD, "clip"), None
    if kind != "VisionTransformer":
        raise ValueError(
            f"{kind} is no image tower of open_clip that is known: VisionTransformer, ModifiedResNet and TimmModel are"
        )
    tower = VisionTransformer(**describe_visual(visual, "open_clip") | dict(name="open_clip"))
    return load_exactly(tower, visual_state(put_under(visual.state_dict(), "visual."), tower), "open_clip"), None
