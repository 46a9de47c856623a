"""Convpass, FacT, SSF, VPT, VQT, KAdaptation and NOAH on a vision transformer from their formulas in float64."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.parity import _reference as r
from tests.parity.core import Case

Op = Callable[[str, Tensor, Tensor], Tensor]  # site, its output, its input
Stream = Callable[[int, Tensor], Tensor]


def vit_shapes(a: dict[str, Any]) -> r.Shapes:
    """A timm vision transformer with its classifier."""
    d, p, token = a["dim"], a["patch"], a.get("token", True)
    state: r.Shapes = {"cls_token": [1, 1, d]} if token else {}
    state |= {"pos_embed": [1, a["side"] ** 2 + token, d], "patch_embed.proj.weight": [d, 3, p, p]}
    state |= {"patch_embed.proj.bias": [d]}
    for i in range(a["depth"]):
        at = f"blocks.{i}"
        state |= r.normed(f"{at}.norm1", d) | r.normed(f"{at}.norm2", d) | r.affine(f"{at}.attn.proj", d, d)
        state |= r.affine(f"{at}.attn.qkv", 3 * d, d)
        state |= r.affine(f"{at}.mlp.fc1", a["hidden"], d) | r.affine(f"{at}.mlp.fc2", d, a["hidden"])
        if a.get("layer_scale"):
            state |= {f"{at}.ls{n}.gamma": [d] for n in (1, 2)}
        if not a.get("qkv_bias", True):
            del state[f"{at}.attn.qkv.bias"]
    return state | r.normed("fc_norm" if a.get("fc_norm") else "norm", d) | r.affine("head", a["classes"], d)


def plain(site: str, y: Tensor, x: Tensor) -> Tensor:
    """Nothing added."""
    return y


def block(s: r.State, a: dict[str, Any], i: int, x: Tensor, op: Op = plain) -> Tensor:
    """A block; `op` may change what every operation gives, and what branches add behind their scale."""
    at, eps = f"blocks.{i}", a.get("eps", 1e-6)
    gamma = [s.get(f"{at}.ls{n}.gamma", 1.0) for n in (1, 2)]
    u = op(f"{at}.norm1", r.norm(s, f"{at}.norm1", x, eps), x)
    qkv = op(f"{at}.attn.qkv", r.linear(s, f"{at}.attn.qkv", u), u)
    y = r.attention(*qkv.chunk(3, -1), a["heads"])
    y = op(f"{at}.attn.proj", r.linear(s, f"{at}.attn.proj", y), y)
    x = x + op(f"{at}.attn", gamma[0] * y, u)
    u = op(f"{at}.norm2", r.norm(s, f"{at}.norm2", x, eps), x)
    y = op(f"{at}.mlp.fc1", r.linear(s, f"{at}.mlp.fc1", u), u)
    y = F.gelu(y) if a.get("act", "gelu") == "gelu" else r.quick_gelu(y)
    y = op(f"{at}.mlp.fc2", r.linear(s, f"{at}.mlp.fc2", y), y)
    return x + op(f"{at}.mlp", gamma[1] * y, u)


def tower(s: r.State, a: dict[str, Any], images: Tensor, op: Op = plain, before: Stream | None = None) -> Tensor:
    """Feature (B, D)."""
    x = op("patch_embed", r.patches(s["patch_embed.proj.weight"], images, s["patch_embed.proj.bias"]), images)
    if "cls_token" in s:
        x = torch.cat([s["cls_token"].expand(len(x), -1, -1), x], 1)
    x = x + s["pos_embed"]
    for i in range(a["depth"]):
        x = block(s, a, i, x if before is None else before(i, x), op)
    if "fc_norm.weight" in s:
        x = op("norm", x, x)
        return r.norm(s, "fc_norm", x[:, "cls_token" in s :].mean(1), a.get("eps", 1e-6))
    x = op("norm", r.norm(s, "norm", x, a.get("eps", 1e-6)), x)
    return x[:, 0] if a.get("pool", "token") == "token" else x[:, "cls_token" in s :].mean(1)


def results(case: Case, s: r.State, feature: Tensor, own: tuple[str, ...], head: str = "head") -> Any:
    """Logits and the tensors that train."""
    logits = r.linear(s, head, feature)
    tensors = {k: v for k, v in s.items() if k.startswith("head.") or any(word in k for word in own)}
    return {"logits": logits}, {"grad:": (r.cotangent(case, logits), tensors)}


def convpass_shapes(a: dict[str, Any], sites: list[str]) -> r.Shapes:
    """Bypasses at some sites."""
    state, h, d = vit_shapes(a), a["width"], a["dim"]
    for at in sites:
        state |= r.affine(f"{at}.adapter_down", h, d) | r.affine(f"{at}.adapter_up", d, h)
        state |= {f"{at}.adapter_conv.weight": [h, h, 3, 3], f"{at}.adapter_conv.bias": [h]}
    return state


def bypass(s: r.State, at: str, u: Tensor, side: int) -> Tensor:
    """Up(a(Conv(a(Down u)))): patches on their grid, the class token as a map of one pixel."""
    u = r.quick_gelu(r.linear(s, f"{at}.adapter_down", u))
    weight, bias = s[f"{at}.adapter_conv.weight"], s[f"{at}.adapter_conv.bias"]
    maps = u[:, -side * side :].reshape(len(u), side, side, -1)
    padded = F.pad(maps, (0, 0, 1, 1, 1, 1))
    taps = [padded[:, i : i + side, j : j + side] @ weight[:, :, i, j].T for i in range(3) for j in range(3)]
    patches = (torch.stack(taps).sum(0) + bias).flatten(1, 2)
    u = torch.cat([u[:, : -side * side] @ weight[:, :, 1, 1].T + bias, patches], 1)
    return r.linear(s, f"{at}.adapter_up", r.quick_gelu(u))


def convpass(case: Case) -> Any:
    """Bypasses beside attention and MLP, which read their normed input; no layer scale acts on them."""
    a, s = case.arch, r.doubled(case.state())

    def op(site: str, y: Tensor, x: Tensor) -> Tensor:
        at = site.replace(".attn", ".adapter_attn").replace(".mlp", ".adapter_mlp")
        return y + a["s"] * bypass(s, at, x, a["side"]) if f"{at}.adapter_up.bias" in s else y

    return results(case, s, tower(s, a, r.given(case), op), ("adapter_",))


def fact_shapes(a: dict[str, Any], form: str) -> r.Shapes:
    """Factors."""
    d, k, n = a["dim"], a["rank"], a["depth"]
    state = vit_shapes(a) | {"FacTu.weight": [k, d], "FacTv.weight": [d, k]}
    if form == "tk":
        return state | {"FacTp": [k, 12 * n], "FacTc": [k, k, k]}
    for i in range(n):
        state |= {f"blocks.{i}.attn.{p}_FacTs.weight": [k, k] for p in ("q", "k", "v", "proj")}
        state |= {f"blocks.{i}.mlp.fc1_FacTs.weight": [4 * k, k], f"blocks.{i}.mlp.fc2_FacTs.weight": [k, 4 * k]}
    return state


def deltas(s: r.State, a: dict[str, Any], i: int) -> dict[str, Tensor]:
    """Weight updates of a block in nn.Linear's layout: s V Sigma^T U^T, slice by slice."""
    u, v, k = s["FacTu.weight"], s["FacTv.weight"], a["rank"]
    slice_of = lambda sigma: a["s"] * v @ sigma @ u  # noqa: E731
    if "FacTp" not in s:
        at = f"blocks.{i}"
        parts = {p: s[f"{at}.attn.{p}_FacTs.weight"] for p in ("q", "k", "v", "proj")}
        first = s[f"{at}.mlp.fc1_FacTs.weight"].chunk(4)
        second = s[f"{at}.mlp.fc2_FacTs.weight"].chunk(4, 1)
    else:
        core = torch.stack([
            sum((s["FacTp"][j, 12 * i + n] * s["FacTc"][:, :, j] for j in range(k)), torch.zeros(()))
            for n in range(12)
        ], -1)  # fmt: skip
        parts = {p: core[:, :, n].T for n, p in enumerate(("q", "k", "v", "proj"))}
        first = core[:, :, 4:8].reshape(k, 4 * k).T.chunk(4)
        second = core[:, :, 8:12].reshape(k, 4 * k).chunk(4, 1)
    return {
        "attn.qkv": torch.cat([slice_of(parts[p]) for p in "qkv"]),
        "attn.proj": slice_of(parts["proj"]),
        "mlp.fc1": torch.cat([slice_of(t) for t in first]),
        "mlp.fc2": torch.cat([slice_of(t) for t in second], 1),
    }


