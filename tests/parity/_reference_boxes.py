"""V-DETR's decoder, matcher and losses from their formulas in float64; official keys. True boxes stand upright."""

import itertools
import math
from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from tests.parity import _reference as r
from tests.parity.core import Case

X, Y, Z = (1, 1, -1, -1) * 2, (1, -1, -1, 1) * 2, (-1,) * 4 + (1,) * 4  # vertices in half sizes


def mlp_shapes(at: str, widths: list[int]) -> r.Shapes:
    """Convolutions of one point with norms between."""
    state: r.Shapes = {}
    for n, (a, b) in enumerate(itertools.pairwise(widths)):
        last = n == len(widths) - 2
        state |= {f"{at}.layers.{4 * n}.weight": [b, a, 1]}
        state |= {f"{at}.layers.{4 * n}.bias": [b]} if last else r.batch_normed(f"{at}.layers.{4 * n + 1}", b)
    return state


def vdetr_shapes(a: dict[str, Any], ins: int) -> r.Shapes:
    """Official keys of a decoder."""
    d, ffn, c, bins = a["dim"], a["ffn"], a["num_semcls"], a["num_angle_bin"]
    state: r.Shapes = {"encoder_to_decoder_projection.layers.0.weight": [d, ins, 1]}
    state |= r.batch_normed("encoder_to_decoder_projection.layers.1", d) | mlp_shapes(
        "decoder.pointcls_heads", [d, d, d, c]
    )
    state |= r.normed("decoder.first_layer.norm", d) | r.affine("decoder.first_layer.linear1", ffn, d)
    state |= r.affine("decoder.first_layer.linear2", d, ffn) | r.normed("decoder.norm", d)
    state |= {"decoder.query_embed.weight": [a["nqueries"], d]} if "random" in a["q_content"] else {}
    for i in range(a["dec_nlayers"] - 1):
        at = f"decoder.layers.{i}"
        for name, ins in (("query", 6), ("key", 3))[: 1 + a["pos_for_key"]]:
            p = f"decoder.{name}_pos_projection.{i}.position_embedding_head"
            state |= {f"{p}.0.weight": [d, ins, 1], f"{p}.0.bias": [d], f"{p}.3.weight": [d, d, 1], f"{p}.3.bias": [d]}
            state |= r.batch_normed(f"{p}.1", d)
        state |= (
            r.multihead(f"{at}.self_attn", d) | r.affine(f"{at}.linear1", ffn, d) | r.affine(f"{at}.linear2", d, ffn)
        )
        for n in (1, 2, 3):
            state |= r.normed(f"{at}.norm{n}", d)
        at += ".multihead_attn"
        state |= r.affine(f"{at}.q", d, d) | r.affine(f"{at}.proj", d, d)
        state |= r.affine(f"{at}.k", d // a["nhead"], d) | r.affine(f"{at}.v", d // a["nhead"], d)
        for v in range(8):
            state |= r.affine(f"{at}.cpb_mlps.{v}.0", a["rpe_dim"], 3)
            state[f"{at}.cpb_mlps.{v}.2.weight"] = [a["nhead"], a["rpe_dim"]]
    for stage in range(a["dec_nlayers"]):
        outs = {"sem_cls_head": 1 if a["is_bilable"] and stage == 0 else c, "center_head": 3, "size_head": 3,
                "angle_cls_head": bins, "angle_residual_head": bins}  # fmt: skip
        for head, width in outs.items():
            state |= mlp_shapes(f"decoder.mlp_heads.{stage}.{head}", [d, d, d, width])
    return state


def conv(s: r.State, at: str, x: Tensor) -> Tensor:
    """A convolution of one point on (B, N, C)."""
    y = x @ s[f"{at}.weight"][..., 0].T
    return y + s[f"{at}.bias"] if f"{at}.bias" in s else y


def bn(s: r.State, at: str, x: Tensor) -> Tensor:
    """Batch norm of the last axis."""
    return r.batch_norm(s, at, x.mT).mT


def mlp(s: r.State, at: str, x: Tensor) -> Tensor:
    """Two hidden layers with norms, and the last."""
    for n in (0, 4):
        x = bn(s, f"{at}.layers.{n + 1}", conv(s, f"{at}.layers.{n}", x)).relu()
    return conv(s, f"{at}.layers.8", x)


def rotation(angle: Tensor) -> Tensor:
    """About the camera's y axis (..., 3, 3)."""
    c, s, o, i = angle.cos(), angle.sin(), torch.zeros_like(angle), torch.ones_like(angle)
    return torch.stack([torch.stack([c, o, s], -1), torch.stack([o, i, o], -1), torch.stack([-s, o, c], -1)], -2)


def camera(x: Tensor) -> Tensor:
    """Depth axes (x, y, z) as the camera's (x, -z, y)."""
    return torch.stack([x[..., 0], -x[..., 2], x[..., 1]], -1)


def depth(x: Tensor) -> Tensor:
    """And back."""
    return torch.stack([x[..., 0], x[..., 2], -x[..., 1]], -1)


def corners(boxes: Tensor) -> Tensor:
    """The eight vertices of boxes (..., 7) in the camera's axes (..., 8, 3)."""
    half = torch.stack([torch.tensor(v).double() for v in (X, Y, Z)], -1) * boxes[..., None, 3:6] / 2
    turned = camera(half) @ rotation(boxes[..., 6]).mT
    return turned + camera(boxes[..., None, :3])


def bias(s: r.State, a: dict[str, Any], at: str, boxes: Tensor, points: Tensor) -> Tensor:
    """The bias (B, H, Q, P) of offsets between vertices of boxes (B, Q, 7) and points (B, P, 3)."""
    _, reach, n = a["rpe_quant"].split("_")
    reach, n = float(reach), int(n)
    axis = torch.linspace(-reach, reach, n).double()
    cells = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1)  # (x, y, z)
    offset = depth(corners(boxes))[:, :, :, None] - points[:, None, None]  # (B, Q, 8, P, 3)
    if a["angle_type"] == "object_coords" and a["num_angle_bin"] > 1:
        offset = depth((camera(offset)[..., None, :] @ rotation(boxes[..., 6])[:, :, None, None])[..., 0, :])
    u = offset.sign() * (a["log_scale"] * offset.abs() + 1).log2() / 3
    place = ((u / reach + 1) * n - 1) / 2
    total = torch.zeros(())
    for v in range(8):
        hidden = r.linear(s, f"{at}.cpb_mlps.{v}.0", cells).relu()
        table = hidden @ s[f"{at}.cpb_mlps.{v}.2.weight"].T  # (n, n, n, H)
        here, found = place[:, :, v], 0.0
        low = here.floor()
        for corner in np.ndindex(2, 2, 2):
            at_node = low + torch.tensor(corner)
            share = (1 - (here - at_node).abs()).prod(-1)
            inside = ((at_node >= 0) & (at_node < n)).all(-1)
            gx, gy, gz = at_node.clamp(0, n - 1).long().unbind(-1)
            found = found + (table[gz, gy, gx] * (share * inside)[..., None])  # x runs along the last axis
        total = total + found
    return total.movedim(-1, 1)


