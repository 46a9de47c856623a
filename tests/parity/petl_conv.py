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
from tests.parity.petl import find, image_of, need, place_bypasses, run, split
from xmodal.adapters.conv_adapter import SCHEMES, conv_adapter, place_beside, place_further
from xmodal.encoders.convblocks import ClipAttentionPool, blocks_of, sited
from xmodal.encoders.convnet import ConvNet
from xmodal.encoders.frozen import freeze
from xmodal.encoders.timm_parts import exact_ratio
from xmodal.official.adapters import CONV_ADAPTERS, CONVPASS_SWIN
from xmodal.official.names import rename

BLOCK_KEY = r"(.*?)(\d+)\.(?:conv1|gn1)\.weight"
ADAPTER = ("conv1.{w}", "conv.{w}"), ("conv2.{w}", "up.{w}"), ("se", "alpha")


def bottleneck(w: Mapping[str, Tensor], stride: int) -> nn.Module:
    """A torchvision bottleneck of the sizes its weights have; several groups make it a ResNeXt's."""
    (width, ins), outs, down = w["conv1.weight"].shape[:2], len(w["conv3.weight"]), None
    if "downsample.0.weight" in w:
        down = nn.Sequential(nn.Conv2d(ins, outs, 1, stride=stride, bias=False), nn.BatchNorm2d(outs))
    planes, groups = outs // 4, width // w["conv2.weight"].shape[1]
    base = -(-64 * width // (groups * planes))  # the smallest base width that gives this width
    return resnet.Bottleneck(ins, planes, stride=stride, downsample=down, cardinality=groups, base_width=base)


def clip_bottleneck(w: Mapping[str, Tensor], stride: int) -> nn.Module:
    """A bottleneck of CLIP's ResNet; its down-sampling convolution may have a bias."""
    planes, ins = w["conv1.weight"].shape[:2]
    block = clip_resnet.Bottleneck(ins, planes, stride=stride)
    if "downsample.0.bias" in w and block.downsample is not None:
        block.downsample[1] = nn.Conv2d(ins, w["downsample.0.bias"].shape[0], 1)
    return block


def preact_bottleneck(w: Mapping[str, Tensor], stride: int, groups: int = 32, eps: float = 1e-10) -> nn.Module:
    """A BiT block of the sizes its weights have; timm's keys."""
    (middle, ins), outs = w["conv1.weight"].shape[:2], len(w["conv3.weight"])
    conv, norm = partial(StdConv2d, eps=eps), partial(GroupNormAct, num_groups=groups)
    down = resnetv2.DownsampleConv if "downsample.conv.weight" in w else None
    layers = dict(act_layer=nn.ReLU, conv_layer=conv, norm_layer=norm, proj_layer=down)
    block = resnetv2.PreActBottleneck(ins, outs, stride=stride, **layers)
    block.conv1, block.norm2 = conv(ins, middle, 1), norm(middle)  # timm rounds the middle width to eights
    block.conv2, block.norm3 = conv(middle, middle, 3, stride=stride, padding=1), norm(middle)
    block.conv3 = conv(middle, outs, 1)
    return block


def bit_key(key: str) -> str:
    """BiT's names as timm's."""
    return re.sub(r"\bgn(\d)\.", r"norm\1.", key).replace("downsample.weight", "downsample.conv.weight")


def stage(case: Case, state: Mapping[str, Tensor], prefix: str, scheme: str) -> tuple[nn.Module, dict[str, Tensor]]:
    """A sequence of blocks with adapters from the keys below `prefix`, and its trained tensors by official key."""
    base: dict[int, dict[str, Tensor]] = {}
    own: dict[str, tuple[int, str]] = {}
    for key, value in state.items():
        if not key.startswith(prefix):
            continue
        number, _, name = key.removeprefix(prefix).partition(".")
        if name.startswith("tuning_module."):
            own[key] = int(number), name.removeprefix("tuning_module.")
        else:
            base.setdefault(int(number), {})[name] = value
    weights = [base[number] for number in sorted(base)]
    blocks = [block_of(case, w, stride) for w, stride in zip(weights, strides(case, len(base)), strict=True)]
    body = freeze(sited(nn.Sequential(*blocks)))
    return body, place_adapters(case, body, scheme, state, own)


def block_of(case: Case, weights: Mapping[str, Tensor], stride: int) -> nn.Module:
    """A block of BiT, CLIP or torchvision, loaded."""
    if "gn1.weight" in weights:
        weights = {bit_key(name): value for name, value in weights.items()}
        named = re.search(r"GroupNorm\((\d+)", str(case.arch))
        groups = int(named.group(1)) if named else find(case.arch, "groups", "num_groups", default=32)
        block = preact_bottleneck(weights, stride, groups)
    elif "downsample.0.bias" in weights or "clip" in str([*case.arch.values(), case.json["system"]]).lower():
        block = clip_bottleneck(weights, stride)
    else:
        block = bottleneck(weights, stride)
    load_mapped(block, weights)
    return block


def strides(case: Case, count: int) -> list[int]:
    """Strides of the blocks: a list, or that of the first block."""
    stride = case.arch.get("stride", 1)
    return list(stride) if isinstance(stride, list) else [stride] + [1] * (count - 1)


def place_adapters(case: Case, body: nn.Module, scheme: str, state: Mapping, own: Mapping) -> dict[str, Tensor]:
    """Place and load the adapters of a stage where it has any; trained tensors by official key."""
    blocks, (site, _) = blocks_of(body), SCHEMES[scheme]
    kernels = {number: state[key].shape[-1] for key, (number, name) in own.items() if name == "conv1.weight"}
    for number, kernel in kernels.items():
        place_beside(blocks[number], scheme, need(case, "gamma", "g"), kernel=kernel)
    live, trained = dict(body.named_parameters()), {}
    site = site if site == "post" else f"{site}.edits"
    for key, (number, name) in own.items():
        tensor = live[f"{number}.{site}.conv_adapter.{next(iter(rename({name: 0}, ADAPTER)))}"]
        assert tensor.shape == state[key].shape, (key, tensor.shape)
        tensor.data.copy_(state[key])
        trained[key] = tensor
    absent = {k for k, p in live.items() if p.requires_grad} - {
        k for k, p in live.items() if id(p) in map(id, trained.values())
    }
    assert not absent, f"the case has no weights for {absent[:6]}"
    return trained


def prefixes(state: Mapping[str, Tensor]) -> list[str]:
    """What stands before the number of a block."""
    return list(dict.fromkeys(m.group(1) for m in (re.fullmatch(BLOCK_KEY, k) for k in state) if m))


def residual_scheme(case: Case, prefix: str) -> str:
    """Parallel or sequential: what the keys say, else the system, the outputs, the hyperparameters."""
    for said in (prefix, case.json["system"], " ".join(case.json["outputs"]), str(case.arch)):
        words = {word for word in ("par", "seq") if word in said.lower()}
        if len(words) == 1:
            return "residual_parallel" if words == {"par"} else "residual_sequential"
    raise KeyError(f"nothing says whether the adapters of {prefix!r} are parallel or sequential")


@builder("conv_adapter")
def conv_adapter_case(case: Case) -> dict[str, Any]:
    """A stage of ResNet, CLIP ResNet or BiT with adapters after one scheme, or after several."""
    state, x = case.state(), image_of(case)
    outputs, tensors = {}, {}
    for prefix in prefixes(state):
        scheme = re.search(r"conv_parallel|conv_sequential|residual", case.json["system"]).group()  # type: ignore[union-attr]
        scheme = residual_scheme(case, prefix) if scheme == "residual" else scheme
        body, trained = stage(case, state, prefix, scheme)
        name = scheme.removeprefix("residual_")
        outputs[name if name in case.json["outputs"] else next(iter(case.json["outputs"]))] = body(x)
        tensors |= trained
    if any(key.startswith("attnpool.") for key in state):
        name, x = outputs.popitem()
        outputs[name] = pooled(case, {k.removeprefix("attnpool."): v for k, v in state.items()}, x, tensors)
    if "sum" in case.json["outputs"]:
        outputs["sum"] = torch.stack([*outputs.values()]).sum(0)
    named = re.match(r"sum\((\w+) \*", case.json["loss"])
    out = outputs[named.group(1) if named and named.group(1) in outputs else next(reversed(outputs))]
    loss = (out * case.cotangent(out.shape)).sum()
    return {k: v.detach().numpy() for k, v in outputs.items()} | grad_norms(loss, tensors)


def pooled(case: Case, state: Mapping[str, Tensor], x: Tensor, tensors: dict[str, Tensor]) -> Tensor:
    """CLIP's attention pooling of a map with its linear adapter, whose weights join `tensors`."""
    base = {k: v for k, v in state.items() if re.match(r"positional_embedding|[kqvc]_proj", k)}
    outs, dim = base["c_proj.weight"].shape
    body = nn.Sequential()
    body.attnpool = clip_resnet.AttentionPool2d(x.shape[-1], dim, need(case, "heads", "num_heads"), outs)
    load_mapped(body.attnpool, base)
    freeze(body).attnpool.__class__ = ClipAttentionPool
    body.attnpool.add_sites()
    adapter = place_further(body, "attnpool", "conv_parallel", need(case, "gamma", "g"), "conv_adapter")
    for name, parameter in adapter.named_parameters():
        key = f"tuning_module.{'se' if name == 'alpha' else name}"
        parameter.data.copy_(state[key])
        tensors[f"attnpool.{key}"] = parameter
    return body.attnpool(x)


def feature_case(case: Case, body: nn.Module, base: Mapping, own: Mapping, names: Any, head: Mapping) -> dict[str, Any]:
    """Feature (or logits) and gradients of a whole tower with Conv-Adapter."""
    load_mapped(body, base)
    encoder = freeze(ConvNet(body))
    conv_adapter(encoder, reduction=need(case, "gamma", "g"))
    out = run(case, encoder, names, own, head)
    return out | dict.fromkeys(case.json["outputs"], out["logits"])


@builder("conv_adapter/conv_parallel ConvNeXt")
def convnext_case(case: Case) -> dict[str, Any]:
    """ConvNeXt."""
    names = CONV_ADAPTERS["convnext"]
    base, own, head = split(case.state(), names.pairs)
    body = convnext.ConvNeXt(
        num_classes=0,
        depths=case.arch["depths"],
        dims=case.arch["dims"],
        patch_size=base["downsample_layers.0.0.weight"].shape[-1],
        kernel_sizes=base["stages.0.0.dwconv.weight"].shape[-1],
        ls_init_value=1.0 if "stages.0.0.gamma" in base else None,
    )
    table = (
        ("downsample_layers.0.{x}", "stem.{x}"),
        ("downsample_layers.{i}.{x}", "stages.{i}.downsample.{x}"),
        ("stages.{i}.{j}.dwconv.{w}", "stages.{i}.blocks.{j}.conv_dw.{w}"),
        ("stages.{i}.{j}.pwconv{x}", "stages.{i}.blocks.{j}.mlp.fc{x}"),
        ("stages.{i}.{j}.{x}", "stages.{i}.blocks.{j}.{x}"),
        ("norm.{w}", "head.norm.{w}"),
    )
    norms = {k: v for k, v in own.items() if "tuning_module" not in k}
    return feature_case(case, body, rename({**base, **norms}, table), own, names, head)


def swin_body(case: Case, state: Mapping[str, Tensor], **options: Any) -> swin_transformer.SwinTransformer:
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
        mlp_ratio=exact_ratio(len(state["layers.0.blocks.0.mlp.fc1.weight"]), dim),
        qkv_bias="layers.0.blocks.0.attn.qkv.bias" in state,
        **options,
    )


