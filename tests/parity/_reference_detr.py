"""3DETR's decoder, matcher and set loss from their formulas in float64; official keys."""

import itertools
import math
from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from tests.parity import _reference as r
from tests.parity._reference_boxes import bn, conv, corners, mlp_shapes
from tests.parity.core import Case

HEADS = ("sem_cls", "center", "size", "angle_cls", "angle_residual")


def projection_shapes(at: str, widths: list[int]) -> r.Shapes:
    """Layers without bias, a norm and ReLU behind each."""
    state: r.Shapes = {}
    for n, (a, b) in enumerate(itertools.pairwise(widths)):
        state |= {f"{at}.layers.{3 * n}.weight": [b, a, 1], **r.batch_normed(f"{at}.layers.{3 * n + 1}", b)}
    return state


def detr_shapes(a: dict[str, Any]) -> r.Shapes:
    """Official keys of the decoder and its heads."""
    d, e, f = a["dec_dim"], a["enc_dim"], a["dec_ffn_dim"]
    widths = [e, e, d] if a["masked_encoder_projection"] else [e, e, e, d]
    state = projection_shapes("encoder_to_decoder_projection", widths)
    state |= {"pos_embedding.gauss_B": [3, d // 2], **r.normed("decoder.norm", d)}
    for n in (0, 2):
        state |= {f"query_projection.layers.{n}.weight": [d, d, 1], f"query_projection.layers.{n}.bias": [d]}
    for i in range(a["dec_nlayers"]):
        at = f"decoder.layers.{i}"
        state |= r.multihead(f"{at}.self_attn", d) | r.multihead(f"{at}.multihead_attn", d)
        state |= r.affine(f"{at}.linear1", f, d) | r.affine(f"{at}.linear2", d, f)
        for n in (1, 2, 3):
            state |= r.normed(f"{at}.norm{n}", d)
    outs = {"sem_cls": a["num_semcls"] + 1, "center": 3, "size": 3}
    outs |= {"angle_cls": a["num_angle_bin"], "angle_residual": a["num_angle_bin"]}
    for head, width in outs.items():
        state |= mlp_shapes(f"mlp_heads.{head}_head", [d, d, d, width])
    return state


def farthest(points: Tensor, count: int) -> Tensor:
    """Greedy, from the first point (P, 3)."""
    found, best = [0], torch.full((len(points),), float("inf")).double()
    for _ in range(count - 1):
        best = torch.minimum(best, (points - points[found[-1]]).square().sum(-1))
        found.append(int(best.argmax()))
    return torch.tensor(found)


def head(s: r.State, at: str, x: Tensor) -> Tensor:
    """Two hidden layers with norms, and the last."""
    for n in (0, 4):
        x = bn(s, f"{at}.layers.{n + 1}", conv(s, f"{at}.layers.{n}", x)).relu()
    return conv(s, f"{at}.layers.8", x)


def decoded(s: r.State, a: dict[str, Any], xyz: Tensor, features: Tensor, low: Tensor, high: Tensor) -> Any:
    """Predictions of all layers under 3DETR's names, and the queries' places."""
    memory, extent = features, (high - low)[:, None]
    for n in range(2 if a["masked_encoder_projection"] else 3):
        at = "encoder_to_decoder_projection.layers"
        memory = bn(s, f"{at}.{3 * n + 1}", conv(s, f"{at}.{3 * n}", memory)).relu()

    def fourier(x: Tensor) -> Tensor:
        angle = 2 * math.pi * ((x - low[:, None]) / extent) @ s["pos_embedding.gauss_B"]
        return torch.cat([angle.sin(), angle.cos()], -1)

    index = torch.stack([farthest(p, a["nqueries"]) for p in xyz])
    place = torch.stack([p[i] for p, i in zip(xyz, index, strict=True)])
    query = conv(s, "query_projection.layers.2", conv(s, "query_projection.layers.0", fourier(place)).relu()).relu()
    x, pos, layers = torch.zeros_like(query), fourier(xyz), []
    for i in range(a["dec_nlayers"]):
        at = f"decoder.layers.{i}"
        y = r.norm(s, f"{at}.norm1", x)
        x = x + r.packed(s, f"{at}.self_attn", y + query, y + query, y, a["dec_nhead"])
        y = r.norm(s, f"{at}.norm2", x) + query
        x = x + r.packed(s, f"{at}.multihead_attn", y, memory + pos, memory, a["dec_nhead"])
        x = x + r.linear(s, f"{at}.linear2", r.linear(s, f"{at}.linear1", r.norm(s, f"{at}.norm3", x)).relu())
        out = r.norm(s, "decoder.norm", x)
        raw = {
            k: head(s, f"mlp_heads.{k}_head", out) for k in ("sem_cls", "center", "size", "angle_cls", "angle_residual")
        }
        bins = a["num_angle_bin"]
        best = raw["angle_cls"].argmax(-1, keepdim=True)
        angle = best[..., 0] * 2 * math.pi / bins + raw["angle_residual"].gather(-1, best)[..., 0] * math.pi / bins
        angle = torch.where(angle > math.pi, angle - 2 * math.pi, angle) if bins > 1 else torch.zeros_like(angle)
        center, share = place + raw["center"].sigmoid() - 0.5, raw["size"].sigmoid()
        size = share * extent.clamp(min=0.1)
        layers.append({
            "sem_cls_logits": raw["sem_cls"], "sem_cls_prob": raw["sem_cls"].softmax(-1)[..., :-1],
            "objectness_prob": 1 - raw["sem_cls"].softmax(-1)[..., -1], "center_unnormalized": center,
            "center_normalized": (center - low[:, None]) / extent, "size_normalized": share, "size_unnormalized": size,
            "angle_logits": raw["angle_cls"], "angle_residual_normalized": raw["angle_residual"],
            "angle_residual": raw["angle_residual"] * math.pi / bins, "angle_continuous": angle,
            "box_corners": corners(torch.cat([center, size, angle[..., None]], -1)),
        })  # fmt: skip
    return layers, index


def clipped(one: list[Tensor], two: list[Tensor]) -> list[Tensor]:
    """The part of a convex polygon inside another, both counter-clockwise (Sutherland and Hodgman)."""
    cross = lambda a, b, p: (b[0] - a[0]) * (p[1] - a[1]) - (b[1] - a[1]) * (p[0] - a[0])  # noqa: E731
    for a, b in zip(two, [*two[1:], two[0]], strict=True):
        given, one = one, []
        for p, q in zip(given, [*given[1:], *given[:1]], strict=True):
            here, there = cross(a, b, p), cross(a, b, q)
            if here >= 0:
                one.append(p)
            if (here >= 0) != (there >= 0):
                one.append(p + (q - p) * here / (here - there))
    return one


def area(polygon: list[Tensor]) -> Tensor:
    """Signed, by the shoelace formula."""
    pairs = zip(polygon, [*polygon[1:], *polygon[:1]], strict=True)
    return sum((p[0] * q[1] - p[1] * q[0] for p, q in pairs), torch.zeros(()).double()) / 2


def giou(one: Tensor, two: Tensor, volumes: tuple[Tensor, Tensor], rotated: bool) -> Tensor:
    """As released, of vertices (8, 3) in the camera's axes."""
    wide = torch.minimum(one[0, ::2], two[0, ::2]) - torch.maximum(one[2, ::2], two[2, ::2])
    shared = wide.clamp(min=0).prod()
    if rotated and shared > 0:
        feet = [list(v[:4, ::2]) for v in (one, two)]
        shared = area(clipped(*(f if area(f) > 0 else f[::-1] for f in feet))).abs()
    high = torch.minimum(one[:, 1].max(), two[:, 1].max()) - torch.maximum(one[:, 1].min(), two[:, 1].min())
    common = shared * high.clamp(min=0)
    union = sum(volumes, torch.zeros(())) - common
    hull = (torch.maximum(one.amax(0), two.amax(0)) - torch.minimum(one.amin(0), two.amin(0))).prod()
    return common / union - (1 - union / hull)


def truths(case: Case, low: Tensor, high: Tensor) -> dict[str, Tensor]:
    """Padded true boxes in the scenes; yaw where the case has bins for it."""
    a, rng, counts = case.arch, np.random.default_rng(case.seed), case.json["inputs"]["n_present"]
    shape, bins, span = (len(counts), max(counts)), a["num_angle_bin"], a.get("angles", (-3.1, 3.1))
    middle, extent = (low + high)[:, None] / 2, (high - low)[:, None]
    drawn = lambda low, high, *more: torch.from_numpy(rng.uniform(low, high, (*shape, *more))).float()  # noqa: E731
    found = {"gt_centers": (middle + extent * drawn(-0.2, 0.2, 3)).float()}
    found |= {
        "gt_sizes": (extent * drawn(0.3, 0.7, 3)).float(),
        "gt_angle": drawn(*span) if bins > 1 else torch.zeros(shape),
    }
    found["gt_cls"] = torch.from_numpy(rng.integers(0, a["num_semcls"], shape))
    turned = found["gt_angle"].double() % (2 * math.pi)
    found["gt_angle_class"] = (turned / (2 * math.pi / bins)).round().long() % bins
    residual = turned - found["gt_angle_class"] * 2 * math.pi / bins
    found["gt_angle_residual"] = torch.where(residual > math.pi, residual - 2 * math.pi, residual).float()
    there = torch.arange(shape[1])[None] < torch.tensor(counts)[:, None]
    found = {k: v * there.reshape(*there.shape, *[1] * (v.ndim - 2)) for k, v in found.items()}
    boxes = torch.cat([found["gt_centers"], found["gt_sizes"], found["gt_angle"][..., None]], -1)
    return found | {"gt_corners": corners(boxes.double()).float()}


def layer_losses(a: dict[str, Any], p: dict[str, Tensor], t: dict[str, Tensor], scene: Any, counts: list[int]) -> Any:
    """Weighted terms, generalized IoU and assignment of one layer."""
    (low, high), bins, total = scene, a["num_angle_bin"], max(1, sum(counts))
    extent, zero = (high - low)[:, None], torch.zeros(()).double()
    center, size = (t["gt_centers"].double() - low[:, None]) / extent, t["gt_sizes"].double() / extent
    true = corners(torch.cat([t["gt_centers"], t["gt_sizes"], t["gt_angle"][..., None]], -1).double())
    rotated = bool((t["gt_angle"] > 0).any())
    over = torch.zeros(*p["angle_continuous"].shape, max(counts)).double()
    terms = dict.fromkeys(("angle_cls", "angle_reg", "center", "size", "giou"), zero)
    label = torch.full(p["angle_continuous"].shape, a["num_semcls"])
    assigned = torch.full(label.shape, -1)
    for b, n in enumerate(counts):
        rows = []
        for q in range(label.shape[1]):
            mine = p["size_unnormalized"][b, q].prod()
            rows += [
                giou(p["box_corners"][b, q], true[b, k], (mine, t["gt_sizes"][b, k].double().prod()), rotated)
                for k in range(n)
            ]
        table = torch.stack(rows).reshape(-1, n)
        over[b, :, :n] = table.detach()
        cost = -a["matcher_cls_cost"] * p["sem_cls_prob"][b][:, t["gt_cls"][b, :n]] - a["matcher_giou_cost"] * table
        cost = cost - a["matcher_objectness_cost"] * p["objectness_prob"][b][:, None]
        apart = (p["center_normalized"][b][:, None] - center[b, None, :n]).abs().sum(-1)
        rows, columns = linear_sum_assignment((cost + a["matcher_center_cost"] * apart).detach().numpy())
        assigned[b, rows], label[b, rows] = torch.from_numpy(columns), t["gt_cls"][b, columns]
        terms["giou"] = terms["giou"] + (1 - table[rows, columns]).sum()
        for k, want in (("center", center), ("size", size)):
            terms[k] = terms[k] + (p[f"{k}_normalized"][b][rows] - want[b, columns]).abs().sum()
        bin_ = t["gt_angle_class"][b, columns]
        terms["angle_cls"] = terms["angle_cls"] - p["angle_logits"][b].log_softmax(-1)[rows, bin_].sum()
        wanted = t["gt_angle_residual"][b, columns].double() * bins / math.pi
        off = (p["angle_residual_normalized"][b][rows, bin_] - wanted).abs()
        terms["angle_reg"] = terms["angle_reg"] + torch.where(off < 1, off**2 / 2, off - 0.5).sum()
    weight = torch.where(label == a["num_semcls"], a["loss_no_object_weight"], 1.0)
    ce = -p["sem_cls_logits"].log_softmax(-1).gather(-1, label[..., None])[..., 0]
    found = {f"loss_{k}": a[f"loss_{k}_weight"] * v / total for k, v in terms.items()}
    found["loss_sem_cls"] = a["loss_sem_cls_weight"] * (weight * ce).sum() / weight.sum()
    seen = (p["sem_cls_logits"].argmax(-1) != a["num_semcls"]).sum(1)
    off = (seen - torch.tensor(counts)).abs().double().mean()
    return found, {"loss_cardinality": off}, over, assigned


def detr(case: Case) -> Any:
    """Everything, with the losses of all layers."""
    a, s, counts = case.arch, r.doubled(case.state()), case.json["inputs"]["n_present"]
    xyz = 1.5 * case.input("enc_xyz")
    low, high = xyz.amin(1) - 0.3, xyz.amax(1) + 0.2
    features = case.input("enc_features").transpose(0, 1).double()
    scene = low.double(), high.double()
    layers, index = decoded(s, a, xyz.double(), features, *scene)
    true = truths(case, low, high)
    found: dict[str, Tensor] = {"query_idx": index, **true}
    total = torch.zeros(()).double()
    for i, layer in enumerate(layers):
        last = i == len(layers) - 1
        terms, more, over, assigned = layer_losses(a, layer, true, scene, counts)
        total = total + sum(terms.values())
        found |= {f"l:{k}" + ("" if last else f"_{i}"): v for k, v in (terms | more).items()}
        found |= {("" if last else f"aux{i}_") + k: v for k, v in layer.items()}
        found |= {"gious": over, "assignment": assigned} if last else {}
    own = {k: v for k, v in s.items() if r.frozen(s, [k]) and "gauss_B" not in k}
    return found | {"loss": total}, {"grad:": (total, own)}
