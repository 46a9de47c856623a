"""EPCL's classification and dense encoder from their formulas in float64; official keys."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.parity import _reference as r
from tests.parity._reference_boxes import bn, conv
from tests.parity.core import Case


def tokenizer_shapes(at: str, ins: int, dim: int) -> r.Shapes:
    """Mini-PointNet."""
    state: r.Shapes = {f"{at}.first_conv.0.weight": [128, ins, 1], f"{at}.first_conv.0.bias": [128]}
    state |= r.batch_normed(f"{at}.first_conv.1", 128) | r.batch_normed(f"{at}.second_conv.1", 512)
    state |= {f"{at}.first_conv.3.weight": [256, 128, 1], f"{at}.first_conv.3.bias": [256]}
    state |= {f"{at}.second_conv.0.weight": [512, 512, 1], f"{at}.second_conv.0.bias": [512]}
    return state | {f"{at}.second_conv.3.weight": [dim, 512, 1], f"{at}.second_conv.3.bias": [dim]}


def shared_shapes(prefix: str, dim: int, tasks: int) -> r.Shapes:
    """Position MLP and task tokens."""
    state = r.affine(f"{prefix}pos_embed.0", 128, 3) | r.affine(f"{prefix}pos_embed.2", dim, 128)
    if tasks:
        state[f"{prefix}te_encoder.embedding.weight"] = [tasks, dim]
        state |= r.affine(f"{prefix}te_encoder.trans.0", dim, dim) | r.affine(f"{prefix}te_encoder.trans.2", dim, dim)
    return state


def farthest(points: Tensor, count: int) -> Tensor:
    """Greedy from the first point (P, 3); points beside the origin are never chosen."""
    far = points.square().sum(-1) > 1e-3
    found, best = [0], torch.full((len(points),), float("inf")).double()
    for _ in range(count - 1):
        best = torch.minimum(best, (points - points[found[-1]]).square().sum(-1))
        found.append(int(best.masked_fill(~far, -1).argmax()))
    return torch.tensor(found)


def nearest(centers: Tensor, points: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Squared distances and indices (G, K), ties to the lower index."""
    apart = (centers[:, None] - points[None]).square().sum(-1).sort(dim=-1, stable=True)
    return apart.values[:, :count], apart.indices[:, :count]


def tokens_of(s: r.State, at: str, groups: Tensor) -> Tensor:
    """Groups (G, K, C) to tokens (G, D)."""
    one, two = f"{at}.first_conv", f"{at}.second_conv"
    x = conv(s, f"{one}.3", bn(s, f"{one}.1", conv(s, f"{one}.0", groups)).relu())
    x = torch.cat([x.amax(1, keepdim=True).expand_as(x), x], -1)
    return conv(s, f"{two}.3", bn(s, f"{two}.1", conv(s, f"{two}.0", x)).relu()).amax(1)


def mlp(s: r.State, at: str, x: Tensor) -> Tensor:
    """Two layers around an exact GELU."""
    return r.linear(s, f"{at}.2", F.gelu(r.linear(s, f"{at}.0", x)))


def with_tasks(s: r.State, prefix: str, x: Tensor) -> Tensor:
    """Task tokens at the end of (N, D)."""
    if f"{prefix}te_encoder.embedding.weight" not in s:
        return x
    return torch.cat([x, mlp(s, f"{prefix}te_encoder.trans", s[f"{prefix}te_encoder.embedding.weight"])])


def classification_shapes(a: dict[str, Any], hidden: int, head: int, points: int = 2) -> r.Shapes:
    """Official keys."""
    d, out, c = a["clip_width"], a["clip_proj_dim"], a["cls_dim"]
    state = tokenizer_shapes("encoder", 3, d) | shared_shapes("", d, a["tasks"] if a["use_task_emb"] else 0)
    state |= r.clip_shapes("clip_vit.", d, a["clip_layers"], hidden, a["clip_patch"], points, out) | r.normed("norm", d)
    state |= r.affine("proj2emb.0", out, out + d) | r.batch_normed("proj2emb.1", out)
    state |= r.affine("proj2emb.4", out, out) | r.normed("proj2emb.5", out)
    state |= r.affine("cls_head_finetune.1", head, out) | r.batch_normed("cls_head_finetune.2", head)
    return state | r.affine("cls_head_finetune.5", c, head)


