"""DiST, V-JEPA 2 with its probe, Efficient Probing and the STEP-style probe from their formulas; official keys."""

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


def jepa_shapes(a: dict[str, Any], hidden: int) -> r.Shapes:
    """V-JEPA 2's encoder."""
    d, p = a["embed_dim"], a["patch_size"]
    state = {"patch_embed.proj.weight": [d, 3, a["tubelet_size"], p, p], "patch_embed.proj.bias": [d]}
    for i in range(a["depth"]):
        state |= jepa_block_shapes(f"blocks.{i}", d, hidden)
    return state | r.normed("norm", d)


def jepa_block_shapes(at: str, d: int, hidden: int) -> r.Shapes:
    """A pre-norm block."""
    state = r.normed(f"{at}.norm1", d) | r.normed(f"{at}.norm2", d)
    state |= r.affine(f"{at}.attn.qkv", 3 * d, d) | r.affine(f"{at}.attn.proj", d, d)
    return state | r.affine(f"{at}.mlp.fc1", hidden, d) | r.affine(f"{at}.mlp.fc2", d, hidden)


def turned(x: Tensor, places: Tensor, tiled: bool) -> Tensor:
    """Turn each pair of x (..., m) by the angles of integer places (N,): tiled as released, or in place."""
    m = x.shape[-1]
    angle = places[:, None].double() * 10000.0 ** (-torch.arange(m // 2).double() / (m / 2))  # (N, m/2)
    all_angles = torch.cat([angle, angle], 1) if tiled else angle.repeat_interleave(2, 1)
    out = torch.empty_like(x)
    for i in range(m // 2):
        first, second, a, b = x[..., 2 * i], x[..., 2 * i + 1], all_angles[:, 2 * i], all_angles[:, 2 * i + 1]
        out[..., 2 * i] = first * a.cos() - second * a.sin()
        out[..., 2 * i + 1] = second * b.cos() + first * b.sin()
    return out


def jepa_block(s: r.State, at: str, x: Tensor, heads: int, places: Tensor | None, eps: float) -> Tensor:
    """A block; queries and keys turn by `places` (3, N) where there are any."""
    q, k, v = r.linear(s, f"{at}.attn.qkv", r.norm(s, f"{at}.norm1", x, eps)).chunk(3, -1)
    if places is not None:
        m = 2 * (x.shape[-1] // heads // 3 // 2)
        outs = []
        for y in (q, k):
            parts = []
            for head in y.chunk(heads, -1):
                axes = [turned(head[..., n * m : n * m + m], places[n], True) for n in range(3)]
                parts.append(torch.cat([*axes, head[..., 3 * m :]], -1))
            outs.append(torch.cat(parts, -1))
        q, k = outs
    x = x + r.linear(s, f"{at}.attn.proj", r.attention(q, k, v, heads))
    y = r.gelu(r.linear(s, f"{at}.mlp.fc1", r.norm(s, f"{at}.norm2", x, eps)))
    return x + r.linear(s, f"{at}.mlp.fc2", y)


def jepa_tower(s: r.State, a: dict[str, Any], video: Tensor, kept: Tensor | None = None) -> list[Tensor]:
    """Outputs of all blocks for clips (B, 3, T, H, W), of the kept tokens (B, K) alone where there are any."""
    p, tube = a["patch_size"], a["tubelet_size"]
    x = F.conv3d(video, s["patch_embed.proj.weight"], s["patch_embed.proj.bias"], (tube, p, p))
    places = torch.stack(torch.meshgrid(*(torch.arange(n) for n in x.shape[2:]), indexing="ij")).flatten(1)  # (3, N)
    x = x.flatten(2).mT
    if kept is not None:
        one = [one_tower(s, a, y[rows][None], places[:, rows]) for y, rows in zip(x, kept, strict=True)]
        return [torch.cat(level) for level in zip(*one, strict=True)]
    return one_tower(s, a, x, places)


def one_tower(s: r.State, a: dict[str, Any], x: Tensor, places: Tensor) -> list[Tensor]:
    """The blocks on tokens with places."""
    outs = []
    for i in range(a["depth"]):
        x = jepa_block(s, f"blocks.{i}", x, a["num_heads"], places, 1e-6)
        outs.append(x)
    return outs


def vjepa2(case: Case) -> Any:
    """Tokens of clips of all sizes, of some tokens, of an image, and of inner layers."""
    a, s = case.arch, r.doubled(case.state())
    tokens = lambda x, **kept: r.norm(s, "norm", jepa_tower(s, a, x, **kept)[-1], 1e-6)  # noqa: E731
    found = {"tokens": tokens(r.given(case, "video")), "tokens_other": tokens(r.given(case, "video_other"))}
    image = r.given(case)[:, :, None].expand(-1, -1, a["tubelet_size"], -1, -1)
    found["tokens_image"] = tokens(image)
    found["tokens_masked"] = tokens(r.given(case, "video"), kept=torch.tensor(case.json["masks"]))
    levels = jepa_tower(s, a, r.given(case, "video"))
    found |= {f"layer{i}": r.norm(s, "norm", levels[i], 1e-6) for i in a["out_layers"]}
    return found, {"grad:": (r.cotangent(case, found["tokens"]), s)}


def probe_shapes(d: int, depth: int, ratio: float, classes: int) -> r.Shapes:
    """The attentive probe."""
    hidden, cross = int(d * ratio), "pooler.cross_attention_block"
    state: r.Shapes = {"pooler.query_tokens": [1, 1, d]}
    state |= r.normed(f"{cross}.norm1", d) | r.normed(f"{cross}.norm2", d)
    state |= r.affine(f"{cross}.xattn.q", d, d) | r.affine(f"{cross}.xattn.kv", 2 * d, d)
    state |= r.affine(f"{cross}.mlp.fc1", hidden, d) | r.affine(f"{cross}.mlp.fc2", d, hidden)
    for i in range(depth - 1):
        state |= jepa_block_shapes(f"pooler.blocks.{i}", d, hidden)
    return state | r.affine("linear", classes, d)


def pooled(s: r.State, x: Tensor, depth: int, heads: int) -> Tensor:
    """The probe's feature of tokens (B, N, D)."""
    cross = "pooler.cross_attention_block"
    for i in range(depth - 1):
        x = jepa_block(s, f"pooler.blocks.{i}", x, heads, None, 1e-5)
    k, v = r.linear(s, f"{cross}.xattn.kv", r.norm(s, f"{cross}.norm1", x)).chunk(2, -1)
    query = s["pooler.query_tokens"].expand(len(x), -1, -1)
    query = query + r.attention(r.linear(s, f"{cross}.xattn.q", query), k, v, heads)
    y = r.gelu(r.linear(s, f"{cross}.mlp.fc1", r.norm(s, f"{cross}.norm2", query)))
    return (query + r.linear(s, f"{cross}.mlp.fc2", y))[:, 0]


def rates_of(about: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Rate and decay of steps 1, 2, ..."""
    ipe, total, warm = about["ipe"], int(about["epochs"] * about["ipe"]), int(about["warmup"] * about["ipe"])
    lr, final, decay, last = (about[k] for k in ("lr", "final_lr", "weight_decay", "final_weight_decay"))
    rates, decays = [], []
    for t in range(1, total + 1):
        if t < warm:
            rates.append(about["start_lr"] + t / max(1, warm) * (lr - about["start_lr"]))
        else:
            progress = (t - warm) / max(1, total - warm)
            rates.append(max(final, final + (lr - final) * 0.5 * (1 + math.cos(math.pi * progress))))
        value = last + (decay - last) * 0.5 * (1 + math.cos(math.pi * t / total))
        decays.append(max(last, value) if last <= decay else min(last, value))
    assert ipe
    return torch.tensor(rates).double(), torch.tensor(decays).double()


def vjepa2_probe(case: Case) -> Any:
    """Tokens, probes of every depth, and two steps."""
    a, enc = case.arch, case.arch["encoder"]
    shapes = {k.removeprefix("encoder."): v for k, v in case.json["state"].items() if k.startswith("encoder.")}
    tower = r.doubled({k: torch.from_numpy(v) for k, v in fill_state(shapes, case.seed).items()})
    views: list[Tensor] = []
    found: dict[str, Tensor] = {}
    for v in range(a["views"]):
        clips = [jepa_tower(tower, enc, r.given(case, f"clip{c}_view{v}")) for c in range(a["segments"])]
        normed = [[r.norm(tower, "norm", x, 1e-6).detach() for x in levels] for levels in clips]
        views.append(torch.cat([levels[-1] for levels in normed], 1))
        if v == 0:
            found["features_multilevel_view0"] = torch.cat(
                [torch.cat([x[i] for i in a["out_layers"]], 1) for x in normed], 1
            )
    found["features_view0"] = views[0]
    losses = {}
    for i, about in enumerate(case.json["schedules"]):
        found[f"schedule{i}_lr"], found[f"schedule{i}_wd"] = rates_of(about)
    for tag, about in case.json["variants"].items():
        arrays, loss = one_probe(case, tag, about, views)
        found |= arrays
        losses[f"grad:{tag}."] = loss
    return found, losses


def one_probe(case: Case, tag: str, about: dict[str, Any], views: list[Tensor]) -> Any:
    """One probe."""
    a, labels, prefix = case.arch, torch.tensor(case.json["labels"]), about["prefix"]
    own = {k: v for k, v in case.json["state"].items() if k.startswith(prefix)}
    s = {k.removeprefix(prefix): torch.from_numpy(v).double() for k, v in fill_state(own, case.seed).items()}
    s = {k: v.requires_grad_() for k, v in s.items()}
    run = lambda w: [r.linear(w, "linear", pooled(w, x, about["depth"], a["probe_heads"])) for x in views]  # noqa: E731
    logits = torch.stack(run(s))
    each = torch.stack([F.cross_entropy(x, labels) for x in logits])
    found = {f"{tag}_logits": logits, f"{tag}_probs": logits.softmax(-1).mean(0), f"{tag}_loss": each}
    found[f"{tag}_pooled_view0"] = pooled(s, views[0], about["depth"], a["probe_heads"])
    rates, decays = rates_of(case.json["schedules"][0])
    now = {k: v.detach().clone() for k, v in s.items()}
    first, second = ({k: torch.zeros_like(v) for k, v in s.items()} for _ in range(2))
    for t in (1, 2):
        now = {k: v.detach().requires_grad_() for k, v in now.items()}
        total = torch.stack([F.cross_entropy(x, labels) for x in run(now)]).sum()
        grads = torch.autograd.grad(total, list(now.values()))
        for (k, v), g in zip(now.items(), grads, strict=True):
            first[k] = 0.9 * first[k] + 0.1 * g
            second[k] = 0.999 * second[k] + 0.001 * g * g
            step = first[k] / (1 - 0.9**t) / ((second[k] / (1 - 0.999**t)).sqrt() + 1e-8)
            now[k] = v.detach() * (1 - rates[t - 1] * decays[t - 1]) - rates[t - 1] * step
    found[f"{tag}_logits_after2steps"] = torch.stack(run(now))
    return found, (each.sum(), s)


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
