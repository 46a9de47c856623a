"""V-JEPA 2 and 2.1, and 2's attentive probe, from their formulas; official keys."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.parity import _reference as r
from tests.parity.core import Case
from tests.parity.fill import fill_state


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
    """Turn each pair of x (..., m) by the angles of places (N,): tiled as released in 2.0, or in place."""
    m = x.shape[-1]
    angle = places[:, None].double() * 10000.0 ** (-torch.arange(m // 2).double() / (m / 2))  # (N, m/2)
    all_angles = torch.cat([angle, angle], 1) if tiled else angle.repeat_interleave(2, 1)
    out = torch.empty_like(x)
    for i in range(m // 2):
        first, second, a, b = x[..., 2 * i], x[..., 2 * i + 1], all_angles[:, 2 * i], all_angles[:, 2 * i + 1]
        out[..., 2 * i] = first * a.cos() - second * a.sin()
        out[..., 2 * i + 1] = second * b.cos() + first * b.sin()
    return out


def jepa_block(
    s: r.State, at: str, x: Tensor, heads: int, places: Tensor | None, eps: float, tiled: bool = True
) -> Tensor:
    """A block; queries and keys turn by `places` (3, N) where there are any."""
    q, k, v = r.linear(s, f"{at}.attn.qkv", r.norm(s, f"{at}.norm1", x, eps)).chunk(3, -1)
    if places is not None:
        m = 2 * (x.shape[-1] // heads // 3 // 2)
        outs = []
        for y in (q, k):
            parts = []
            for head in y.chunk(heads, -1):
                axes = [turned(head[..., n * m : n * m + m], places[n], tiled) for n in range(3)]
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


def later_shapes(a: dict[str, Any], hidden: int) -> r.Shapes:
    """V-JEPA 2.1's encoder."""
    d, p, state = a["embed_dim"], a["patch_size"], jepa_shapes(a, hidden)
    state = {k: v for k, v in state.items() if not k.startswith("norm.")}
    state |= {"patch_embed_img.proj.weight": [d, 3, 1, p, p], "patch_embed_img.proj.bias": [d]}
    state |= {"img_mod_embed": [1, 1, d], "video_mod_embed": [1, 1, d]}
    for n in range(4):
        state |= r.normed(f"norms_block.{n}", d)
    return state


def later_tower(s: r.State, a: dict[str, Any], video: Tensor, kept: Tensor | None = None) -> list[Tensor]:
    """The four normed levels of clips (B, 3, T, H, W); an image has one frame."""
    p, image = a["patch_size"], video.shape[2] == 1
    name, tube = ("patch_embed_img", 1) if image else ("patch_embed", a["tubelet_size"])
    x = F.conv3d(video, s[f"{name}.proj.weight"], s[f"{name}.proj.bias"], (tube, p, p))
    places = torch.stack(torch.meshgrid(*(torch.arange(n) for n in x.shape[2:]), indexing="ij")).flatten(1).double()
    if a["interpolate_rope"]:
        side = {16: 16, 14: 18}[p]
        for axis, count in ((1, x.shape[3]), (2, x.shape[4])):
            places[axis] = places[axis] * (side - 1) / max(count - 1, 1)
    x = x.flatten(2).mT + s["img_mod_embed" if image else "video_mod_embed"]
    rows = [slice(None)] * len(x) if kept is None else list(kept)
    found = []
    for clip, own in zip(x, rows, strict=True):
        y, levels = clip[own][None], []
        for i in range(a["depth"]):
            y = jepa_block(s, f"blocks.{i}", y, a["num_heads"], places[:, own], 1e-6, False)
            if i in a["hierarchical_layers"]:
                levels.append(r.norm(s, f"norms_block.{len(levels)}", y, 1e-6))
        found.append(levels)
    return [torch.cat(level) for level in zip(*found, strict=True)]


def vjepa2_1(case: Case) -> Any:
    """Tokens of clips, of some tokens, of an image; all levels."""
    a, s = case.arch, r.doubled(case.state())
    levels = {k: later_tower(s, a, r.given(case, k)) for k in ("video", "video_other", "image")}
    found = {"tokens": levels["video"][-1], "tokens_other": levels["video_other"][-1]}
    found |= {"tokens_image": levels["image"][-1], "hier_image": torch.cat(levels["image"], -1)}
    found["hier_video"] = torch.cat(levels["video"], -1)
    found["tokens_masked"] = later_tower(s, a, r.given(case, "video"), torch.tensor(case.json["masks"]))[-1]
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
