"""ST-Adapter and EVL from their formulas in float64; official keys."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.parity import _reference as r
from tests.parity.core import Case


def adapter_shapes(a: dict[str, Any], hidden: int) -> r.Shapes:
    """ST-Adapter's keys beside those of CLIP's image tower."""
    d, n, h = a["width"], a["layers"], a["adapter_width"]
    state = r.clip_shapes("", d, n, hidden, a["patch_size"], a["input_resolution"] // a["patch_size"])
    sites = [s for s in ("pre_attn", "pre_mlp") if a[f"adapter_{s}"]]
    for at in [f"transformer.resblocks.{i}.adapter_{s}" for i in range(n - a["adapter_layers"], n) for s in sites]:
        state |= r.affine(f"{at}.fc1", h, d) | r.affine(f"{at}.fc2", d, h)
        state |= {f"{at}.conv.weight": [h, 1, *a["adapter_kernel_size"]], f"{at}.conv.bias": [h]}
    return state | r.affine("fc", a["num_classes"], d)


def st_adapted(s: r.State, at: str, x: Tensor, frames: int) -> Tensor:
    """x + fc2(convolution over space and time of fc1(x)), on the patches of clips (B*T, 1 + n, D)."""
    if f"{at}.fc1.weight" not in s:
        return x
    u = r.linear(s, f"{at}.fc1", x[:, 1:])
    side, kernel = round(u.shape[1] ** 0.5), s[f"{at}.conv.weight"][:, 0]
    u = u.reshape(-1, frames, side, side, u.shape[-1])
    reach = [k // 2 for k in kernel.shape[1:]]
    padded = F.pad(u, (0, 0, reach[2], reach[2], reach[1], reach[1], reach[0], reach[0]))
    v = s[f"{at}.conv.bias"].expand(u.shape)
    for t, i, j in torch.cartesian_prod(*(torch.arange(k) for k in kernel.shape[1:])).reshape(-1, 3).tolist():
        v = v + kernel[:, t, i, j] * padded[:, t : t + frames, i : i + side, j : j + side]
    change = r.linear(s, f"{at}.fc2", v.reshape(len(x), side * side, -1))
    return torch.cat([x[:, :1], x[:, 1:] + change], 1)


def st_adapter(case: Case) -> Any:
    """Logits, the stream behind every block."""
    a, s, found = case.arch, r.doubled(case.state()), {}
    x = r.clip_embed(s, r.given(case, "video").transpose(1, 2).flatten(0, 1), "")
    for i in range(a["layers"]):
        at = f"transformer.resblocks.{i}"
        x = st_adapted(s, f"{at}.adapter_pre_attn", x, a["num_frames"])
        y = r.norm(s, f"{at}.ln_1", x)
        x = x + r.packed(s, f"{at}.attn", y, y, y, a["heads"])
        x = st_adapted(s, f"{at}.adapter_pre_mlp", x, a["num_frames"])
        x = x + r.clip_mlp(s, at, r.norm(s, f"{at}.ln_2", x))
        found[f"block{i}_out"] = x
    z = r.norm(s, "ln_post", x[:, 0].unflatten(0, (-1, a["num_frames"])).mean(1))
    logits = r.linear(s, "fc", z)
    own = {k: v for k, v in s.items() if "adapter_" in k or k.startswith("fc.")}
    return found | {"logits": logits}, {"grad:": (r.cotangent(case, logits), own)}


def evl_shapes(a: dict[str, Any], hidden: int) -> r.Shapes:
    """EVL's keys beside those of CLIP's image tower."""
    v, d, q = a["vit"], a["vit"]["width"], a["decoder_qkv_dim"]
    side = v["image_size"] // v["patch_size"]
    state: r.Shapes = {"decoder.cls_token": [d]}
    for i in range(a["decoder_num_layers"]):
        at = f"decoder.decoder_layers.{i}"
        for name in ("q_proj", "k_proj", "v_proj"):
            state |= r.affine(f"{at}.attn.{name}", q, d)
        state |= r.affine(f"{at}.attn.out_proj", d, q)
        m = round(a["decoder_mlp_factor"] * d)
        state |= r.affine(f"{at}.mlp.fc1", m, d) | r.affine(f"{at}.mlp.fc2", d, m)
        for n in (1, 2, 3):
            state |= r.normed(f"{at}.norm{n}", d)
        if a["enable_temporal_conv"]:
            state |= {f"decoder.temporal_conv.{i}.weight": [d, 1, 3], f"decoder.temporal_conv.{i}.bias": [d]}
        if a["enable_temporal_pos_embed"]:
            state[f"decoder.temporal_pos_embed.{i}"] = [a["num_frames"], d]
        if a["enable_temporal_cross_attention"]:
            state |= {f"decoder.cross_attention.{i}.w{n}": [(2 * side - 1) ** 2, d] for n in (1, 2)}
    state |= r.normed("proj.0", d) | r.affine("proj.2", a["num_classes"], d)
    return state | r.clip_shapes("visual.", d, v["layers"], hidden, v["patch_size"], side)


def motion(q: Tensor, k: Tensor, table: Tensor, heads: int) -> Tensor:
    """Relative vectors (n, D), weighted by how the patches q (n, D) of one frame attend to k of another."""
    pairs = zip(q.chunk(heads, -1), k.chunk(heads, -1), strict=True)
    maps = [(x @ y.T / x.shape[-1] ** 0.5).softmax(-1) for x, y in pairs]
    score, side = torch.stack(maps).mean(0), round(len(q) ** 0.5)
    rows = []
    for i in range(len(q)):
        index = [
            (i // side - j // side + side - 1) * (2 * side - 1) + i % side - j % side + side - 1 for j in range(len(k))
        ]
        rows.append(score[i] @ table[index])
    return torch.stack(rows)


def augmented(s: r.State, i: int, x: Tensor, q: Tensor, k: Tensor, a: dict[str, Any]) -> Tensor:
    """Tokens (B, T, L, D) of a block with what the temporal modules add."""
    y, frames = x, x.shape[1]
    if a["enable_temporal_conv"]:
        weight = s[f"decoder.temporal_conv.{i}.weight"][:, 0]
        padded = F.pad(x, (0, 0, 0, 0, 1, 1))
        y = y + sum(weight[:, t] * padded[:, t : t + frames] for t in range(3))
        y = y + s[f"decoder.temporal_conv.{i}.bias"]
    if a["enable_temporal_pos_embed"]:
        y = y + s[f"decoder.temporal_pos_embed.{i}"][:, None]
    if a["enable_temporal_cross_attention"]:
        w1, w2 = (s[f"decoder.cross_attention.{i}.w{n}"] for n in (1, 2))
        added = torch.zeros_like(x)
        for b in range(len(x)):
            for t in range(frames):
                for near, table in ((t - 1, w1), (t + 1, w2)):
                    if 0 <= near < frames:
                        added[b, t, 1:] += motion(q[b, t, 1:], k[b, near, 1:], table, a["vit"]["heads"])
        y = y + added
    return y


def evl(case: Case) -> Any:
    """Logits, what the decoder layers read, and the query behind each."""
    a, s, found = case.arch, r.doubled(case.state()), {}
    v, frames, layers = a["vit"], a["num_frames"], a["decoder_num_layers"]
    x = r.clip_embed(s, r.given(case, "video").transpose(1, 2).flatten(0, 1), "visual.").detach()
    query = s["decoder.cls_token"].expand(len(x) // frames, 1, -1)
    for n in range(v["layers"]):
        at, i = f"visual.transformer.resblocks.{n}", n - (v["layers"] - layers)
        y = r.norm(s, f"{at}.ln_1", x)
        packed = y @ s[f"{at}.attn.in_proj_weight"].T + s[f"{at}.attn.in_proj_bias"]
        x = r.clip_block(s, at, x, v["heads"]).detach()
        if i < 0:
            continue
        q, k, _ = (t.detach().unflatten(0, (-1, frames)) for t in packed.chunk(3, -1))
        seen = augmented(s, i, x.unflatten(0, (-1, frames)), q, k, a).flatten(1, 2)
        at = f"decoder.decoder_layers.{i}"
        read, keys = r.norm(s, f"{at}.norm1", query), r.norm(s, f"{at}.norm3", seen)
        parts = [r.linear(s, f"{at}.attn.{p}_proj", t) for p, t in (("q", read), ("k", keys), ("v", keys))]
        query = query + r.linear(s, f"{at}.attn.out_proj", r.attention(*parts, a["decoder_num_heads"]))
        hidden = r.quick_gelu(r.linear(s, f"{at}.mlp.fc1", r.norm(s, f"{at}.norm2", query)))
        query = query + r.linear(s, f"{at}.mlp.fc2", hidden)
        found |= {f"decoder_in{i}": seen, f"query_out{i}": query}
    logits = r.linear(s, "proj.2", r.norm(s, "proj.0", query[:, 0]))
    own = {k: t for k, t in s.items() if not k.startswith("visual.")}
    return found | {"logits": logits}, {"grad:": (r.cotangent(case, logits), own)}
