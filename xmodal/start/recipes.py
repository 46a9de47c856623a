"""Recipes of methods and encoders for own data: what a config imports and sets, and how rates follow the data."""

import math
from dataclasses import dataclass, field
from typing import Any

from xmodal.registry import did_you_mean

DEFAULT = "ViT-B-16-quickgelu"
TINY = "tiny-clip"
CONVNETS = ("resnet", "resnext", "convnext", "efficientnet", "tf_efficientnet", "regnet", "clip/")


@dataclass(frozen=True)
class EncoderRecipe:
    """An encoder in a config.

    Args:
        name: as the user gave it.
        imports: line of the config.
        text: of the config.
        cfg: the same as a dict with random weights, to learn its sizes.
    """

    name: str
    imports: str
    text: str
    cfg: dict[str, Any]
    convolutional: bool = False

    @property
    def tiny(self) -> bool:
        """Return whether it is the tiny CLIP, whose recipes have rates of their own."""
        return self.name == TINY


@dataclass(frozen=True)
class MethodRecipe:
    """A way to train.

    Args:
        title: in messages.
        tasks: that it is for.
        rate: learning rate at a batch of `batch`, as published; `tiny`: (rate, batch) of the tiny CLIP.
        source: of the rate, in words.
        imports: lines of the config.
        model: lines inside `model`; DIM, FRAMES, HEADS are filled in.
        cached: train from the cache of the frozen part.
        towers: `vit`, `conv` or both.
    """

    title: str
    tasks: tuple[str, ...]
    rate: tuple[float, int]
    tiny: tuple[float, int]
    source: str
    imports: tuple[str, ...] = ()
    model: tuple[str, ...] = ()
    decay: float = 0.01
    cached: int = 0
    towers: tuple[str, ...] = ("vit",)
    head: str = "dropout=0.1"
    optim: str = 'paramwise_cfg=dict(no_decay=[".bias", "norm"]), clip_grad=dict(max_norm=1.0)'
    tiny_model: tuple[str, ...] = field(default=())


METHODS = {
    "st-adapter": MethodRecipe(
        "ST-Adapter", ("video",), (7.5e-4, 192), (3e-3, 8), "ST-Adapter's release",
        ("from video.st_adapter import st_adapter",),
        ('adapters=[dict(type=st_adapter, bottleneck=384, kernel_size=(3, 1, 1), sites=["pre_mlp"])],',),
        tiny_model=(
            'adapters=[dict(type=st_adapter, bottleneck=64, kernel_size=(3, 1, 1), sites=["pre_attn", "pre_mlp"])],',
        ),
    ),
    "evl": MethodRecipe(
        "EVL", ("video",), (4e-4, 256), (2e-3, 12), "EVL's release", ("from video.evl import EVLDecoder",),
        ("reader=dict(type=EVLDecoder, num_frames=FRAMES, num_layers=4, qkv_dim=DIM, num_heads=HEADS),",),
        0.05, cached=4, head="dropout=0.5, norm=True, init_std=None",
        tiny_model=("reader=dict(type=EVLDecoder, num_frames=FRAMES, num_layers=3, mlp_dropout=0.1),",),
    ),
    "probe": MethodRecipe(
        "linear probe", ("video", "image"), (1e-3, 64), (1e-2, 16), "a linear layer on frozen features",
        cached=1, towers=("vit", "conv"), head="",
    ),
    "attentive-probe": MethodRecipe(
        "attentive probe", ("video",), (1e-3, 64), (3e-3, 8), "V-JEPA 2's probe on frozen frames, in order",
        ("from video.attentive_probe import AttentiveProbe",),
        ("reader=dict(type=AttentiveProbe, depth=1, per_frame=True, num_frames=FRAMES),",), cached=2,
    ),
    "lora": MethodRecipe(
        "LoRA", ("video", "image"), (1e-3, 64), (3e-3, 32), "NOAH's recipe of LoRA",
        ("from xmodal.adapters.lora import lora",), ('adapters=[dict(type=lora, rank=8, targets=["q", "v"])],',), 1e-4,
    ),
    "conv-adapter": MethodRecipe(
        "Conv-Adapter", ("image",), (1e-3, 64), (1e-3, 64), "Conv-Adapter's release",
        ("from xmodal.adapters.conv_adapter import conv_adapter",), ("adapters=[dict(type=conv_adapter)],",), 1e-4,
        towers=("conv",),
    ),
    "finetune": MethodRecipe(
        "full fine-tuning", ("video", "image"), (5e-5, 64), (1.5e-4, 8), "all weights at a small rate",
        model=("freeze_encoder=False,",), decay=0.05, towers=("vit", "conv"),
    ),
    "epcl": MethodRecipe(
        "EPCL", ("cloud",), (3e-4, 32), (2e-3, 24), "EPCL's release", decay=0.04,
        optim='paramwise_cfg=dict(no_decay=["norm", ".bias", "token"]), clip_grad=dict(max_norm=0.8)',
    ),
}  # fmt: skip


