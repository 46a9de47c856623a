"""Adapter+ at all positions, LoRA and prompts of its code, and AdaptFormer from their formulas; official keys."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.parity import _reference as r
from tests.parity.core import Case


def tower_shapes(a: dict[str, Any], hidden: int, split: bool = False, norm: str = "norm") -> r.Shapes:
    """A timm vision transformer; `split` as AdaptFormer's."""
    d, p, side = a["embed_dim"], a["patch_size"], a["img_size"] // a["patch_size"]
    state: r.Shapes = {"cls_token": [1, 1, d], "pos_embed": [1, side * side + 1, d]}
    state |= {"patch_embed.proj.weight": [d, 3, p, p], "patch_embed.proj.bias": [d]}
    for i in range(a["depth"]):
        at, mlp = f"blocks.{i}", "" if split else "mlp."
        state |= r.normed(f"{at}.norm1", d) | r.normed(f"{at}.norm2", d) | r.affine(f"{at}.attn.proj", d, d)
        for name, outs in {"q_proj": d, "k_proj": d, "v_proj": d}.items() if split else {"qkv": 3 * d}.items():
            state |= r.affine(f"{at}.attn.{name}", outs, d)
        state |= r.affine(f"{at}.{mlp}fc1", hidden, d) | r.affine(f"{at}.{mlp}fc2", d, hidden)
    return state | r.normed(norm, d)


def plus_shapes(a: dict[str, Any], v: dict[str, Any], hidden: int) -> r.Shapes:
    """Adapter+'s keys beside the tower's."""
    d, state = a["embed_dim"], tower_shapes(a, hidden)
    for i in range(a["depth"]):
        adapter, low = v.get("adapter"), v.get("lora")
        for name in ("adapter", "adapter_attn")[: 0 if not adapter else 1 + (adapter["config"] == "houlsby")]:
            at = f"blocks.{i}.{name}"
            both = r.affine(f"{at}.bottleneck.1", adapter["dim"], d) | r.affine(f"{at}.bottleneck.4", d, adapter["dim"])
            state |= {k: s for k, s in both.items() if adapter["bias"] or k.endswith("weight")}
            state |= r.normed(f"{at}.norm_a", d) if adapter["norm_layer"] else {}
            sizes = {"channel": [d], "learned": [1]}
            state |= {f"{at}.scaling": sizes[adapter["scaling"]]} if adapter["scaling"] in sizes else {}
        for p in low["location"] if low else ():
            at = f"blocks.{i}.attn.adapters.{p}"
            both = r.affine(f"{at}.bottleneck.1", low["dim"], d) | r.affine(f"{at}.bottleneck.4", d, low["dim"])
            state |= {k: s for k, s in both.items() if low["bias"] or k.endswith("weight")}
        if v.get("prompt"):
            state[f"blocks.{i}.prompt"] = [v["prompt"]["num"], d]
    return state | r.affine("head", a["num_classes"], d)


def plus_adapter(s: r.State, at: str, o: dict[str, Any], x: Tensor) -> Tensor:
    """scale * W1 act(W0 norm(x))."""
    u = r.norm(s, f"{at}.norm_a", x, 1e-6) if o["norm_layer"] else x
    u = r.linear(s, f"{at}.bottleneck.1", u)
    y = r.linear(s, f"{at}.bottleneck.4", r.gelu(u) if o["act_layer"] else u)
    return y * s.get(f"{at}.scaling", o["scaling"] if not isinstance(o["scaling"], str) else 1.0)


def plus_attention(s: r.State, a: dict[str, Any], low: dict[str, Any], at: str, u: Tensor) -> Tensor:
    """Attention with low-rank maps of its input, and of its output."""
    parts = dict(zip("qkv", r.linear(s, f"{at}.attn.qkv", u).chunk(3, -1), strict=True))
    maps = {p: f"{at}.attn.adapters.{p}.bottleneck" for p in low.get("location", ())}
    low_rank = lambda p, x: low["scaling"] * r.linear(s, f"{maps[p]}.4", r.linear(s, f"{maps[p]}.1", x))  # noqa: E731
    parts |= {p: parts[p] + low_rank(p, u) for p in maps if p != "o"}
    y = r.linear(s, f"{at}.attn.proj", r.attention(parts["q"], parts["k"], parts["v"], a["num_heads"]))
    return y + low_rank("o", y) if "o" in maps else y


def plus_block(s: r.State, a: dict[str, Any], v: dict[str, Any], i: int, x: Tensor) -> Tensor:
    """A block with an adapter at its position."""
    at, o, behind = f"blocks.{i}", v.get("adapter") or {}, a.get("block") == "respost"

    def attend(u: Tensor) -> Tensor:
        u = u if behind else r.norm(s, f"{at}.norm1", u, 1e-6)
        y = plus_attention(s, a, v.get("lora") or {}, at, u)
        return r.norm(s, f"{at}.norm1", y, 1e-6) if behind else y

    def m(u: Tensor) -> Tensor:
        u = u if behind else r.norm(s, f"{at}.norm2", u, 1e-6)
        y = r.linear(s, f"{at}.mlp.fc2", r.gelu(r.linear(s, f"{at}.mlp.fc1", u)))
        return r.norm(s, f"{at}.norm2", y, 1e-6) if behind else y

    def adapt(u: Tensor, name: str = "adapter") -> Tensor:
        return plus_adapter(s, f"{at}.{name}", o, u)

    b = attend(x)
    y = x + b
    after = {
        "post": lambda z: z + adapt(z),
        "parallel": lambda z: z + adapt(y),
        "pfeiffer": lambda z: adapt(z) + z,
        "intermediate": lambda z: z + adapt(z - y),
        "houlsby": lambda z: z + adapt(z - y),
    }
    position = o.get("config")
    if position == "pre":
        y = y + adapt(y)
    elif position == "houlsby":
        y = y + adapt(b, "adapter_attn")
    return after.get(position, lambda z: z)(y + m(y))


