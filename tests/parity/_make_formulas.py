"""Write the cases of methods without released code: their formulas in float64, without a module of the product.

python -m tests.parity._make_formulas
"""

import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.parity.fill import fill_input, fill_state

CASES = Path(__file__).parent / "cases"


def linear(s: dict, name: str, x: Tensor) -> Tensor:
    """An affine map."""
    return x @ s[f"{name}.weight"].T + s[f"{name}.bias"]


def norm(s: dict, name: str, x: Tensor, eps: float) -> Tensor:
    """Layer normalization."""
    centered = x - x.mean(-1, keepdim=True)
    return centered / (centered.square().mean(-1, keepdim=True) + eps).sqrt() * s[f"{name}.weight"] + s[f"{name}.bias"]


def attention(q: Tensor, k: Tensor, v: Tensor, heads: int, keep: Tensor | None = None) -> Tensor:
    """Head by head, softmax(q k^T / sqrt(d)) v; keys where `keep` is False are not seen."""
    outs = []
    for a, b, c in zip(*(t.chunk(heads, -1) for t in (q, k, v)), strict=True):
        score = a @ b.mT / a.shape[-1] ** 0.5
        score = score if keep is None else score.masked_fill(~keep[:, None], float("-inf"))
        outs.append(score.softmax(-1) @ c)
    return torch.cat(outs, -1)


def vit_block(s: dict, i: int, x: Tensor, heads: int, eps: float) -> Tensor:
    """A pre-norm block with exact GELU."""
    p = f"blocks.{i}."
    q, k, v = linear(s, f"{p}attn.qkv", norm(s, f"{p}norm1", x, eps)).chunk(3, -1)
    x = x + linear(s, f"{p}attn.proj", attention(q, k, v, heads))
    return x + linear(s, f"{p}mlp.fc2", F.gelu(linear(s, f"{p}mlp.fc1", norm(s, f"{p}norm2", x, eps))))


def patches(s: dict, images: Tensor, patch: int) -> Tensor:
    """Patch tokens (B, N, D)."""
    cut = images.unfold(2, patch, patch).unfold(3, patch, patch)  # (B, 3, h, w, p, p)
    rows = cut.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)
    weight = s["patch_embed.proj.weight"]
    return rows @ weight.flatten(1).T + s["patch_embed.proj.bias"]


def tower_shapes(dim: int, depth: int, hidden: int, patch: int, places: int) -> dict:
    """Shapes of a timm ViT with a class token."""
    state = {"cls_token": [1, 1, dim], "pos_embed": [1, places + 1, dim]}
    state |= {"patch_embed.proj.weight": [dim, 3, patch, patch], "patch_embed.proj.bias": [dim]}
    for i in range(depth):
        for name, shape in {"attn.qkv": (3 * dim, dim), "attn.proj": (dim, dim), "mlp.fc1": (hidden, dim),
                            "mlp.fc2": (dim, hidden)}.items():  # fmt: skip
            state |= {f"blocks.{i}.{name}.weight": list(shape), f"blocks.{i}.{name}.bias": [shape[0]]}
        state |= {f"blocks.{i}.{n}.{w}": [dim] for n in ("norm1", "norm2") for w in ("weight", "bias")}
    return state | {f"norm.{w}": [dim] for w in ("weight", "bias")}


def bitfit(s: dict, inputs: dict, a: dict) -> dict:
    """The class token's normed feature; gradients of the biases alone."""
    x = patches(s, inputs["image"], a["patch"])
    x = torch.cat([s["cls_token"].expand(len(x), -1, -1), x], 1) + s["pos_embed"]
    for i in range(a["depth"]):
        x = vit_block(s, i, x, a["heads"], 1e-6)
    return {"feature": norm(s, "norm", x, 1e-6)[:, 0]}