def stage_of(s: r.State, a: dict[str, Any], i: int, x: Tensor, center: Tensor, size: Tensor) -> dict[str, Tensor]:
    """Boxes of one stage relative to their anchors."""
    x, at, bins = r.norm(s, "decoder.norm", x), f"decoder.mlp_heads.{i}", a["num_angle_bin"]
    raw = {k: mlp(s, f"{at}.{k}_head", x) for k in ("sem_cls", "center", "size", "angle_cls", "angle_residual")}
    bin_ = raw["angle_cls"].argmax(-1, keepdim=True)
    angle = bin_[..., 0] * 2 * math.pi / bins + raw["angle_residual"].gather(-1, bin_)[..., 0] * math.pi / bins
    angle = torch.where(angle > math.pi, angle - 2 * math.pi, angle) if bins > 1 else torch.zeros_like(angle)
    out = {"center": center + raw["center"] * size, "size": size * raw["size"].exp(), "angle": angle,
        "logits": raw["sem_cls"], "offset": raw["center"], "log": raw["size"], "bins": raw["angle_cls"],
        "residual": raw["angle_residual"], "anchor": center, "anchor_size": size}  # fmt: skip
    return out | {"boxes": torch.cat([out["center"], out["size"], angle[..., None]], -1)}


def vertex_attention(s: r.State, a: dict, at: str, x: Tensor, memory: Tensor, boxes: Tensor, points: Tensor) -> Any:
    """Queries of all heads, one key and value."""
    d = a["dim"] // a["nhead"]
    q = r.linear(s, f"{at}.q", x).unflatten(-1, (a["nhead"], d)).transpose(1, 2) * d**-0.5
    k, v = r.linear(s, f"{at}.k", memory), r.linear(s, f"{at}.v", memory)
    weights = (q @ k[:, None].mT + bias(s, a, at, boxes, points)).softmax(-1)
    return r.linear(s, f"{at}.proj", (weights @ v[:, None]).transpose(1, 2).flatten(2)), weights