def embedded(s: r.State, images: Tensor) -> Tensor:
    """Tokens with positions."""
    x = r.patches(s["patch_embed.proj.weight"], images, s["patch_embed.proj.bias"])
    return torch.cat([s["cls_token"].expand(len(x), -1, -1), x], 1) + s["pos_embed"]


def adapter_plus_variant(case: Case) -> Any:
    """One setting."""
    v = case.arch
    a, s = v | (v.get("vit") or {}), r.doubled(case.state())
    x = embedded(s, r.given(case))
    count = v["prompt"]["num"] if v.get("prompt") else 0
    x = torch.cat([x[:, :1], x.new_zeros(len(x), count, x.shape[2]), x[:, 1:]], 1)
    for i in range(a["depth"]):
        if count:
            x = torch.cat([x[:, :1], s[f"blocks.{i}.prompt"].expand(len(x), -1, -1), x[:, 1 + count :]], 1)
        x = plus_block(s, a, v, i, x)
    x = r.norm(s, "norm", x, 1e-6)
    logits = r.linear(s, "head", x[:, 0])
    words = ("adapter", "head", "prompt", *(("norm",) if v.get("train_ln") else ()))
    own = {k: t for k, t in s.items() if any(w in k for w in words)}
    return {"features": x, "logits": logits}, (r.cotangent(case, logits), own)


def former_shapes(a: dict[str, Any], v: dict[str, Any], hidden: int) -> r.Shapes:
    """AdaptFormer's keys."""
    d, h, tuning = a["embed_dim"], v["tuning"]["ffn_num"], v["tuning"]
    state = tower_shapes(a, hidden, True, "fc_norm" if v["global_pool"] else "norm")
    for i in range(a["depth"] if tuning["ffn_adapt"] else 0):
        at = f"blocks.{i}.adaptmlp"
        state |= r.affine(f"{at}.down_proj", h, d) | r.affine(f"{at}.up_proj", d, h)
        if tuning["ffn_adapter_layernorm_option"] != "none":
            state |= r.normed(f"{at}.adapter_layer_norm_before", d)
        if tuning["ffn_adapter_scalar"] == "learnable_scalar":
            state[f"{at}.scale"] = [1]
    if not v["head_bn"]:
        return state | r.affine("head", a["num_classes"], d)
    state |= {"head.0.running_mean": [d], "head.0.running_var": [d], "head.0.num_batches_tracked": []}
    return state | r.affine("head.1", a["num_classes"], d)


def adaptformer_variant(case: Case) -> Any:
    """One setting."""
    a, s, found = case.arch, r.doubled(case.state()), {}
    t, x = a["tuning"], embedded(s, r.given(case))
    for i in range(a["depth"]):
        at = f"blocks.{i}"

        def adapter(u: Tensor, at: str = at) -> Tensor:
            name = f"{at}.adaptmlp"
            if t["ffn_adapter_layernorm_option"] == "in":
                u = r.norm(s, f"{name}.adapter_layer_norm_before", u)
            y = r.linear(s, f"{name}.up_proj", r.linear(s, f"{name}.down_proj", u).relu())
            y = y * (s[f"{name}.scale"] if f"{name}.scale" in s else float(t["ffn_adapter_scalar"]))
            if t["ffn_adapter_layernorm_option"] == "out":
                y = r.norm(s, f"{name}.adapter_layer_norm_before", y)
            return y

        u = r.norm(s, f"{at}.norm1", x, 1e-6)
        q, k, v = (r.linear(s, f"{at}.attn.{n}_proj", u) for n in "qkv")
        x = x + r.linear(s, f"{at}.attn.proj", r.attention(q, k, v, a["num_heads"]))
        m = r.linear(s, f"{at}.fc2", F.gelu(r.linear(s, f"{at}.fc1", r.norm(s, f"{at}.norm2", x, 1e-6))))
        added = 0.0
        if t["ffn_adapt"]:
            added = adapter(m if t["ffn_option"] == "sequential" else x)
        x = x + m + added
        found[f"block{i}_out"] = x
    y = r.norm(s, "fc_norm", x[:, 1:].mean(1), 1e-6) if a["global_pool"] else r.norm(s, "norm", x, 1e-6)[:, 0]
    if a["head_bn"]:
        y = (y - s["head.0.running_mean"]) / (s["head.0.running_var"] + 1e-6).sqrt()
    logits = r.linear(s, "head.1" if a["head_bn"] else "head", y)
    own = r.frozen(s, [k for k in s if "adaptmlp" in k or k.startswith(("head", "fc_norm"))])
    return found | {"logits": logits}, (r.cotangent(case, logits), own)