def inflated(s: dict, inputs: dict, a: dict) -> dict:
    """Tubelets by the mean of their frames, a position per step, attention over all steps; mean of the class tokens."""
    clips, heads = inputs["clips"], a["heads"]
    steps = clips.shape[1] // a["tubelet"]
    means = clips.unflatten(1, (steps, a["tubelet"])).mean(2).flatten(0, 1)
    x = patches(s, means, a["patch"])
    x = torch.cat([s["cls_token"].expand(len(x), -1, -1), x], 1) + s["pos_embed"]
    x = (x.unflatten(0, (-1, steps)) + s["time_embed"]).flatten(1, 2)
    for i in range(a["depth"]):
        x = vit_block(s, i, x, heads, 1e-6)
    x = norm(s, "norm", x, 1e-6).unflatten(1, (steps, -1))
    return {"feature": x[:, :, 0].mean(1)}


def attentive_probe(s: dict, inputs: dict, a: dict) -> dict:
    """One query attends to the frames' normed features and their positions; an MLP follows."""
    frames = norm(s, "tower_norm", inputs["frames"], 1e-6)
    frames = norm(s, "cross.norm1", frames + s["time"], 1e-5)
    query = s["query"].expand(len(frames), -1, -1)
    k, v = linear(s, "cross.kv", frames).chunk(2, -1)
    query = query + attention(linear(s, "cross.q", query), k, v, a["heads"])
    hidden = F.gelu(linear(s, "cross.mlp.fc1", norm(s, "cross.norm2", query, 1e-5)))
    return {"feature": (query + linear(s, "cross.mlp.fc2", hidden))[:, 0]}


def co_layer(s: dict, p: str, x: Tensor, seen: Tensor, heads: int, keep: Tensor | None, other: Tensor | None) -> Tensor:
    """Attention within, attention to the other stream, MLP."""
    y = norm(s, f"{p}norm1", x, 1e-5)
    k, v = linear(s, f"{p}own.kv", y).chunk(2, -1)
    x = x + linear(s, f"{p}own.proj", attention(linear(s, f"{p}own.q", y), k, v, heads, keep))
    k, v = linear(s, f"{p}other.kv", norm(s, f"{p}norm_seen", seen, 1e-5)).chunk(2, -1)
    q = linear(s, f"{p}other.q", norm(s, f"{p}norm2", x, 1e-5))
    x = x + linear(s, f"{p}other.proj", attention(q, k, v, heads, other))
    return x + linear(s, f"{p}mlp.fc2", F.gelu(linear(s, f"{p}mlp.fc1", norm(s, f"{p}norm3", x, 1e-5))))


def co_attention(s: dict, inputs: dict, a: dict) -> dict:
    """Both streams behind all layers, with padding in the text, and the matching logits."""
    keep = torch.tensor(a["keep"], dtype=torch.bool)
    image, text = linear(s, "image_in", inputs["image"]), linear(s, "text_in", inputs["text"])
    for i in range(a["depth"]):
        image, text = (co_layer(s, f"image_layers.{i}.", image, text, a["heads"], None, keep),
                       co_layer(s, f"text_layers.{i}.", text, image, a["heads"], keep, None))  # fmt: skip
    return {"image": image, "matching": linear(s, "match", torch.cat([image[:, 0], text[:, 0]], -1))}


def sampled(x: Tensor, y0: Tensor, x0: Tensor) -> Tensor:
    """Bilinear values (C, h, w) of a map (C, H, W) at places (h, w); 0 outside."""
    height, width = x.shape[1:]
    out = torch.zeros(len(x), *y0.shape, dtype=x.dtype)
    for dy in (0, 1):
        for dx in (0, 1):
            yi, xi = y0.floor() + dy, x0.floor() + dx
            weight = (1 - (y0 - yi).abs()) * (1 - (x0 - xi).abs())
            inside = (yi >= 0) & (yi < height) & (xi >= 0) & (xi < width)
            values = x[:, yi.clamp(0, height - 1).long(), xi.clamp(0, width - 1).long()]
            out = out + values * (weight * inside)
    return out


