"""Conv-Adapter and Convpass on ConvNets and Swin: official keys onto the product's modules."""

import re
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from open_clip import modified_resnet as clip_resnet
from timm.layers import GroupNormAct, StdConv2d
from timm.models import convnext, resnet, resnetv2, swin_transformer
from torch import Tensor, nn

from tests.parity.core import Case, builder, grad_norms, load_mapped
from tests.parity.petl import find, image_of, run, split
from xmodal.adapters.conv_adapter import conv_adapter, place_beside
from xmodal.adapters.convpass import convpass
from xmodal.adapters.released import CONV_ADAPTERS, CONVPASS_SWIN
from xmodal.convert import rename
from xmodal.encoders.convblocks import blocks_of, sited
from xmodal.encoders.convnet import ConvNet
from xmodal.encoders.frozen import freeze

BLOCK_KEY = r"(.*?)(\d+)\.(?:conv1|gn1)\.weight"
SITES = {"conv_parallel": "conv.edits", "conv_sequential": "conv.edits", "residual_parallel": "residual.edits"}
ADAPTER = (r"conv1\.(\w+)", r"conv.\1"), (r"conv2\.(\w+)", r"up.\1"), (r"se", "alpha")


def bottleneck(w: Mapping[str, Tensor], stride: int) -> nn.Module:
    """A torchvision bottleneck of the sizes its weights have."""
    planes, ins = w["conv1.weight"].shape[:2]
    down = None
    if "downsample.0.weight" in w:
        outs = w["downsample.0.weight"].shape[0]
        down = nn.Sequential(nn.Conv2d(ins, outs, 1, stride=stride, bias=False), nn.BatchNorm2d(outs))
    return resnet.Bottleneck(ins, planes, stride=stride, downsample=down)


def clip_bottleneck(w: Mapping[str, Tensor], stride: int) -> nn.Module:
    """A bottleneck of CLIP's ResNet; its down-sampling convolution may have a bias."""
    planes, ins = w["conv1.weight"].shape[:2]
    block = clip_resnet.Bottleneck(ins, planes, stride=stride)
    if "downsample.0.bias" in w and block.downsample is not None:
        block.downsample[1] = nn.Conv2d(ins, w["downsample.0.bias"].shape[0], 1)
    return block


def preact_bottleneck(w: Mapping[str, Tensor], stride: int, groups: int = 32, eps: float = 1e-10) -> nn.Module:
    """A BiT block of the sizes its weights have; timm's keys."""
    middle, ins = w["conv1.weight"].shape[:2]
    outs = w["conv3.weight"].shape[0]
    return resnetv2.PreActBottleneck(
        ins,
        outs,
        bottle_ratio=middle / outs,
        stride=stride,
        act_layer=nn.ReLU,
        conv_layer=partial(StdConv2d, eps=eps),
        norm_layer=partial(GroupNormAct, num_groups=groups),
        proj_layer=resnetv2.DownsampleConv if "downsample.conv.weight" in w else None,
    )


def bit_key(key: str) -> str:
    """BiT's names as timm's."""
    return re.sub(r"\bgn(\d)\.", r"norm\1.", key).replace("downsample.weight", "downsample.conv.weight")


def stage(case: Case, state: Mapping[str, Tensor], prefix: str, scheme: str) -> tuple[nn.Module, dict[str, Tensor]]:
    """A sequence of blocks with adapters from the keys below `prefix`, and its trained tensors by official key."""
    bit = any(".gn1." in k for k in state)
    clip = "clip" in str([*map(str, case.arch.values()), case.json["system"]]).lower()
    base: dict[int, dict[str, Tensor]] = {}
    own: dict[str, tuple[int, str]] = {}
    for key, value in state.items():
        if not key.startswith(prefix):
            continue
        number, _, name = key.removeprefix(prefix).partition(".")
        if name.startswith("tuning_module."):
            own[key] = int(number), name.removeprefix("tuning_module.")
        else:
            base.setdefault(int(number), {})[bit_key(name) if bit else name] = value
    build = preact_bottleneck if bit else clip_bottleneck if clip else bottleneck
    if bit:
        groups = re.search(r"GroupNorm\((\d+)", str(case.arch))
        build = partial(build, groups=int(groups.group(1)) if groups else 32)
    blocks = [build(w, stride) for w, stride in zip(base.values(), strides(case, len(base)), strict=True)]
    for block, weights in zip(blocks, base.values(), strict=True):
        load_mapped(block, weights)
    body = freeze(sited(nn.Sequential(*blocks)))
    return body, place_adapters(case, body, scheme, state, own)


