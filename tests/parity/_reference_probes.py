"""DiST, Efficient Probing and the STEP-style probe from their formulas; official keys."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.parity import _reference as r
from tests.parity.core import Case
from tests.parity.fill import fill_state


def dist_shapes(a: dict[str, Any], hidden: int, side: int) -> r.Shapes:
    """DiST beside a CLIP tower."""
    w, di, c, k = a["width"], a["integration_dim"], a["temporal_dim"], a["temporal_kernel_size"]
    p, t = a["patch_size"], a["frames"] // a["alpha"]
    wide = int(c * a["temporal_conv_mlp_ratio"])
    ffn, narrow = int(di * a["integration_mlp_ratio"]), int(di * a["integration_temporal_mlp_ratio"])
    state = r.clip_shapes("visual.", w, a["layers"], hidden, p, side, a["embed_dim"])
    d = "dist_net."
    state |= {f"{d}temporal_stem.weight": [c, 3, a["t_patch_size"], p, p], f"{d}temporal_stem.bias": [c]}
    for n in range(len(a["selected_layers"])):
        state |= r.affine(f"{d}input_linears.{n}", di, w) | r.affine(
            f"{d}integration2temporal_nets.{n}.linear_fuse", c, di
        )
        at = f"{d}temporal2integration_nets.{n}"
        state |= {f"{at}.linear_fuse.weight": [di, c, a["alpha"], 1, 1], f"{at}.linear_fuse.bias": [di]}
        state[f"{at}.cls_token"] = [1, 1, t, di]
        at = f"{d}temporal_nets.{n}"
        state |= r.normed(f"{at}.ln", c)
        state |= {f"{at}.temporal_net.c_fc1.weight": [wide, c, k, 1, 1], f"{at}.temporal_net.c_fc1.bias": [wide]}
        state |= {f"{at}.temporal_net.c_fc2.weight": [c, wide, 1, 3, 3], f"{at}.temporal_net.c_fc2.bias": [c]}
        at = f"{d}integration_nets.{n}"
        state |= r.normed(f"{at}.ln", di) | r.normed(f"{at}.ln_temporal", di)
        state |= r.affine(f"{at}.ffn.c_fc", ffn, di) | r.affine(f"{at}.ffn.c_proj", di, ffn)
        sizes = {"c_fc1": [narrow, di, 1, 1, 1], "c_fc2": [narrow, narrow, k, 1, 1], "c_proj": [di, narrow, 1, 1, 1]}
        for name, shape in sizes.items():
            state |= {f"{at}.temporal_ffn.{name}.weight": shape, f"{at}.temporal_ffn.{name}.bias": shape[:1]}
    for n in range(a["ada_pooling_layers"]):
        at = f"{d}adapooling_nets.{n}"
        state[f"{at}.positional_embedding"] = [1, t, di]
        for kind, word, ln in POOLS:
            state |= r.multihead(f"{at}.{kind}_transformer.attn", di) | r.normed(f"{at}.{kind}_transformer.ln_1", di)
            state |= r.affine(f"{at}.{word}.c_fc", 4 * di, di) | r.affine(f"{at}.{word}.c_proj", di, 4 * di)
            state |= r.normed(f"{at}.{ln}", di)
    state |= r.affine(f"{d}proj_spatial_cls_token", di, w) | r.normed(f"{d}ln_post", di)
    state |= {f"{d}proj": [di, a["embed_dim"]], f"{d}aggregated_cls_token": [1, 1, di]}
    return state | {f"{d}aggregated_spatial_cls_token": [1, 1, di]}


POOLS = (
    ("spatial", "output_map_spatial_cls_token", "ln_out_spat_cls_token"),
    ("temporal", "output_map_cls_token", "ln_out_temp_cls_token"),
)


def wide_mlp(s: r.State, at: str, x: Tensor) -> Tensor:
    """Two linear layers around a QuickGELU."""
    return r.linear(s, f"{at}.c_proj", r.quick_gelu(r.linear(s, f"{at}.c_fc", x)))


def conv(s: r.State, name: str, x: Tensor, **options: Any) -> Tensor:
    """A 3-D convolution."""
    return F.conv3d(x, s[f"{name}.weight"], s[f"{name}.bias"], **options)


def dist(case: Case) -> Any:
    """The whole of it."""
    a, s, video = case.arch, r.doubled(case.state()), r.given(case, "video")  # (B, T, 3, H, W)
    d, alpha, k, heads = "dist_net.", a["alpha"], a["temporal_kernel_size"], a["integration_heads"]
    b, p = len(video), a["patch_size"]
    sparse = video[:, ::alpha]
    t = sparse.shape[1]
    tokens, outs = r.clip_embed(s, sparse.flatten(0, 1), "visual."), []
    for i in range(a["layers"]):
        tokens = r.clip_block(s, f"visual.transformer.resblocks.{i}", tokens, a["heads"])
        outs.append(tokens.detach())
    pad = (a["t_patch_size"] // 2, 0, 0)
    x = conv(s, f"{d}temporal_stem", video.transpose(1, 2), stride=(1, p, p), padding=pad)
    past, m = 0.0, torch.zeros(())
    for n, i in enumerate(a["selected_layers"]):
        at = f"{d}temporal_nets.{n}"
        y = r.norm(s, f"{at}.ln", x.permute(0, 2, 3, 4, 1)).permute(0, 4, 1, 2, 3)
        y = r.quick_gelu(conv(s, f"{at}.temporal_net.c_fc1", y, padding=(k // 2, 0, 0)))
        x = r.quick_gelu(x + conv(s, f"{at}.temporal_net.c_fc2", y, padding=(0, 1, 1)))
        m = r.linear(s, f"{d}input_linears.{n}", outs[i]).view(b, t, *outs[i].shape[1:-1], -1) + past
        up = r.linear(s, f"{d}integration2temporal_nets.{n}.linear_fuse", m[:, :, 1:])  # (B, t, P, C)
        up = up.permute(0, 3, 1, 2).reshape(b, x.shape[1], t, *x.shape[3:])
        down = conv(s, f"{d}temporal2integration_nets.{n}.linear_fuse", x, stride=(alpha, 1, 1))
        down = down.flatten(3).permute(0, 2, 3, 1)  # (B, t, P, Di)
        cls = s[f"{d}temporal2integration_nets.{n}.cls_token"][0, 0][None, :, None].expand(b, -1, -1, -1)
        x, m = x + torch.stack([up[:, :, j // alpha] for j in range(t * alpha)], 2), m + torch.cat([cls, down], 2)
        at = f"{d}integration_nets.{n}"
        y = r.norm(s, f"{at}.ln_temporal", m).permute(0, 3, 1, 2)[..., None]  # (B, Di, t, N, 1)
        y = conv(s, f"{at}.temporal_ffn.c_fc2", conv(s, f"{at}.temporal_ffn.c_fc1", y), padding=(k // 2, 0, 0))
        y = conv(s, f"{at}.temporal_ffn.c_proj", r.quick_gelu(y))[..., 0].permute(0, 2, 3, 1)
        past = wide_mlp(s, f"{at}.ffn", r.norm(s, f"{at}.ln", m)) + y
    tokens_in = (past + m).flatten(0, 1)
    query, top = (s[f"{d}aggregated_{n}cls_token"].expand(z, -1, -1) for n, z in (("spatial_", b * t), ("", b)))
    for n in range(a["ada_pooling_layers"]):
        at = f"{d}adapooling_nets.{n}"
        query = pool(s, at, POOLS[0], query, tokens_in, heads)
        top = pool(s, at, POOLS[1], top, query[:, 0].view(b, t, -1) + s[f"{at}.positional_embedding"], heads)
    last = outs[a["layers"] - 1][:, 0].view(b, t, -1).mean(1)
    feature = r.norm(s, f"{d}ln_post", top[:, 0] + r.linear(s, f"{d}proj_spatial_cls_token", last)) @ s[f"{d}proj"]
    images = r.norm(s, "visual.ln_post", outs[-1][:, 0]) @ s["visual.proj"]
    text = r.given(case, "text_features")
    unit = lambda v: v / v.norm(dim=-1, keepdim=True)  # noqa: E731
    found = {
        "video_feature": feature,
        "image_features": images,
        "mid_first": outs[a["selected_layers"][0]].mT.mT.transpose(0, 1),
    }
    found["logits"] = math.exp(a["logit_scale_log"]) * unit(feature) @ unit(text).T
    return found, {"grad:": (r.cotangent(case, feature), r.frozen(s, [k for k in s if k.startswith(d)]))}


def pool(s: r.State, at: str, names: tuple[str, str, str], query: Tensor, x: Tensor, heads: int) -> Tensor:
    """A query reads tokens, then its MLP; one norm for both."""
    kind, word, ln = names
    block = f"{at}.{kind}_transformer"
    seen = r.norm(s, f"{block}.ln_1", x)
    query = query + r.packed(s, f"{block}.attn", r.norm(s, f"{block}.ln_1", query), seen, seen, heads)
    return query + wide_mlp(s, f"{at}.{word}", r.norm(s, f"{at}.{ln}", query))


def rate(o: dict[str, Any], epoch: float) -> float:
    """Rate at an epoch: linear from 0, then half a cosine."""
    warm, low = o["warmup_epochs"], o["min_lr"]
    if epoch < warm:
        return o["lr"] * epoch / warm
    return low + (o["lr"] - low) * 0.5 * (1 + math.cos(math.pi * (epoch - warm) / (o["epochs"] - warm)))


def efficient_probing(case: Case) -> Any:
    """Every variant of the probe with its steps of LARS, and the rates."""
    a, o = case.arch, case.json["optimiser"]
    found, losses = {}, {}
    labels, tokens, train = torch.tensor(case.json["labels"]), r.given(case, "tokens"), r.given(case, "tokens_train")
    for tag, about in case.json["variants"].items():
        own = {k: v for k, v in case.json["state"].items() if k.startswith(about["prefix"])}
        filled = fill_state(own, case.seed).items()
        s = r.doubled({k.removeprefix(about["prefix"]): torch.from_numpy(v.copy()) for k, v in filled})
        y, maps = queried(a, about, s, tokens)
        logits = probe_head(a, s, y, s["1.running_mean"], s["1.running_var"])
        found |= {f"{tag}_pooled": y, f"{tag}_attention": maps, f"{tag}_logits": logits}
        named = {k: s[k] for k in s if k.split(".")[0] in "02"}
        losses[f"grad:{tag}."] = F.cross_entropy(logits, labels), named
        found |= {f"{tag}_{k}": v for k, v in probe_steps(a, o, about, s, named, (tokens, train, labels)).items()}
    found["schedule_lr"] = torch.tensor([rate(o, e / 4) for e in range(4 * o["epochs"])]).double()
    return found, losses


def queried(a: dict[str, Any], about: dict[str, Any], w: r.State, x: Tensor) -> tuple[Tensor, Tensor]:
    """Feature (B, D/d_out) and maps (B, Q, N) of tokens."""
    maps = (w["0.cls_token"] @ x.mT * a["dim"] ** -0.5).softmax(-1)
    groups = r.linear(w, "0.v", x).chunk(about["num_queries"], -1)
    return torch.cat([(m[:, None] @ g)[:, 0] for m, g in zip(maps.unbind(1), groups, strict=True)], 1), maps


def probe_head(a: dict[str, Any], w: r.State, y: Tensor, mean: Tensor, var: Tensor) -> Tensor:
    """Linear behind a norm without weights."""
    return r.linear(w, "2", (y - mean) / (var + a["bn_eps"]).sqrt())


def probe_steps(
    a: dict[str, Any], o: dict[str, Any], about: dict[str, Any], s: r.State, named: r.State, data: Any
) -> r.State:
    """Steps of LARS from epoch 1 on."""
    tokens, train, labels = data
    mean, var, mom = s["1.running_mean"].detach(), s["1.running_var"].detach(), a["bn_momentum"]
    now, mu, found = {k: v.detach() for k, v in named.items()}, dict.fromkeys(named, torch.zeros(())), {}
    for n in range(o["steps"]):
        now = {k: v.detach().requires_grad_() for k, v in now.items()}
        y, _ = queried(a, about, now, train)
        out = probe_head(a, now, y, y.mean(0), y.var(0, unbiased=False))
        found |= {"train_logits_first": out} if n == 0 else {}
        mean, var = (1 - mom) * mean + mom * y.detach().mean(0), (1 - mom) * var + mom * y.detach().var(0)
        grads = torch.autograd.grad(F.cross_entropy(out, labels), list(now.values()))
        for k, g in zip(named, grads, strict=True):
            p = now[k].detach()
            if p.ndim > 1:
                g = g + about.get("weight_decay", 0.0) * p
                g = g * o["trust_coefficient"] * p.norm() / g.norm()
            mu[k] = o["momentum"] * mu[k] + g
            now[k] = p - rate(o, 1 + n / o["steps"]) * mu[k]
    logits = probe_head(a, now, queried(a, about, now, tokens)[0], mean, var)
    return {**found, "logits_after": logits, "running_mean_after": mean, "running_var_after": var}


def step_probe(case: Case) -> Any:
    """Frames in order, in reverse, and without positions."""
    a, s, x = case.arch, r.doubled(case.state()), r.given(case, "tokens")

    def run(x: Tensor, places: Tensor) -> Tensor:
        y = torch.cat([s["cls_token"].expand(len(x), -1, -1), (x + places).flatten(1, 2)], 1)
        q, k, v = r.linear(s, "qkv", y).chunk(3, -1)
        return r.linear(s, "head", r.linear(s, "proj", r.attention(q[:, :1], k, v, a["heads"])[:, 0]))

    places = s["frame_pos"]
    found = {"logits": run(x, places), "logits_reversed": run(x.flip(1), places)}
    found["logits_without_frame_pos"] = run(x, 0 * places)
    return found, {"grad:": (r.cotangent(case, found["logits"]), s)}