def classification(case: Case) -> Any:
    """Class token, strongest of the other tokens, embedding and logits."""
    a, s = case.arch, r.doubled(case.state())
    clouds, rows = (0.4 * case.input("pts")).double(), []
    found: dict[str, list[Tensor]] = {"fps_idx": [], "knn_idx_sorted": [], "group_tokens_sum": []}
    for points in clouds:
        index = farthest(points, a["num_group"])
        _, members = nearest(points[index], points, a["group_size"])
        tokens = tokens_of(s, "encoder", points[members] - points[index][:, None])
        for key, value in zip(found, (index, members.sort(-1).values, tokens.sum(-1)), strict=True):
            found[key].append(value)
        first = s["clip_vit.class_embedding"] + s["clip_vit.positional_embedding"][0]
        x = torch.cat([first[None], tokens + mlp(s, "pos_embed", points[index])])
        x = with_tasks(s, "", r.norm(s, "clip_vit.ln_pre", x))[None]
        for i in range(a["clip_layers"]):
            x = r.clip_block(s, f"clip_vit.transformer.resblocks.{i}", x, a["clip_heads"])
        feature = r.norm(s, "clip_vit.ln_post", x[0, 0]) @ s["clip_vit.proj"]
        rows.append(torch.cat([feature, r.norm(s, "norm", x[0, 1:]).amax(0)]))
    y = r.batch_norm(s, "proj2emb.1", r.linear(s, "proj2emb.0", torch.stack(rows))).relu()
    embedding = r.norm(s, "proj2emb.5", r.linear(s, "proj2emb.4", y))
    y = r.batch_norm(s, "cls_head_finetune.2", r.linear(s, "cls_head_finetune.1", embedding)).relu()
    logits = r.linear(s, "cls_head_finetune.5", y)
    loss = r.cotangent(case, logits) + r.cotangent(case, embedding, "cotangent_emb")
    own = {k: v for k, v in s.items() if not k.startswith("clip_vit.") and r.frozen(s, [k])}
    arrays = {k: torch.stack(v) for k, v in found.items()} | {"token_emb": embedding, "logits": logits}
    return arrays, {"grad:": (loss, own)}


def dense_shapes(a: dict[str, Any], hidden: int) -> r.Shapes:
    """Official keys."""
    d, c = a["width"], a["tokenizer_dim"]
    state = tokenizer_shapes("tokenizer.encoder", c, d) | shared_shapes("encoder.", d, a["num_task_tokens"])
    state |= {"encoder.cls_token": [d], "upsamping.mlp_convs.0.weight": [c, d, 1], "upsamping.mlp_convs.0.bias": [c]}
    state |= r.batch_normed("upsamping.mlp_bns.0", c)
    for i in range(a["clip_layers"]):
        at = f"encoder.blocks.resblocks.{i}"
        state |= r.multihead(f"{at}.attn", d) | r.normed(f"{at}.ln_1", d) | r.normed(f"{at}.ln_2", d)
        state |= r.affine(f"{at}.mlp.c_fc", hidden, d) | r.affine(f"{at}.mlp.c_proj", d, hidden)
    return state


def dense(case: Case) -> Any:
    """Attention over tokens, all distances in voxels."""
    a, s, rng = case.arch, r.doubled(case.state()), np.random.default_rng(case.seed)
    every = torch.from_numpy(rng.integers(0, 30, (sum(a["sizes"]), 3)))
    batch = torch.repeat_interleave(torch.arange(len(a["sizes"])), torch.tensor(a["sizes"]))
    feats, outs, middles = r.given(case, "feats"), [], []
    for points, feat in zip(every.double().split(a["sizes"]), feats.split(a["sizes"]), strict=True):
        centers = points[farthest(points, a["num_group"])]
        _, members = nearest(centers, points, a["group_size"])
        tokens = tokens_of(s, "tokenizer.encoder", feat[members])
        place = centers * a["voxel_size"]
        place = place - place.mean(0)
        place = place / place.square().sum(-1).sqrt().max()
        first = s["encoder.cls_token"] + r.given(case, "cls_pos")
        x = torch.cat([first[None], tokens + mlp(s, "encoder.pos_embed", place)])
        x = with_tasks(s, "encoder.", x)[None]
        for i in range(a["clip_layers"]):
            x = r.clip_block(s, f"encoder.blocks.resblocks.{i}", x, a["clip_heads"])
        apart, index = nearest(points, centers, 3)
        weight = 1 / (apart + 1e-8)
        carried = (x[0, 1 : 1 + len(centers)][index] * (weight / weight.sum(-1, keepdim=True))[..., None]).sum(1)
        y = r.batch_norm(s, "upsamping.mlp_bns.0", conv(s, "upsamping.mlp_convs.0", carried)).relu()
        outs.append(feat + y)
        middles.append(centers)
    out = torch.cat(outs)
    own = {k: v for k, v in s.items() if "resblocks" not in k and "cls_token" not in k and r.frozen(s, [k])}
    arrays = {"coords": torch.cat([every, batch[:, None]], 1), "centers": torch.stack(middles), "out_fixed": out}
    return arrays, {"fixed_grad:": (r.cotangent(case, out), own)}