def strides(case: Case, count: int) -> list[int]:
    """Strides of the blocks: a list, or that of the first block."""
    stride = case.arch.get("stride", 1)
    return list(stride) if isinstance(stride, list) else [stride] + [1] * (count - 1)


def place_adapters(case: Case, body: nn.Module, scheme: str, state: Mapping, own: Mapping) -> dict[str, Tensor]:
    """Place and load the adapters of a stage; trained tensors by official key."""
    for block in blocks_of(body):
        place_beside(block, scheme, find(case.arch, "gamma", "g"))
    live, trained = dict(body.named_parameters()), {}
    for key, (number, name) in own.items():
        site = SITES.get(scheme, "post")
        tensor = live[f"{number}.{site}.conv_adapter.{next(iter(rename({name: 0}, ADAPTER)))}"]
        assert tensor.shape == state[key].shape, (key, tensor.shape)
        tensor.data.copy_(state[key])
        trained[key] = tensor
    assert len(trained) == sum(p.requires_grad for p in live.values())
    return trained


def prefixes(state: Mapping[str, Tensor]) -> list[str]:
    """What stands before the number of a block."""
    return list(dict.fromkeys(m.group(1) for m in (re.fullmatch(BLOCK_KEY, k) for k in state) if m))


@builder("conv_adapter")
def conv_adapter_case(case: Case) -> dict[str, Any]:
    """A stage of ResNet, CLIP ResNet or BiT with adapters after one scheme, or after several."""
    state, x, system = case.state(), image_of(case), case.json["system"]
    outputs, tensors = {}, {}
    for prefix in prefixes(state):
        scheme = re.search(r"conv_parallel|conv_sequential|residual", system).group()  # type: ignore[union-attr]
        name = next(iter(case.json["outputs"]))
        if scheme == "residual":
            name = (
                "sequential"
                if "seq" in prefix or ("par" not in prefix and "sequential" in str(case.arch))
                else "parallel"
            )
            scheme = f"residual_{name}"
        body, trained = stage(case, state, prefix, scheme)
        outputs[name] = body(x)
        tensors |= trained
    if "sum" in case.json["outputs"]:
        outputs["sum"] = torch.stack([*outputs.values()]).sum(0)
    named = re.match(r"sum\((\w+) \*", case.json["loss"])
    out = outputs[named.group(1) if named and named.group(1) in outputs else next(reversed(outputs))]
    loss = (out * case.cotangent(out.shape)).sum()
    return {k: v.detach().numpy() for k, v in outputs.items()} | grad_norms(loss, tensors)


def feature_case(case: Case, body: nn.Module, base: Mapping, own: Mapping, names: Any, head: Mapping) -> dict[str, Any]:
    """Feature (or logits) and gradients of a whole tower with Conv-Adapter."""
    load_mapped(body, base)
    encoder = freeze(ConvNet(body))
    conv_adapter(encoder, reduction=find(case.arch, "gamma", "g"))
    out = run(case, encoder, names, own, head)
    return out | dict.fromkeys(case.json["outputs"], out["logits"])


