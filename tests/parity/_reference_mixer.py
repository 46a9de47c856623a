"""EPCL's indoor segmentation, a PointMixer U-Net around CLIP's blocks, from its formulas in float64; official keys."""

from typing import Any

import torch
from torch import Tensor

from tests.parity import _reference as r
from tests.parity._reference_detr import farthest
from tests.parity._reference_epcl import mlp, nearest, shared_shapes, with_tasks
from tests.parity.core import Case


def layer(name: str, outs: int, ins: int, bias: bool = True, last: int = 0) -> r.Shapes:
    """A linear layer, maybe of a convolution of one point."""
    weight = [outs, ins, *[1] * last]
    return {f"{name}.weight": weight} | ({f"{name}.bias": [outs]} if bias else {})


def mixer_shapes(at: str, c: int, share: int, k: int) -> r.Shapes:
    """A residual block of two mixers."""
    one, two, small = f"{at}.transformer2.0", f"{at}.transformer2.1", c // share
    state = layer(f"{at}.linear1", c, c, False) | layer(f"{at}.linear3", c, c, False)
    for n in (1, 2, 3):
        state |= r.batch_normed(f"{at}.bn{n}", c)
    state |= layer(f"{one}.channelMixMLPs01.0", k, 3 + c)
    state |= {f"{one}.channelMixMLPs01.2.bilinear.weight": [k, k, k], f"{one}.channelMixMLPs01.2.bilinear.bias": [k]}
    for place, norm in ((one, "1.1"), (two, "1")):
        state |= layer(f"{place}.linear_p.0", 3, 3, False) | r.batch_normed(f"{place}.linear_p.{norm}", 3)
        state |= layer(f"{place}.linear_p.3", c, 3)
    weights = f"{one}.channelMixMLPs02"
    state |= layer(f"{weights}.1", c, 2 * k, False, 1) | r.batch_normed(f"{weights}.2", c)
    state |= layer(f"{weights}.4", small, c, False, 1) | r.batch_normed(f"{weights}.5", small)
    state |= layer(f"{weights}.7", small, small, True, 1) | layer(f"{one}.channelMixMLPs03", c, c)
    return state | layer(f"{two}.linear.0", small, 2 * c) | layer(f"{two}.linear_x.0", small, c)


def shrinker_shapes(at: str, c: int) -> r.Shapes:
    """Scores of a transition."""
    at = f"{at}.channel_shrinker"
    return layer(f"{at}.0", c, 3 + c, False) | r.batch_normed(f"{at}.1", c) | layer(f"{at}.3", 1, c)


def segmenter_shapes(a: dict[str, Any], hidden: int) -> r.Shapes:
    """The whole network."""
    state, ins, last = {}, a["c"], len(a["planes"])
    for i, (c, k, n, stride) in enumerate(zip(a["planes"], a["nsample"], a["blocks"], a["stride"], strict=True), 1):
        at = f"enc{i}.0"
        state |= layer(f"{at}.linear2.0", c, ins, False) | r.batch_normed(f"{at}.linear2.1", c)
        state |= shrinker_shapes(at, ins) if stride > 1 else {}
        for j in range(1, n):
            state |= mixer_shapes(f"enc{i}.{j}", c, a["share_planes"], k)
        at, ins = f"dec{i}.0", c
        state |= layer(f"{at}.linear1.0", c, 2 * c if i == last else c, False) | r.batch_normed(f"{at}.linear1.1", c)
        if i == last:
            state |= layer(f"{at}.linear2.0", c, c)
        else:
            above = a["planes"][i]
            state |= layer(f"{at}.linear2.0", c, above, False) | r.batch_normed(f"{at}.linear2.1", c)
            state |= shrinker_shapes(at, above)
        state |= mixer_shapes(f"dec{i}.1", c, a["share_planes"], k)
    first, d = a["planes"][0], a["width"]
    state |= layer("cls.0", first, first) | r.batch_normed("cls.1", first) | layer("cls.3", a["classes"], first)
    state |= {"transformer.cls_token": [d]} | shared_shapes("transformer.", d, a["num_task_tokens"])
    for i in range(a["clip_layers"]):
        at = f"transformer.blocks.resblocks.{i}"
        state |= r.multihead(f"{at}.attn", d) | r.normed(f"{at}.ln_1", d) | r.normed(f"{at}.ln_2", d)
        state |= r.affine(f"{at}.mlp.c_fc", hidden, d) | r.affine(f"{at}.mlp.c_proj", d, hidden)
    state |= layer("input_layer.0", d, ins) | r.batch_normed("input_layer.1", d)
    return state | layer("output_layer.0", ins, d) | r.batch_normed("output_layer.1", ins)