def deformed(s: dict, p: str, x: Tensor, offset: Tensor, mask: Tensor, stride: int) -> Tensor:
    """Modulated deformable 3x3 convolution and its GroupNorm."""
    weight, outs = s[f"{p}.weight"], []
    h, w = offset.shape[-2:]
    rows, cols = torch.meshgrid(torch.arange(h) * stride, torch.arange(w) * stride, indexing="ij")
    for b in range(len(x)):
        total = torch.zeros(len(weight), h, w, dtype=x.dtype)
        for k in range(9):
            y0 = rows - 1 + k // 3 + offset[b, 2 * k]
            x0 = cols - 1 + k % 3 + offset[b, 2 * k + 1]
            seen = sampled(x[b], y0, x0) * mask[b, k]
            total = total + torch.einsum("oc,chw->ohw", weight[:, :, k // 3, k % 3], seen)
        outs.append(total)
    y = torch.stack(outs)
    groups = max(g for g in (16, 8, 4, 2, 1) if y.shape[1] % g == 0)
    grouped = y.unflatten(1, (groups, -1)).flatten(2)
    centered = grouped - grouped.mean(2, keepdim=True)
    y = (centered / (centered.square().mean(2, keepdim=True) + 1e-5).sqrt()).reshape(y.shape)
    return y * s[f"{p}.norm.weight"][:, None, None] + s[f"{p}.norm.bias"][:, None, None]


def dynamic_head(s: dict, inputs: dict, a: dict) -> dict:
    """One block of the head on three levels, its gate open."""
    levels = [inputs[f"level{i}"] for i in range(3)]
    through = s["blocks.0.scale.weight"], s["blocks.0.scale.bias"]
    gate = lambda y: ((y.clamp(min=0) + 3) / 6).clamp(0, 1)  # noqa: E731
    out = {}
    for i, x in enumerate(levels):
        p = "blocks.0."
        look = F.conv2d(x, s[f"{p}look.weight"], s[f"{p}look.bias"], padding=1)
        offset, mask = look[:, :18], 1 / (1 + torch.exp(-look[:, 18:]))
        seen = [deformed(s, f"{p}same", x, offset, mask, 1)]
        if i > 0:
            seen.append(deformed(s, f"{p}finer", levels[i - 1], offset, mask, 2))
        if i < 2:
            near = [F.interpolate(t, size=levels[i + 1].shape[-2:], mode="bilinear") for t in (offset, mask)]
            small = deformed(s, f"{p}coarser", levels[i + 1], *near, 1)
            seen.append(F.interpolate(small, size=x.shape[-2:], mode="bilinear"))
        weights = [gate(F.conv2d(y.mean((2, 3), keepdim=True), *through)) for y in seen]
        mixed = sum(w * y for w, y in zip(weights, seen, strict=True)) / len(seen)
        hidden = linear(s, f"{p}task.fc1", mixed.mean((2, 3))).clamp(min=0)
        theta = (linear(s, f"{p}task.fc2", hidden) + 3).clamp(0, 6) / 6 - 0.5
        a1, b1, a2, b2 = (t[..., None, None] for t in theta.chunk(4, 1))
        new = torch.maximum(mixed * (1 + 2 * a1) + b1, mixed * 2 * a2 + b2)
        out[f"level{i}"] = x + s[f"{p}gate"] * (new - x)
    return out


def attention_shapes(dim: int, names: dict[str, int]) -> dict:
    """Shapes of affine maps from `dim`."""
    return {
        f"{n}.{w}": ([out, dim] if w == "weight" else [out]) for n, out in names.items() for w in ("weight", "bias")
    }


def co_shapes(dim: int, depth: int, image: int, text: int) -> dict:
    """Shapes of a co-attention head."""
    state = {
        "image_in.weight": [dim, image],
        "image_in.bias": [dim],
        "text_in.weight": [dim, text],
        "text_in.bias": [dim],
    }
    for stream in ("image", "text"):
        for i in range(depth):
            p = f"{stream}_layers.{i}."
            state |= {
                f"{p}{n}.{w}": [dim] for n in ("norm1", "norm2", "norm3", "norm_seen") for w in ("weight", "bias")
            }
            for part in ("own", "other"):
                state |= attention_shapes(dim, {f"{p}{part}.q": dim, f"{p}{part}.kv": 2 * dim, f"{p}{part}.proj": dim})
            state |= attention_shapes(dim, {f"{p}mlp.fc1": 4 * dim})
            state |= {f"{p}mlp.fc2.weight": [dim, 4 * dim], f"{p}mlp.fc2.bias": [dim]}
    return state | {"match.weight": [2, 2 * dim], "match.bias": [2]}


def head_shapes(dim: int) -> dict:
    """Shapes of one dynamic block."""
    state = {"blocks.0.gate": [], "blocks.0.look.weight": [27, dim, 3, 3], "blocks.0.look.bias": [27]}
    for part in ("same", "finer", "coarser"):
        p = f"blocks.0.{part}"
        state |= {f"{p}.weight": [dim, dim, 3, 3], f"{p}.norm.weight": [dim], f"{p}.norm.bias": [dim]}
    state |= {"blocks.0.scale.weight": [1, dim, 1, 1], "blocks.0.scale.bias": [1]}
    return state | attention_shapes(dim, {"blocks.0.task.fc1": dim // 4}) | {
        "blocks.0.task.fc2.weight": [4 * dim, dim // 4], "blocks.0.task.fc2.bias": [4 * dim]}  # fmt: skip


VIT = tower_shapes(24, 2, 60, 8, 4)
PROBE = {"query": [1, 1, 24], "time": [3, 24],
         **{f"{n}.{w}": [24] for n in ("tower_norm", "cross.norm1", "cross.norm2") for w in ("weight", "bias")},
         **attention_shapes(24, {"cross.q": 24, "cross.kv": 48, "cross.mlp.fc1": 96}),
         "cross.mlp.fc2.weight": [24, 96], "cross.mlp.fc2.bias": [24]}  # fmt: skip
ARCH = dict(dim=24, depth=2, heads=3, patch=8, image_size=16, hidden=60)
# name: formula, arch, state, inputs, keys that train
FORMULAS = {
    "bitfit": (bitfit, ARCH, VIT, {"image": [2, 3, 16, 16]}, [k for k in VIT if k.endswith("bias")]),
    "inflated": (inflated, ARCH | dict(tubelet=2, frames=6), VIT | {"time_embed": [1, 3, 1, 24]},
                 {"clips": [2, 6, 3, 16, 16]}, ["time_embed", "blocks.0.attn.qkv.weight"]),
    "attentive_probe": (attentive_probe, dict(dim=24, heads=3, frames=3), PROBE, {"frames": [2, 3, 24]},
                        [k for k in PROBE if not k.startswith("tower_norm")]),
    "co_attention": (co_attention, dict(dim=16, depth=2, heads=2, keep=[[1, 1, 1, 0], [1, 1, 1, 1]]),
                     co_shapes(16, 2, 12, 10), {"image": [2, 5, 12], "text": [2, 4, 10]}, []),
    "dynamic_head": (dynamic_head, dict(dim=8), head_shapes(8),
                     {f"level{i}": [2, 8, n, n] for i, n in enumerate((9, 5, 3))}, []),
}  # fmt: skip


def main(seed: int = 91) -> None:
    """Write every case."""
    for name, (formula, arch, shapes, inputs, trained) in FORMULAS.items():
        state = {k: torch.from_numpy(np.array(v)).double() for k, v in fill_state(shapes, seed).items()}
        for key in trained:
            state[key].requires_grad_()
        given = {k: torch.from_numpy(fill_input(k, v, seed)).double() for k, v in inputs.items()}
        out = formula(state, given, arch)
        first = next(iter(out.values()))
        loss = (first * torch.from_numpy(fill_input("cotangent", tuple(first.shape), seed)).double()).sum()
        grads = torch.autograd.grad(loss, [state[k] for k in trained]) if trained else []
        arrays = {k: v.detach().numpy().astype(np.float32) for k, v in out.items()}
        arrays |= {f"grad:{k}": np.float32(g.norm()) for k, g in zip(trained, grads, strict=True)}
        about = dict(system=f"formula_{name}", seed=seed, arch=arch, state=shapes, inputs=inputs,
                     trainable=list(trained),
                     outputs=dict.fromkeys(out, ""), loss="sum(first output * fill_input('cotangent', shape, seed))",
                     notes="the formula in float64, see tests/parity/_make_formulas.py; no released code",
                     grads_missing_or_zero=[k for k in trained if float(arrays[f"grad:{k}"]) < 1e-6])  # fmt: skip
        (CASES / f"{name}_formula.json").write_text(json.dumps(about, indent=1) + "\n")
        np.savez(CASES / f"{name}_formula.npz", **arrays)


if __name__ == "__main__":
    main()