def decoded(s: r.State, a: dict[str, Any], points: Tensor, features: Tensor) -> Any:
    """All stages, the class logits of points, and the first layer's attention."""
    at = "encoder_to_decoder_projection.layers"
    memory = bn(s, f"{at}.1", conv(s, f"{at}.0", features)).relu()
    logits = mlp(s, "decoder.pointcls_heads", memory)
    sizes = torch.ones(a["num_semcls"], 3).double() * a.get("hard_anchor_size", 1.0)
    sizes = sizes if a["hard_anchor"] else torch.tensor(a["mean_size"]).double()
    f = "decoder.first_layer"
    z = r.norm(s, f"{f}.norm", memory)
    h = z + r.linear(s, f"{f}.linear2", r.linear(s, f"{f}.linear1", z).relu())
    stages = [stage_of(s, a, 0, h, points, sizes[logits.argmax(-1)])]
    count = min(a["nqueries"], points.shape[1])
    best = stages[0]["logits"].sigmoid().amax(-1).argsort(descending=True)[:, :count, None]
    boxes = stages[0]["boxes"].detach().gather(1, best.expand(-1, -1, 7))
    center, size = boxes[..., :3], boxes[..., 3:6]
    learned, sampled = s.get("decoder.query_embed.weight"), h.gather(1, best.expand(-1, -1, h.shape[-1]))
    x = {"zero": torch.zeros_like(sampled), "sample": sampled}.get(a["q_content"])
    if x is None:
        x = learned[:count].expand(len(sampled), -1, -1) + (sampled if a["q_content"] == "random_add" else 0)
    seen = None
    for i in range(a["dec_nlayers"] - 1):
        at = f"decoder.layers.{i}"
        position = positions(s, f"decoder.query_pos_projection.{i}", boxes[..., :6])
        keys = memory + positions(s, f"decoder.key_pos_projection.{i}", points) if a["pos_for_key"] else memory
        y = r.norm(s, f"{at}.norm1", x)
        x = x + r.packed(s, f"{at}.self_attn", y + position, y + position, y, a["nhead"])
        y = r.norm(s, f"{at}.norm2", x) + position
        y, weights = vertex_attention(s, a, f"{at}.multihead_attn", y, keys, boxes, points)
        x, seen = x + y, weights if seen is None else seen
        x = x + r.linear(s, f"{at}.linear2", r.linear(s, f"{at}.linear1", r.norm(s, f"{at}.norm3", x)).relu())
        stages.append(stage_of(s, a, i + 1, x, center, size))
        boxes = stages[-1]["boxes"].detach()
    return stages, logits, seen


def positions(s: r.State, at: str, x: Tensor) -> Tensor:
    """Linear, norm, ReLU, linear."""
    at = f"{at}.position_embedding_head"
    return conv(s, f"{at}.3", bn(s, f"{at}.1", conv(s, f"{at}.0", x)).relu())


def focal(logits: Tensor, hot: Tensor) -> Tensor:
    """Focal loss, alpha 0.25 and gamma 2, summed."""
    p = logits.sigmoid()
    return -(0.25 * hot * (1 - p) ** 2 * p.log() + 0.75 * (1 - hot) * p**2 * (1 - p).log()).sum()


