"""V-DETR's decoder, matcher and losses."""

from typing import Any

import torch
from torch import Tensor

from pointcloud.vertex_criterion import COSTS, WEIGHTS, VertexCriterion
from pointcloud.vertex_decoder import VertexBoxDecoder
from tests.parity.core import Case, builder, grad_norms, load_mapped
from tests.parity.pointcloud import corners_in_camera


def targets_of(case: Case, name: str) -> dict[str, Tensor]:
    """The true boxes of a variant as the criterion wants them."""
    t = {k: torch.from_numpy(v) for k, v in case.expected.items() if k.startswith(f"{name}.target.")}
    t = {k.removeprefix(f"{name}.target.gt_"): v for k, v in t.items()}
    return {
        "boxes": torch.cat([t["box_centers"], t["box_sizes"], t["box_angles"][..., None]], -1),
        "box_label": t["box_sem_cls_label"],
        "box_mask": t["box_present"].bool(),
        "angle_class": t["angle_class_label"],
        "angle_residual": t["angle_residual_label"],
    }


def model_of(case: Case, a: dict[str, Any]) -> VertexBoxDecoder:
    """The product's decoder for a variant, with its weights."""
    mode, reach, nodes = a["rpe_quant"].split("_")
    if mode != "bilinear" or a.get("share_selfattn"):
        raise KeyError(f"{case.path.name}: rpe_quant {a['rpe_quant']!r} or share_selfattn is not built")
    edge = a.get("hard_anchor_size", 1.0)
    state = {k: v for k, v in case.state().items() if k not in a.get("kept_buffers", ())}
    model = VertexBoxDecoder(
        state["encoder_to_decoder_projection.layers.0.weight"].shape[1],
        a["num_semcls"],
        a["num_angle_bin"],
        a["dim"],
        num_heads=a["nhead"],
        ffn_dim=a["ffn"],
        depth=a["dec_nlayers"] - 1,
        num_queries=a["nqueries"],
        content=a["q_content"],
        mean_sizes=[[edge] * 3] * a["num_semcls"] if a["hard_anchor"] else a["mean_size"],
        one_class=a["is_bilable"],
        key_positions=any("key_pos_projection" in k for k in state),
        width=a["rpe_dim"],
        nodes=int(nodes),
        reach=float(reach),
        log_scale=a["log_scale"],
        own_axes=a["angle_type"] == "object_coords" and a["num_angle_bin"] > 1,
    ).eval()
    load_mapped(model, state)
    return model


def variant_case(name: str, case: Case) -> dict[str, Any]:
    """Predictions, first attention, assignment, losses and gradients of one variant."""
    a = case.arch
    model = model_of(case, a)
    weights = {k: a["loss_weights"].get(k, v) for k, v in WEIGHTS.items()}
    costs = dict(zip(COSTS, (a["matcher"][k] for k in ("cls", "center", "size", "giou")), strict=True))
    criterion = VertexCriterion(
        a["num_semcls"], a["num_angle_bin"], weights, costs, "released", a["repeat_num"], a["point_cls_loss_weight"]
    )
    xyz = torch.from_numpy(fill(case, (a["batch"], a["points"], 3))) * torch.tensor([1.5, 1.2, 0.5])
    xyz = xyz + torch.tensor([1.0, -0.5, 1.0])
    features = case.cotangent((a["points"], a["batch"], a["dim"]), "enc_features").transpose(0, 1)
    seen: list[Tensor] = []
    attention = model.decoder.layers[0].multihead_attn
    hook = attention.register_forward_pre_hook(lambda m, args: seen.append(m.weights(*args)))
    layers, _ = model(xyz, features, xyz.amin(1), xyz.amax(1))
    hook.remove()
    targets = targets_of(case, name)
    total, terms = criterion(layers, targets)
    found: dict[str, Any] = {k: v for k, v in case.expected.items() if ".target." in k or ".input." in k}
    found["point_cls_logits"], found["cross_attn_layer0"] = layers[0]["point_logits"], seen[0]
    for stage, layer in (("final", layers[-1]), ("first", layers[0])):
        found |= {f"{stage}.sem_cls_logits": layer["logits"], f"{stage}.box_corners": corners_in_camera(layer["boxes"])}
        found |= {f"{stage}.center_unnormalized": layer["center"], f"{stage}.size_unnormalized": layer["size"]}
        found |= {f"{stage}.angle_continuous": layer["angle"], f"{stage}.objectness_prob": layer["objectness"]}
        giou, assigned = criterion.match(layer, criterion.targets_for(layer, targets))
        found |= {f"{stage}.gious": giou, f"{stage}.gt_index": assigned.clamp(min=0)}
        found[f"{stage}.matched"] = (assigned >= 0).float()
    terms["enc_point_cls_loss"] = terms.pop("loss_points", torch.zeros(()))
    found |= {"total_loss": total, **{f"loss.{k}": v for k, v in terms.items()}}
    found = {k: v.detach() if isinstance(v, Tensor) else v for k, v in found.items()}
    named = dict(model.named_parameters())
    found |= grad_norms(total, named)
    return {k if k in case.expected else f"{name}.{k}": v for k, v in found.items()}


def fill(case: Case, shape: tuple[int, ...]) -> Any:
    """The filled points."""
    return case.cotangent(shape, "enc_xyz").numpy()


@builder("vdetr")
def vdetr_case(case: Case) -> dict[str, Any]:
    """All variants."""
    found: dict[str, Any] = {}
    for name, variant in case.variants():
        found |= variant_case(name, variant)
    return found