def swin_key(key: str) -> str:
    """timm 0.4 puts the merging of patches at the end of a stage, timm now at the start of the next."""
    return re.sub(r"layers\.(\d+)\.downsample", lambda m: f"layers.{int(m.group(1)) + 1}.downsample", key)


@builder("conv_adapter/conv_parallel Swin")
def swin_case(case: Case) -> dict[str, Any]:
    """Swin with Conv-Adapter."""
    names = CONV_ADAPTERS["swin"]
    base, own, head = split(usable(case.state()), names.pairs)
    norms = {k: v for k, v in own.items() if "tuning_module" not in k}
    base = {swin_key(k): v for k, v in {**base, **norms}.items()}
    return feature_case(case, swin_body(case, base), base, own, names, head)


def usable(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without the buffers that are computed."""
    return {k: v for k, v in state.items() if not k.endswith(("relative_position_index", "attn_mask"))}


@builder("convpass_swin")
def convpass_swin_case(case: Case) -> dict[str, Any]:
    """Swin with Convpass."""
    base, own, head = split(usable(case.state()), CONVPASS_SWIN.pairs)
    base = {swin_key(k): v for k, v in base.items()}
    body = swin_body(case, base)
    load_mapped(body, base)
    encoder = freeze(ConvNet(body))
    place_bypasses(case, encoder, body, own)
    out = run(case, encoder, CONVPASS_SWIN, own, head)
    return out | {name: out["logits"] for name in case.json["outputs"] if name == "feature"}