def giou(one: Tensor, two: Tensor) -> Tensor:
    """As released where no true box is turned: corner 2 of a footprint is its least, corner 0 its largest."""
    here, there = corners(one), corners(two)
    wide = torch.minimum(here[..., 0, ::2], there[..., 0, ::2]) - torch.maximum(here[..., 2, ::2], there[..., 2, ::2])
    top, base = (torch.minimum(here.amax(-2), there.amax(-2)), torch.maximum(here.amin(-2), there.amin(-2)))
    shared = wide.clamp(min=0).prod(-1) * (top - base)[..., 1].clamp(min=0)
    hull = (torch.maximum(here.amax(-2), there.amax(-2)) - torch.minimum(here.amin(-2), there.amin(-2))).prod(-1)
    union = one[..., 3:6].prod(-1) + two[..., 3:6].prod(-1) - shared
    return shared / union - (hull - union) / hull


def stage_losses(a: dict[str, Any], stage: dict[str, Tensor], true: list[Any], divisor: float) -> Any:
    """Weighted terms and assignment of one stage; `true` has boxes and labels of each cloud."""
    w, m = a["loss_weights"], a["matcher"]
    terms = dict.fromkeys(("sem_cls", "angle_cls", "angle_reg", "center", "size", "giou"), torch.zeros(()).double())
    index, matched = torch.zeros(stage["logits"].shape[:2]).long(), torch.zeros(stage["logits"].shape[:2])
    hot = torch.zeros_like(stage["logits"])
    for b, (boxes, label) in enumerate(true):
        anchor, size = stage["anchor"][b][:, None], stage["anchor_size"][b][:, None] + 1e-5
        offset, log = (boxes[None, :, :3] - anchor) / size, ((boxes[None, :, 3:6] + 1e-5) / size).log()
        over_b = giou(stage["boxes"][b][:, None], boxes[None])
        p = stage["logits"][b].sigmoid()[:, label]
        cost = 0.25 * (1 - p) ** 2 * -(p + 1e-8).log() - 0.75 * p**2 * -(1 - p + 1e-8).log()
        cost = m["cls"] * cost - m["giou"] * over_b
        cost = cost + m["center"] * (stage["offset"][b][:, None] - offset).abs().sum(-1)
        cost = cost + m["size"] * (stage["log"][b][:, None] - log).abs().sum(-1)
        rows, columns = linear_sum_assignment(cost.detach().numpy())
        index[b, rows], matched[b, rows] = torch.from_numpy(columns), 1
        hot[b, rows, label[columns]] = 1
        terms["center"] = terms["center"] + (stage["offset"][b][rows] - offset[rows, columns]).abs().sum()
        terms["size"] = terms["size"] + (stage["log"][b][rows] - log[rows, columns]).abs().sum()
        terms["giou"] = terms["giou"] + (1 - over_b[rows, columns]).sum()
        bins = stage["bins"][b][rows]
        terms["angle_cls"] = terms["angle_cls"] - bins.log_softmax(-1)[:, 0].sum()  # no yaw: bin 0, residual 0
        residual = stage["residual"][b][rows][:, 0].abs()
        huber = torch.where(residual < 1, 0.5 * residual**2, residual - 0.5)
        terms["angle_reg"] = terms["angle_reg"] + huber.sum()
    terms["sem_cls"] = focal(stage["logits"], hot)
    return {f"loss_{k}": w[k] * v / divisor for k, v in terms.items()}, index, matched


