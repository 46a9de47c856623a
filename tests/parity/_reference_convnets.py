"""Conv-Adapter on ResNet, CLIP's ResNet, BiT and ConvNeXt from its formulas in float64; official keys."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.parity import _reference as r
from tests.parity.core import Case


def adapter_shapes(at: str, ins: int, outs: int, gamma: int, kernel: int) -> r.Shapes:
    """ConvAdapter's keys."""
    h = ins // gamma
    return {f"{at}.se": [1, outs, 1, 1], f"{at}.conv1.weight": [h, ins // h, kernel, kernel], f"{at}.conv1.bias": [h],
            f"{at}.conv2.weight": [outs, h, 1, 1], f"{at}.conv2.bias": [outs]}  # fmt: skip


def adapted(s: r.State, at: str, x: Tensor, act: Any = torch.relu, stride: int = 1, padding: int = -1) -> Tensor:
    """alpha * W2 act(W1 * x), the first convolution in as many groups as it has outputs."""
    weight = s[f"{at}.conv1.weight"]
    padding = weight.shape[-1] // 2 if padding < 0 else padding
    parts = x.chunk(len(weight), 1)
    u = torch.cat([F.conv2d(p, weight[i : i + 1], None, stride, padding) for i, p in enumerate(parts)], 1)
    u = act(u + s[f"{at}.conv1.bias"][:, None, None])
    y = torch.einsum("oi,bihw->bohw", s[f"{at}.conv2.weight"][..., 0, 0], u) + s[f"{at}.conv2.bias"][:, None, None]
    return y * s[f"{at}.se"]


def bottleneck_shapes(at: str, a: dict[str, Any], ins: int, down: bool, scheme: str) -> r.Shapes:
    """A bottleneck with its adapter."""
    w, outs = a["width"], a["outs"]
    state: r.Shapes = {f"{at}.conv1.weight": [w, ins, 1, 1], f"{at}.conv3.weight": [outs, w, 1, 1]}
    state |= {f"{at}.conv2.weight": [w, w // a.get("groups", 1), 3, 3]}
    state |= r.batch_normed(f"{at}.bn1", w) | r.batch_normed(f"{at}.bn2", w) | r.batch_normed(f"{at}.bn3", outs)
    if down:
        state |= {f"{at}.downsample.0.weight": [outs, ins, 1, 1], **r.batch_normed(f"{at}.downsample.1", outs)}
        state |= {f"{at}.downsample.0.bias": [outs]} if a.get("clip") else {}
    sizes = {"conv_parallel": (w, w), "conv_sequential": (w, w), "residual_parallel": (ins, outs)}
    return state | adapter_shapes(f"{at}.tuning_module", *sizes.get(scheme, (outs, outs)), a["gamma"], a["kernel"])


def bottleneck(s: r.State, at: str, x: Tensor, stride: int, scheme: str, clip: bool = False) -> Tensor:
    """torchvision's bottleneck, or CLIP's, which pools instead of striding."""
    tuned, own = f"{at}.tuning_module", 1 if clip else stride
    y = r.batch_norm(s, f"{at}.bn1", F.conv2d(x, s[f"{at}.conv1.weight"])).relu()
    groups = y.shape[1] // s[f"{at}.conv2.weight"].shape[1]
    h = r.batch_norm(s, f"{at}.bn2", F.conv2d(y, s[f"{at}.conv2.weight"], None, own, 1, 1, groups)).relu()
    if scheme == "conv_parallel":
        h = h + adapted(s, tuned, y, stride=own)
    elif scheme == "conv_sequential":
        h = h + adapted(s, tuned, h)
    pooled = lambda t: F.avg_pool2d(t, stride) if clip and stride > 1 else t  # noqa: E731
    branch = r.batch_norm(s, f"{at}.bn3", F.conv2d(pooled(h), s[f"{at}.conv3.weight"]))
    if scheme == "residual_parallel":
        branch = branch + adapted(s, tuned, x, stride=stride)
    same = x
    if f"{at}.downsample.0.weight" in s:
        weight, bias = s[f"{at}.downsample.0.weight"], s.get(f"{at}.downsample.0.bias")
        same = r.batch_norm(s, f"{at}.downsample.1", F.conv2d(pooled(x), weight, bias, own))
    y = (branch + same).relu()
    return y + adapted(s, tuned, y) if scheme == "residual_sequential" else y


def stage_shapes(a: dict[str, Any], prefix: str, scheme: str) -> r.Shapes:
    """Blocks of a stage."""
    state: r.Shapes = {}
    for i in range(a["blocks"]):
        ins = a["ins"] if i == 0 else a["outs"]
        state |= bottleneck_shapes(f"{prefix}{i}", a, ins, i == 0 and not a.get("plain"), scheme)
    return state


def stage(case: Case) -> Any:
    """A stage, or two of different schemes and their sum, or one with CLIP's pooling behind it."""
    a, s, outs = case.arch, r.doubled(case.state()), {}
    for name, prefix in a["prefixes"].items():
        scheme, x = a["schemes"][name], r.given(case, "x")
        for i in range(a["blocks"]):
            x = bottleneck(s, f"{prefix}{i}", x, a["stride"] if i == 0 else 1, scheme, a.get("clip", False))
        outs[name] = x
    if "attnpool.positional_embedding" in s:
        outs = {"out": attention_pool(s, x, a["heads"])}
    if len(outs) > 1:
        outs["sum"] = sum(outs.values(), torch.zeros(()))
    out = outs["sum"] if "sum" in outs else outs["out"]
    return outs, {"grad:": (r.cotangent(case, out), {k: v for k, v in s.items() if "tuning" in k})}


def pool_shapes(a: dict[str, Any], side: int, dim: int, outs: int) -> r.Shapes:
    """CLIP's attention pooling with its linear adapter."""
    at, h = "attnpool", dim // a["gamma"]
    state = {f"{at}.positional_embedding": [side * side + 1, dim], **r.affine(f"{at}.c_proj", outs, dim)}
    for p in "qkv":
        state |= r.affine(f"{at}.{p}_proj", dim, dim)
    state |= r.affine(f"{at}.tuning_module.fc1", h, dim) | r.affine(f"{at}.tuning_module.fc2", outs, h)
    return state | {f"{at}.tuning_module.se": [1, outs]}


def attention_pool(s: r.State, x: Tensor, heads: int) -> Tensor:
    """The mean reads all places; the adapter reads the mean with its position."""
    x = x.flatten(2).mT
    x = torch.cat([x.mean(1, keepdim=True), x], 1) + s["attnpool.positional_embedding"]
    q, k, v = (r.linear(s, f"attnpool.{p}_proj", t) for p, t in (("q", x[:, :1]), ("k", x), ("v", x)))
    y = r.linear(s, "attnpool.c_proj", r.attention(q, k, v, heads)[:, 0])
    at = "attnpool.tuning_module"
    return y + r.linear(s, f"{at}.fc2", r.linear(s, f"{at}.fc1", x[:, 0]).relu()) * s[f"{at}.se"]


def bit_shapes(a: dict[str, Any]) -> r.Shapes:
    """Pre-activation bottlenecks."""
    state: r.Shapes = {}
    for i, ins in enumerate(a["cin"]):
        at, w, outs = f"body.{i}", a["cmid"], a["cout"]
        state |= r.normed(f"{at}.gn1", ins) | r.normed(f"{at}.gn2", w) | r.normed(f"{at}.gn3", w)
        state |= {f"{at}.conv1.weight": [w, ins, 1, 1], f"{at}.conv2.weight": [w, w, 3, 3]}
        state |= {f"{at}.conv3.weight": [outs, w, 1, 1]}
        state |= {f"{at}.downsample.weight": [outs, ins, 1, 1]} if i == 0 else {}
        state |= adapter_shapes(f"{at}.tuning_module", w, w, a["gamma"], a["kernel"])
    return state


def group_norm(s: r.State, name: str, x: Tensor, groups: int) -> Tensor:
    """Normalization of groups of channels with the places."""
    y = x.reshape(len(x), groups, -1)
    y = (y - y.mean(-1, keepdim=True)) / (y.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    return y.reshape(x.shape) * s[f"{name}.weight"][:, None, None] + s[f"{name}.bias"][:, None, None]


def standard(weight: Tensor) -> Tensor:
    """Every filter with mean 0 and variance 1."""
    flat = weight.flatten(1)
    flat = (flat - flat.mean(1, keepdim=True)) / (flat.var(1, unbiased=False, keepdim=True) + 1e-10).sqrt()
    return flat.reshape(weight.shape)


def bit(case: Case) -> Any:
    """The adapter reads what the first convolution gives and joins what the second gives."""
    a, s, x = case.arch, r.doubled(case.state()), r.given(case, "x")
    for i, stride in enumerate(a["stride"]):
        at, groups = f"body.{i}", a["groups"]
        before = group_norm(s, f"{at}.gn1", x, groups).relu()
        key = f"{at}.downsample.weight"
        same = F.conv2d(before, standard(s[key]), None, stride) if key in s else x
        y = F.conv2d(before, standard(s[f"{at}.conv1.weight"]))
        u = group_norm(s, f"{at}.gn2", y, groups).relu()
        u = F.conv2d(u, standard(s[f"{at}.conv2.weight"]), None, stride, 1)
        u = u + adapted(s, f"{at}.tuning_module", y, stride=stride)
        x = same + F.conv2d(group_norm(s, f"{at}.gn3", u, groups).relu(), standard(s[f"{at}.conv3.weight"]))
    return {"out": x}, {"grad:": (r.cotangent(case, x), {k: v for k, v in s.items() if "tuning" in k})}


def convnext_shapes(a: dict[str, Any]) -> r.Shapes:
    """ConvNeXt with adapters in and between its stages."""
    dims, p, k = a["dims"], a["patch"], a["kernel"]
    state: r.Shapes = {"downsample_layers.0.0.weight": [dims[0], 3, p, p], "downsample_layers.0.0.bias": [dims[0]]}
    state |= r.normed("downsample_layers.0.1", dims[0])
    for i, (d, n) in enumerate(zip(dims, a["depths"], strict=True)):
        for j in range(n):
            at = f"stages.{i}.{j}"
            state |= {f"{at}.dwconv.weight": [d, 1, k, k], f"{at}.dwconv.bias": [d], **r.normed(f"{at}.norm", d)}
            state |= r.affine(f"{at}.pwconv1", 4 * d, d) | r.affine(f"{at}.pwconv2", d, 4 * d)
            state |= {f"{at}.gamma": [d]} if a["layer_scale"] else {}
            state |= adapter_shapes(f"{at}.tuning_module", d, d, a["gamma"], k)
        if i < len(dims) - 1:
            at = f"downsample_layers.{i + 1}"
            state |= r.normed(f"{at}.0", d) | {f"{at}.1.weight": [dims[i + 1], d, 2, 2], f"{at}.1.bias": [dims[i + 1]]}
            state |= adapter_shapes(f"tuning_module_downsample.{i}", d, dims[i + 1], a["gamma"], 2)
    return state | r.normed("norm", dims[-1])


def channel_norm(s: r.State, name: str, x: Tensor) -> Tensor:
    """Layer normalization of the channels of a map."""
    return r.norm(s, name, x.movedim(1, -1), 1e-6).movedim(-1, 1)


def convnext(case: Case) -> Any:
    """Pooled and normed feature."""
    a, s, x = case.arch, r.doubled(case.state()), r.given(case)
    x = F.conv2d(x, s["downsample_layers.0.0.weight"], s["downsample_layers.0.0.bias"], a["patch"])
    x = channel_norm(s, "downsample_layers.0.1", x)
    for i, n in enumerate(a["depths"]):
        if i:
            y = channel_norm(s, f"downsample_layers.{i}.0", x)
            x = F.conv2d(y, s[f"downsample_layers.{i}.1.weight"], s[f"downsample_layers.{i}.1.bias"], 2)
            x = x + adapted(s, f"tuning_module_downsample.{i - 1}", y, F.gelu, 2, 0)
        for j in range(n):
            at = f"stages.{i}.{j}"
            y = F.conv2d(x, s[f"{at}.dwconv.weight"], s[f"{at}.dwconv.bias"], 1, a["kernel"] // 2, 1, x.shape[1])
            y = channel_norm(s, f"{at}.norm", y + adapted(s, f"{at}.tuning_module", x, F.gelu)).movedim(1, -1)
            y = r.linear(s, f"{at}.pwconv2", F.gelu(r.linear(s, f"{at}.pwconv1", y))) * s.get(f"{at}.gamma", 1.0)
            x = x + y.movedim(-1, 1)
    feature = r.norm(s, "norm", x.mean((2, 3)), 1e-6)
    own = {k: v for k, v in s.items() if "tuning" in k or (".norm." in k) or k.startswith("norm.")}
    return {"feature": feature}, {"grad:": (r.cotangent(case, feature), own)}