def fact(case: Case) -> Any:
    """Updates of all linear layers, also merged."""
    a, s = case.arch, r.doubled(case.state())
    found = {f"blocks.{i}.{site}": d for i in range(a["depth"]) for site, d in deltas(s, a, i).items()}
    op = lambda site, y, x: y + x @ found[site].T if site in found else y  # noqa: E731
    arrays, losses = results(case, s, tower(s, a, r.given(case), op), ("FacT",))
    arrays |= {f"delta:{site}.weight": d[:64, :64] for site, d in found.items()}
    return arrays | {"merged_logits": arrays["logits"]}, losses


SSF_SITES = {"norm1": "ssf_{}_1", "norm2": "ssf_{}_2", "attn.qkv": "attn.ssf_{}_1", "attn.proj": "attn.ssf_{}_2",
             "mlp.fc1": "mlp.ssf_{}_1", "mlp.fc2": "mlp.ssf_{}_2"}  # fmt: skip


def ssf_shapes(a: dict[str, Any]) -> r.Shapes:
    """A scale and a shift behind every operation."""
    state, d = vit_shapes(a), a["dim"]
    widths = {"attn.qkv": 3 * d, "mlp.fc1": a["hidden"]}
    for kind in ("scale", "shift"):
        state |= {f"ssf_{kind}_1": [d], f"patch_embed.ssf_{kind}_1": [d]}
        for i in range(a["depth"]):
            state |= {f"blocks.{i}.{k.format(kind)}": [widths.get(n, d)] for n, k in SSF_SITES.items()}
    return state