def vdetr_variant(name: str, case: Case) -> Any:
    """Predictions, attention, assignment and losses."""
    a, s = case.arch, r.doubled(case.state())
    points = torch.from_numpy(np.asarray(case.cotangent((a["batch"], a["points"], 3), "enc_xyz"))).double()
    points = points * torch.tensor([1.5, 1.2, 0.5]).double() + torch.tensor([1.0, -0.5, 1.0]).double()
    points = points.float().double()
    features = case.cotangent((a["points"], a["batch"], a["dim"]), "enc_features").transpose(0, 1).double()
    stages, logits, seen = decoded(s, a, points, features)
    true, padded = truths(case, points)
    found = {"point_cls_logits": logits, "cross_attn_layer0": seen}
    times, total = max(1, a["repeat_num"]), torch.zeros(()).double()
    several = [(boxes.repeat(times, 1), label.repeat(times)) for boxes, label in true]
    count = sum(len(label) for _, label in true)
    for i, stage in enumerate(stages):
        binary = a["is_bilable"] and i == 0
        given = [(boxes, 0 * label) for boxes, label in true] if binary else several
        terms, index, matched = stage_losses(a, stage, given, count * (1 if binary else times))
        last = i == len(stages) - 1
        found |= {f"loss.{k}" + ("" if last else f"_{i}"): v for k, v in terms.items()}
        total = total + sum(terms.values())
        if last or i == 0:
            kind = "final" if last else "first"
            found |= {f"{kind}.sem_cls_logits": stage["logits"], f"{kind}.box_corners": corners(stage["boxes"])}
            found |= {f"{kind}.center_unnormalized": stage["center"], f"{kind}.size_unnormalized": stage["size"]}
            found |= {f"{kind}.angle_continuous": stage["angle"], f"{kind}.matched": matched}
            found |= {f"{kind}.gt_index": index} if len(given[0][1]) == len(true[0][1]) else {}  # copies are alike
            found |= {f"{kind}.objectness_prob": stage["logits"].sigmoid().amax(-1)}
    if a["point_cls_loss_weight"]:
        hot = torch.zeros_like(logits)
        for b, (boxes, label) in enumerate(true):
            apart = (points[b][:, None] - boxes[None, :, :3]).abs() < boxes[None, :, 3:6] / 2
            volume = boxes[:, 3:6].prod(-1).expand(len(points[b]), -1).masked_fill(~apart.all(-1), float("inf"))
            smallest = volume.min(1)
            rows = smallest.values.isfinite().nonzero()[:, 0]
            hot[b, rows, label[smallest.indices[rows]]] = 1
        found["loss.enc_point_cls_loss"] = a["point_cls_loss_weight"] * focal(logits, hot) / count
        total = total + found["loss.enc_point_cls_loss"]
    found["total_loss"] = total
    found = {f"{name}.{k}": v for k, v in found.items()} | {f"{name}.target.gt_{k}": v for k, v in padded.items()}
    return found, (total, {k: v for k, v in s.items() if r.frozen(s, [k])})


def truths(case: Case, points: Tensor) -> Any:
    """True boxes around points, by cloud, and padded as a case holds them."""
    rng = np.random.default_rng(case.seed)
    true, most = [], max(case.arch["boxes"])
    b = len(case.arch["boxes"])
    padded = {"box_centers": torch.zeros(b, most, 3), "box_sizes": torch.zeros(b, most, 3)}
    padded |= {"box_angles": torch.zeros(b, most), "box_sem_cls_label": torch.zeros(b, most).long()}
    padded |= {"box_present": torch.zeros(b, most), "angle_class_label": torch.zeros(b, most).long()}
    padded["angle_residual_label"] = torch.zeros(b, most)
    for i, n in enumerate(case.arch["boxes"]):
        center = points[i, rng.permutation(points.shape[1])[:n]].float() + 0.05
        size = torch.from_numpy(rng.uniform(0.4, 2.5, (n, 3))).float()
        label = torch.from_numpy(rng.integers(0, case.arch["num_semcls"], n))
        true.append((torch.cat([center, size, torch.zeros(n, 1)], -1).double(), label))
        padded["box_centers"][i, :n], padded["box_sizes"][i, :n] = center, size
        padded["box_sem_cls_label"][i, :n], padded["box_present"][i, :n] = label, 1
    return true, padded


def vdetr(case: Case) -> Any:
    """All variants."""
    arrays, losses = {}, {}
    for name, variant in case.variants():
        found, loss = vdetr_variant(name, variant)
        arrays |= found
        losses[f"{name}.grad:"] = loss
    return arrays, losses
