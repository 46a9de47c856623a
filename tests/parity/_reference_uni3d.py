"""Uni3D from its formulas in float64; official keys."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.parity import _reference as r
from tests.parity._reference_clip import unit
from tests.parity._reference_epcl import farthest, mlp, nearest, tokenizer_shapes, tokens_of
from tests.parity.core import Case

TOP = "point_encoder."
IDLE = ("patch_embed", "visual.cls_token", "visual.pos_embed", "visual.head")


def uni3d_shapes(a: dict[str, Any], eva: dict[str, Any]) -> r.Shapes:
    """Official keys of a variant."""
    d, e, p, kind = eva["embed_dim"], a["pc_encoder_dim"], a["eva_patch"], style(eva)
    hidden = int(d * eva["mlp_ratio"])
    state: r.Shapes = {"logit_scale": [], f"{TOP}cls_token": [1, 1, d], f"{TOP}cls_pos": [1, 1, d]}
    state |= tokenizer_shapes(f"{TOP}encoder", 6, e) | r.affine(f"{TOP}encoder2trans", d, e)
    state |= r.affine(f"{TOP}trans2embed", a["embed_dim"], d)
    state |= r.affine(f"{TOP}pos_embed.0", 128, 3) | r.affine(f"{TOP}pos_embed.2", d, 128)
    state |= {f"{TOP}visual.cls_token": [1, 1, d], f"{TOP}visual.pos_embed": [1, 1 + (a["eva_img_size"] // p) ** 2, d]}
    state |= {f"{TOP}visual.patch_embed.proj.weight": [d, 3, p, p], f"{TOP}visual.patch_embed.proj.bias": [d]}
    for i in range(eva["depth"]):
        at = f"{TOP}visual.blocks.{i}"
        state |= r.normed(f"{at}.norm1", d) | r.normed(f"{at}.norm2", d) | r.affine(f"{at}.attn.proj", d, d)
        if kind == "base":
            state |= r.affine(f"{at}.attn.q_proj", d, d) | r.affine(f"{at}.attn.v_proj", d, d)
            state |= {f"{at}.attn.k_proj.weight": [d, d], **r.normed(f"{at}.mlp.norm", hidden)}
            state |= r.affine(f"{at}.mlp.fc1_g", hidden, d) | r.affine(f"{at}.mlp.fc1_x", hidden, d)
        else:
            state |= {f"{at}.attn.q_bias": [d], f"{at}.attn.v_bias": [d], f"{at}.attn.qkv.weight": [3 * d, d]}
            state |= r.affine(f"{at}.mlp.fc1", hidden * (2 if kind == "tiny" else 1), d)
        state |= r.affine(f"{at}.mlp.fc2", d, hidden)
    state |= r.normed(f"{TOP}visual.fc_norm", d)
    return state | (r.affine(f"{TOP}visual.head", eva["num_classes"], d) if eva["num_classes"] else {})


def style(eva: dict[str, Any]) -> str:
    """Which of the three kinds of blocks."""
    return "giant" if not eva.get("swiglu_mlp") else "tiny" if eva.get("qkv_fused", True) else "base"


def block(s: r.State, at: str, x: Tensor, heads: int, kind: str) -> Tensor:
    """A block without rotation; keys have no bias."""
    u = r.norm(s, f"{at}.norm1", x, 1e-6)
    if kind == "base":
        q, k, v = (r.linear(s, f"{at}.attn.{n}_proj", u) for n in "qkv")
    else:
        q, k, v = (u @ s[f"{at}.attn.qkv.weight"].T).chunk(3, -1)
        q, v = q + s[f"{at}.attn.q_bias"], v + s[f"{at}.attn.v_bias"]
    x = x + r.linear(s, f"{at}.attn.proj", r.attention(q, k, v, heads))
    u = r.norm(s, f"{at}.norm2", x, 1e-6)
    if kind == "base":
        y = F.silu(r.linear(s, f"{at}.mlp.fc1_g", u)) * r.linear(s, f"{at}.mlp.fc1_x", u)
        y = r.norm(s, f"{at}.mlp.norm", y, 1e-6)
    elif kind == "tiny":
        gate, y = r.linear(s, f"{at}.mlp.fc1", u).chunk(2, -1)
        y = F.silu(gate) * y
    else:
        y = F.gelu(r.linear(s, f"{at}.mlp.fc1", u))
    return x + r.linear(s, f"{at}.mlp.fc2", y)


def contrast(scores: Tensor, rows: Tensor) -> Tensor:
    """Both directions; rows without an image are negatives alone."""
    label = torch.arange(len(scores))[rows]
    return (F.cross_entropy(scores[rows], label) + F.cross_entropy(scores.T[rows], label)) / 2


def uni3d(case: Case) -> Any:
    """All variants."""
    xyz, rgb = case.input("xyz") * 0.4, case.input("rgb") * 0.2 + 0.5
    xyz[1] += 1.0
    xyz[1, 7] = torch.tensor([0.01, 0, 0.02])
    xyz, rgb = xyz.double(), rgb.double()
    index = torch.stack([farthest(p, case.arch["num_group"]) for p in xyz])
    centers = torch.stack([p[i] for p, i in zip(xyz, index, strict=True)])
    arrays, losses = {"fps_idx": index, "centers": centers}, {}
    for tag, variant in case.variants():
        a, s = variant.arch, r.doubled(variant.state())
        eva, rows, first = a["eva"], [], []
        for points, colors, middle in zip(xyz, rgb, centers, strict=True):
            _, members = nearest(middle, points, a["group_size"])
            groups = torch.cat([points[members] - middle[:, None], colors[members]], -1)
            tokens = tokens_of(s, f"{TOP}encoder", groups)
            first.append(tokens[:4])
            x = r.linear(s, f"{TOP}encoder2trans", tokens) + mlp(s, f"{TOP}pos_embed", middle)
            x = torch.cat([s[f"{TOP}cls_token"][0] + s[f"{TOP}cls_pos"][0], x])[None]
            for i in range(eva["depth"]):
                x = block(s, f"{TOP}visual.blocks.{i}", x, eva["num_heads"], style(eva))
            rows.append(r.linear(s, f"{TOP}trans2embed", r.norm(s, f"{TOP}visual.fc_norm", x[0, 0], 1e-6)))
        feature = torch.stack(rows)
        scale, has = s["logit_scale"].exp(), torch.tensor(case.json["inputs"]["use_image"]) > 0
        text, image = (unit(r.given(case, k)) for k in ("text", "image"))
        loss = contrast(scale * unit(feature) @ text.T, torch.ones(len(feature)) > 0)
        loss = loss + contrast(scale * unit(feature) @ image.T, has)
        arrays |= {f"{tag}.tokens": torch.stack(first), f"{tag}.pc_embed": feature, f"{tag}.loss": loss}
        own = {k: v for k, v in s.items() if r.frozen(s, [k]) and not any(word in k for word in IDLE)}
        losses[f"{tag}.grad:"] = loss, own
    return arrays, losses