def ssf_key(site: str, kind: str) -> str:
    """The key of a site's scale or shift; a branch has none."""
    if site in ("patch_embed", "norm"):
        return f"{'patch_embed.' if site != 'norm' else ''}ssf_{kind}_1"
    _, number, name = site.split(".", 2)
    return f"blocks.{number}.{SSF_SITES[name].format(kind)}" if name in SSF_SITES else ""


def ssf(case: Case) -> Any:
    """Scale and shift everywhere, also folded into the operations."""
    a, s = case.arch, r.doubled(case.state())

    def op(site: str, y: Tensor, x: Tensor) -> Tensor:
        return y * s[ssf_key(site, "scale")] + s[ssf_key(site, "shift")] if ssf_key(site, "scale") else y

    arrays, losses = results(
        case, s, tower(s, a | {"pool": a.get("global_pool", "token")}, r.given(case), op), ("ssf",)
    )
    sites = [f"blocks.{i}.{n}" for i in range(a["depth"]) for n in SSF_SITES]
    for site in ["patch_embed", *sites, *([] if a.get("fc_norm") else ["norm"])]:
        scale, shift = s[ssf_key(site, "scale")], s[ssf_key(site, "shift")]
        own = site + (".proj" if site == "patch_embed" else "")
        weight, bias = s[f"{own}.weight"], s.get(f"{own}.bias", torch.zeros(()))
        arrays[f"merged:{own}.weight"] = (scale.reshape(-1, *[1] * (weight.ndim - 1)) * weight).flatten(
            1 if weight.ndim > 1 else 0
        )
        arrays[f"merged:{own}.bias"] = scale * bias + shift
    short = {k: v.reshape(len(v), -1)[:64, :64] if k.startswith("merged:") else v for k, v in arrays.items()}
    return short | {"merged_logits": arrays["logits"]}, losses


def jeonsworld(state: r.Shapes) -> r.Shapes:
    """The shapes of timm's tower under the keys of VPT's."""
    top, names = "enc.transformer.", {}
    table = (("cls_token", "embeddings.cls_token"), ("pos_embed", "embeddings.position_embeddings"),
             ("patch_embed.proj", "embeddings.patch_embeddings"), ("blocks.", "encoder.layer."),
             (".norm1.", ".attention_norm."), (".norm2.", ".ffn_norm."), (".mlp.", ".ffn."),
             ("attn.proj", "attn.out"), ("head.", "head.last_layer."))  # fmt: skip
    for key, shape in state.items():
        for ours, theirs in table:
            key = key.replace(ours, theirs)
        key = "encoder.encoder_" + key if key.startswith("norm.") else key
        key = key if key.startswith("head.") else top + key
        for part in ("query", "key", "value") if ".qkv." in key else ("",):
            names[key.replace("qkv", part)] = [shape[0] // 3, *shape[1:]] if part else shape
    return names


def from_jeonsworld(s: r.State) -> r.State:
    """Tensors of the tower under timm's keys, the rest under their own."""
    found: r.State = dict(s)
    table = (("enc.transformer.", ""), ("encoder.encoder_", ""), ("embeddings.cls_token", "cls_token"),
             ("embeddings.position_embeddings", "pos_embed"), ("embeddings.patch_embeddings", "patch_embed.proj"),
             ("encoder.layer.", "blocks."), (".attention_norm.", ".norm1."), (".ffn_norm.", ".norm2."),
             (".ffn.", ".mlp."), ("attn.out", "attn.proj"))  # fmt: skip
    for key, value in s.items():
        for theirs, ours in table:
            key = key.replace(theirs, ours)
        found[key] = value
    for key in [k for k in found if k.startswith("blocks.") and ".query." in k]:
        parts = [found[key.replace("query", p)] for p in ("query", "key", "value")]
        found[key.replace("query", "qkv")] = torch.cat(parts)
    return found