@builder("conv_adapter/conv_parallel ConvNeXt")
def convnext_case(case: Case) -> dict[str, Any]:
    """ConvNeXt."""
    names = CONV_ADAPTERS["convnext"]
    base, own, head = split(case.state(), names.reads)
    arch = case.arch
    body = convnext.ConvNeXt(num_classes=0, depths=arch["depths"], dims=arch["dims"])
    table = (
        (r"downsample_layers\.0\.(\d)\.(\w+)", r"stem.\1.\2"),
        (r"downsample_layers\.(\d+)\.(\d)\.(\w+)", r"stages.\1.downsample.\2.\3"),
        (r"stages\.(\d+)\.(\d+)\.dwconv\.(\w+)", r"stages.\1.blocks.\2.conv_dw.\3"),
        (r"stages\.(\d+)\.(\d+)\.pwconv(\d)\.(\w+)", r"stages.\1.blocks.\2.mlp.fc\3.\4"),
        (r"stages\.(\d+)\.(\d+)\.(.+)", r"stages.\1.blocks.\2.\3"),
        (r"norm\.(\w+)", r"head.norm.\1"),
    )
    norms = {k: v for k, v in own.items() if "tuning_module" not in k}
    return feature_case(case, body, rename({**base, **norms}, table), own, names, head)


def swin_body(case: Case, state: Mapping[str, Tensor]) -> swin_transformer.SwinTransformer:
    """A Swin of the sizes that its state dict (timm 0.4 layout) has."""
    stages = 1 + max(int(k.split(".")[1]) for k in state if k.startswith("layers."))
    tables = {tuple(k.split(".")[1:4:2]): v for k, v in state.items() if k.endswith("relative_position_bias_table")}
    depths = [len([1 for i, _ in tables if int(i) == s]) for s in range(stages)]
    window = max(int(v.shape[0] ** 0.5 + 1) // 2 for v in tables.values())
    dim, _, patch, _ = state["patch_embed.proj.weight"].shape
    return swin_transformer.SwinTransformer(
        img_size=find(case.arch, "img_size", "img", default=image_of(case).shape[-1]),
        patch_size=patch,
        num_classes=0,
        embed_dim=dim,
        depths=tuple(depths),
        num_heads=tuple(tables[str(s), "0"].shape[1] for s in range(stages)),
        window_size=find(case.arch, "window_size", "window", default=window),
        mlp_ratio=state["layers.0.blocks.0.mlp.fc1.weight"].shape[0] / dim,
        qkv_bias="layers.0.blocks.0.attn.qkv.bias" in state,
    )


def swin_key(key: str) -> str:
    """timm 0.4 puts the merging of patches at the end of a stage, timm now at the start of the next."""
    return re.sub(r"layers\.(\d+)\.downsample", lambda m: f"layers.{int(m.group(1)) + 1}.downsample", key)


@builder("conv_adapter/conv_parallel Swin")
def swin_case(case: Case) -> dict[str, Any]:
    """Swin with Conv-Adapter."""
    names = CONV_ADAPTERS["swin"]
    base, own, head = split(usable(case.state()), names.reads)
    norms = {k: v for k, v in own.items() if "tuning_module" not in k}
    base = {swin_key(k): v for k, v in {**base, **norms}.items()}
    return feature_case(case, swin_body(case, base), base, own, names, head)


def usable(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without the buffers that are computed."""
    return {k: v for k, v in state.items() if not k.endswith(("relative_position_index", "attn_mask"))}


@builder("convpass_swin")
def convpass_swin_case(case: Case) -> dict[str, Any]:
    """Swin with Convpass."""
    base, own, head = split(usable(case.state()), CONVPASS_SWIN.reads)
    base = {swin_key(k): v for k, v in base.items()}
    body = swin_body(case, base)
    load_mapped(body, base)
    encoder = freeze(ConvNet(body))
    hidden = next(v for k, v in own.items() if k.endswith("adapter_down.weight")).shape[0]
    sites = [s for s in ("attn", "mlp") if any(f"adapter_{s}." in k for k in own)]
    convpass(encoder, hidden=hidden, scale=case.arch["s"], sites=sites)
    out = run(case, encoder, CONVPASS_SWIN, own, head)
    return out | {name: out["logits"] for name in case.json["outputs"] if name == "feature"}