def lin(s: r.State, at: str, x: Tensor) -> Tensor:
    """A linear layer, whatever its weight's last axes of one."""
    weight = s[f"{at}.weight"]
    return x @ weight.reshape(weight.shape[:2]).T + s.get(f"{at}.bias", 0.0)


def norm(s: r.State, at: str, x: Tensor) -> Tensor:
    """Batch norm of the last axis."""
    return r.batch_norm(s, at, x.movedim(-1, 1)).movedim(1, -1)


def position(s: r.State, at: str, key: str, offset: Tensor) -> Tensor:
    """Linear, norm, ReLU, linear."""
    return lin(s, f"{at}.linear_p.3", norm(s, f"{at}.linear_p.{key}", lin(s, f"{at}.linear_p.0", offset)).relu())


def neighbors(query: list[Tensor], points: list[Tensor], k: int) -> Tensor:
    """Packed indices; a cloud of fewer than k points is filled up with its first."""
    found, start = [], 0
    for q, p in zip(query, points, strict=True):
        index = nearest(q, p, k)[1]
        found.append(torch.cat([index, index.new_zeros(len(index), k - index.shape[1])], 1) + start)
        start += len(p)
    return torch.cat(found)


def grouped_softmax(score: Tensor, index: Tensor, size: int) -> Tensor:
    """Over the rows (m, C) of one index."""
    out = torch.zeros_like(score)
    for j in range(size):
        if (rows := (index == j).nonzero()[:, 0]).numel():
            out = out.index_put((rows,), score[rows].softmax(0))
    return out


def grouped_sum(values: Tensor, index: Tensor, size: int) -> Tensor:
    """Over the rows of one index."""
    return torch.stack([values[index == j].sum(0) for j in range(size)])


def mixed(s: r.State, at: str, a: dict[str, Any], coord: Tensor, x: Tensor, near: Tensor) -> Tensor:
    """A residual block."""
    one, two, (n, k) = f"{at}.transformer2.0", f"{at}.transformer2.1", near.shape
    offset, share = coord[near] - coord[:, None], a["share_planes"]
    y = norm(s, f"{at}.bn1", lin(s, f"{at}.linear1", x)).relu()
    u = lin(s, f"{one}.channelMixMLPs01.0", torch.cat([offset, y[near]], -1)).relu()
    pair = f"{one}.channelMixMLPs01.2.bilinear"
    e = torch.einsum("nki,oij,nkj->nko", u, s[f"{pair}.weight"], u) + s[f"{pair}.bias"]
    pe = position(s, one, "1.1", offset)
    bins = torch.stack([pe[..., b::k].sum(-1) for b in range(k)], -1)
    w, at2 = torch.cat([e, bins], -1), f"{one}.channelMixMLPs02"
    w = norm(s, f"{at2}.2", lin(s, f"{at2}.1", w)).relu()
    w = lin(s, f"{at2}.7", norm(s, f"{at2}.5", lin(s, f"{at2}.4", w)).relu()).softmax(1)
    value = lin(s, f"{one}.channelMixMLPs03", y)[near] + pe
    pairs = value * w.repeat(1, 1, share)  # channel c has weight c mod C/share
    h = lin(s, f"{two}.linear.0", torch.cat([position(s, two, "1", offset), pairs], -1)).relu().flatten(0, 1)
    sent = lin(s, f"{two}.linear_x.0", pairs).relu().flatten(0, 1) * grouped_softmax(h, near.flatten(), n)
    y = pairs.sum(1) + grouped_sum(sent, near.flatten(), n).repeat(1, share)
    y = norm(s, f"{at}.bn2", y).relu()
    return (norm(s, f"{at}.bn3", lin(s, f"{at}.linear3", y)) + x).relu()


def score(s: r.State, at: str, offset: Tensor, x: Tensor) -> Tensor:
    """Scores of a transition."""
    at = f"{at}.channel_shrinker"
    return lin(s, f"{at}.3", norm(s, f"{at}.1", lin(s, f"{at}.0", torch.cat([offset, x], -1))).relu())