def encoder_of(name: str) -> EncoderRecipe:
    """Return how a config builds an encoder.

    Args:
        name: `tiny-clip`, an open_clip name (`ViT-B-16-quickgelu`), a timm name, or a folder of Hugging Face's.

    Raises:
        ValueError: a name that none of the libraries has, with the nearest one.
    """
    from pathlib import Path

    if name == TINY:
        where = "xmodal.encoders.tiny"
        return EncoderRecipe(
            name, f"from {where} import tiny_clip_encoder", "dict(type=tiny_clip_encoder)",
            {"type": f"{where}.tiny_clip_encoder", "weights": "random"},
        )  # fmt: skip
    if Path(name).is_dir():
        where = "xmodal.encoders.hub_folders"
        text = f"dict(type=hub_folder_encoder, folder={str(Path(name).absolute())!r})"
        return EncoderRecipe(
            name, f"from {where} import hub_folder_encoder", text,
            {"type": f"{where}.hub_folder_encoder", "folder": name},
        )  # fmt: skip
    return library_encoder(name)


def library_encoder(name: str) -> EncoderRecipe:
    """Return how a config builds an encoder of open_clip or timm."""
    from xmodal.encoders.libraries import open_clip_tags, timm_name

    tags = open_clip_tags(name)
    if tags:
        tag = "openai" if "openai" in tags else tags[0]
        where = "xmodal.encoders.openclip_weights"
        return EncoderRecipe(
            name, f"from {where} import open_clip_encoder",
            f'dict(type=open_clip_encoder, name="{name}", pretrained="{tag}")',
            {"type": f"{where}.open_clip_encoder", "name": name, "pretrained": "random"},
        )  # fmt: skip
    found, near = timm_name(name)
    if not found:
        raise ValueError(
            f"no encoder is called {name!r}: {TINY}, a name of open_clip or timm (docs/encoders.md), or a folder; "
            f"{did_you_mean(name, [TINY, DEFAULT, *near])}"
        )
    if name.startswith(CONVNETS):
        where = "xmodal.encoders.convnet"
        return EncoderRecipe(
            name, f"from {where} import convnet", f'dict(type=convnet, name="{name}", pretrained=True)',
            {"type": f"{where}.convnet", "name": name}, convolutional=True,
        )  # fmt: skip
    where = "xmodal.encoders.timm_weights"
    return EncoderRecipe(
        name, f"from {where} import timm_encoder", f'dict(type=timm_encoder, name="{name}", weights="pretrained")',
        {"type": f"{where}.timm_encoder", "name": name, "weights": "random"},
    )  # fmt: skip


def method_of(name: str | None, task: str, encoder: EncoderRecipe, gpu: bool) -> str:
    """Return the method of a config: the given one, else the one that suits task, encoder and machine.

    Raises:
        ValueError: a method that is not there, or not for this task or encoder.
    """
    tower = "conv" if encoder.convolutional else "vit"
    fits = [key for key, method in METHODS.items() if task in method.tasks and tower in method.towers]
    if name is None:
        if task == "video":
            return "st-adapter" if gpu or encoder.tiny else "evl"
        return fits[0] if task == "cloud" else ("conv-adapter" if tower == "conv" else "lora")
    if name not in fits:
        raise ValueError(f"no method {name!r} for {task}s with {encoder.name}: choose {', '.join(fits)}")
    return name


@dataclass(frozen=True)
class Scale:
    """Batch, epochs and rates for a number of samples.

    Args:
        batch: samples of a step.
        epochs: of training.
        rate: learning rate.
        why: how they follow from recipe and data, in words.
    """

    batch: int
    epochs: int
    rate: float
    why: str


def scale(method: MethodRecipe, encoder: EncoderRecipe, samples: int, gpu: bool, task: str) -> Scale:
    """Scale a recipe to the data: the batch by what fits, the epochs by the steps, the rate by the batch's root."""
    rate, reference = method.tiny if encoder.tiny else method.rate
    fits = 64 if encoder.tiny or task != "video" else (32 if gpu else 8)
    batch = max(2, min(reference, fits, 2 ** int(math.log2(max(samples / 6, 2)))))
    epochs = min(max(math.ceil(600 * batch / max(samples, 1)), 8), 40)
    scaled = float(f"{rate * (batch / reference) ** 0.5:.2g}")
    source = "The recipe of the tiny CLIP" if encoder.tiny else method.source
    why = (
        f"{source} has the rate {rate:g} at a batch of {reference}; it follows the root of the batch. {samples} "
        f"samples in batches of {batch} for {epochs} epochs are {epochs * math.ceil(samples / batch)} steps."
    )
    return Scale(batch, epochs, scaled, why)