def block(s: r.State, at: str, x: Tensor) -> Tensor:
    """Linear, norm, ReLU."""
    return norm(s, f"{at}.1", lin(s, f"{at}.0", x)).relu()


def bottleneck(s: r.State, case: Case, clouds: list[Tensor], x: Tensor) -> Tensor:
    """CLIP's blocks over the tokens of each cloud, added."""
    a, outs = case.arch, []
    for points, own in zip(clouds, block(s, "input_layer", x).split([len(p) for p in clouds]), strict=True):
        place = points - points.mean(0)
        place = place / place.square().sum(-1).sqrt().max()
        first = s["transformer.cls_token"] + r.given(case, "cls_pos")
        tokens = torch.cat([first[None], own + mlp(s, "transformer.pos_embed", place)])
        tokens = with_tasks(s, "transformer.", tokens)[None]
        for i in range(a["clip_layers"]):
            tokens = r.clip_block(s, f"transformer.blocks.resblocks.{i}", tokens, a["clip_heads"])
        outs.append(tokens[0, 1 : 1 + len(points)])
    return x + block(s, "output_layer", torch.cat(outs))


def segmenter(case: Case) -> Any:
    """Logits of every point, and the first far points."""
    a, s, found = case.arch, r.doubled(case.state()), {}
    every, sizes = r.given(case, "coord").abs(), a["cloud_sizes"]
    x = torch.cat([every, r.given(case, "feat").sigmoid()], 1) if a["c"] > 3 else every
    clouds, levels, last = list(every.split(sizes)), [], len(a["planes"])
    for i in range(last):
        at, stride, k = f"enc{i + 1}.0", a["stride"][i], a["nsample"][i]
        if stride == 1:
            x = block(s, f"{at}.linear2", x)
        else:
            counts = [len(p) // stride for p in clouds]
            counts = [min(counts)] * len(counts) if i == last - 1 else counts
            kept = [farthest(p, n) for p, n in zip(clouds, counts, strict=True)]
            starts = torch.tensor([0, *[len(p) for p in clouds[:-1]]]).cumsum(0)
            found.setdefault("fps4_first", torch.cat([j + int(b) for j, b in zip(kept, starts, strict=True)]))
            few = [p[j] for p, j in zip(clouds, kept, strict=True)]
            near = neighbors(few, clouds, k)
            offset = torch.cat(clouds)[near] - torch.cat(few)[:, None]
            x = (block(s, f"{at}.linear2", x)[near] * score(s, at, offset, x[near]).softmax(1)).sum(1)
            clouds = few
        near = neighbors(clouds, clouds, k)
        for j in range(1, a["blocks"][i]):
            x = mixed(s, f"enc{i + 1}.{j}", a, torch.cat(clouds), x, near)
        levels.append((clouds, x, near))
    x = bottleneck(s, case, clouds, x)
    for i in range(last, 0, -1):
        fine, skip, near = levels[i - 1]
        at, n = f"dec{i}.0", sum(len(p) for p in fine)
        if i == last:
            mean = torch.cat([t.mean(0).expand(len(t), -1) for t in x.split([len(p) for p in fine])])
            x = block(s, f"{at}.linear1", torch.cat([x, lin(s, f"{at}.linear2.0", mean).relu()], 1))
        else:
            coarse, k = levels[i][0], a["nsample"][i - 1]
            around = neighbors(coarse, fine, k)
            offset = torch.cat(fine)[around] - torch.cat(coarse)[:, None]
            index = around.flatten()
            w = grouped_softmax(score(s, at, offset, x[:, None].expand(-1, k, -1)).flatten(0, 1), index, n)
            value = block(s, f"{at}.linear2", x).repeat_interleave(k, 0)
            x = grouped_sum(value * w, index, n) + block(s, f"{at}.linear1", skip)
        x = mixed(s, f"dec{i}.1", a, torch.cat(fine), x, near)
    logits = lin(s, "cls.3", norm(s, "cls.1", lin(s, "cls.0", x)).relu())
    own = {k: v for k, v in s.items() if "resblocks" not in k and "cls_token" not in k and r.frozen(s, [k])}
    return found | {"logits_tokenattn": logits}, {"tokenattn_grad:": (r.cotangent(case, logits), own)}
