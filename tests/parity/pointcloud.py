"""Point operations, boxes and 3D metrics; EPCL and the 3DETR decoder: official keys onto the product's modules."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from pointcloud import boxes, ops
from pointcloud.box_decoder import BoxDecoder
from pointcloud.checkpoints import EPCL_CLASSIFICATION, EPCL_DENSE, EPCL_SEGMENTATION
from pointcloud.classification import EPCLClassifier
from pointcloud.criterion import WEIGHTS, Criterion
from pointcloud.detection_ap import detections_of, evaluate_detections, iou_table, select_boxes
from pointcloud.epcl import EPCLDense
from pointcloud.matcher import Matcher
from pointcloud.metrics import SegmentationTally
from pointcloud.packed import packed_farthest
from pointcloud.segmentation import EPCLSegmenter
from tests.parity.core import Case, builder, grad_norms, load_mapped
from xmodal.encoders.frozen import freeze
from xmodal.encoders.keys import from_clip_visual_state
from xmodal.encoders.timm_parts import exact_ratio
from xmodal.encoders.vit import VisionTransformer


def near_origin(x: torch.Tensor) -> torch.Tensor:
    """The near-origin variant of the operations' input."""
    z = x.clone()
    z[:, 1] = 0
    z[:, 3] = 0.01
    return z


def operation_inputs(case: Case) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Points with duplicates, queries, features."""
    x = case.input("x")
    x[0, 5] = x[0, 6] = x[0, 2]
    return x, case.input("q"), case.input("feat")


@builder("pytorch3d 0.7.9 CPU ops")
def operations_case(case: Case) -> dict[str, Any]:
    """Farthest points, neighbors, balls, box overlaps."""
    x, q, feat = operation_inputs(case)
    return sampling(case, x) | neighbor_search(case, x, q, feat) | balls(case, x, q) | overlaps(case)


def sampling(case: Case, x: torch.Tensor) -> dict[str, Any]:
    """The `fps_*` arrays."""
    a = case.arch
    same = x[:1, :1].expand(1, 6, -1).contiguous()
    by_length = ops.farthest_point_sample(x, a["K"], a["lengths2"])
    by_count = ops.farthest_point_sample(x, a["Klist"], a["lengths2"])
    z = near_origin(x)
    return {
        "fps_idx": ops.farthest_point_sample(x, a["K"]),
        "fps_len_idx": by_length,
        "fps_len_pts": ops.gather(x, by_length),
        "fps_Klist_idx": by_count,
        "fps_Klist_pts": ops.gather(x, by_count),
        "fps_allsame_idx": ops.farthest_point_sample(same, 4),
        "fps_nearorigin_p3d": ops.farthest_point_sample(z, a["P"]),
        "fps_nearorigin_pointnet2": ops.farthest_point_sample(z, a["P"], skip_near_origin=True),
    }


def neighbor_search(case: Case, x: torch.Tensor, q: torch.Tensor, feat: torch.Tensor) -> dict[str, Any]:
    """The `knn_*` arrays and gradients."""
    a = case.arch
    x, q = x.requires_grad_(), q.requires_grad_()
    dist, idx = ops.knn(q, x, a["K"])
    grad_q, grad_x = torch.autograd.grad((dist * case.cotangent(dist.shape, "cot")).sum(), (q, x))
    len_dist, len_idx = ops.knn(q, x, a["K"], a["lengths1"], a["lengths2"])
    behind = torch.arange(a["K"]) >= torch.as_tensor(a["lengths2"])[:, None, None]
    there = len_idx.masked_fill(behind, -1)  # of K neighbors, those behind the cloud's length do not exist
    l1_dist, l1_idx = ops.knn(q, x, a["K"], norm=1)
    dup_dist, dup_idx = ops.knn(x[:1, 2:3], x[:1], 6)
    found = {
        "knn_d": dist,
        "knn_idx": idx,
        "knn_len_d": len_dist,
        "knn_len_idx": len_idx,
        "knn_len_nn": ops.gather(x, there),
        "knn_gather_len": ops.gather(feat, there),
        "knn_l1_d": l1_dist,
        "knn_l1_idx": l1_idx,
        "knn_dup_d": dup_dist,
        "knn_dup_idx": dup_idx,
        "knn_grad_p1": grad_q,
        "knn_grad_p2": grad_x,
    }
    return {k: v.detach() for k, v in found.items()}


def balls(case: Case, x: torch.Tensor, q: torch.Tensor) -> dict[str, Any]:
    """The `bq_*` arrays."""
    a, x, q = case.arch, x.detach(), q.detach()
    dist, idx = ops.ball_query(q, x, a["radius"], a["K"])
    _, by_length = ops.ball_query(q, x, a["radius_len"], a["K"], a["lengths1"], a["lengths2"])
    return {"bq_d": dist, "bq_idx": idx, "bq_nn": ops.gather(x, idx), "bq_len_idx": by_length}


def from_corners(points: torch.Tensor) -> torch.Tensor:
    """Boxes (..., 7) of corners (..., 8, 3) in the order of `corners`.

    Other orders in which the first four run around the lower face give the same solid.
    """
    first, second, fourth, above = (points[..., i, :] for i in (0, 1, 3, 4))
    along, across = first - fourth, first - second
    yaw = -torch.atan2(along[..., 1], along[..., 0])
    size = torch.stack([v.norm(dim=-1) for v in (along, across, above - first)], dim=-1)
    return torch.cat([points.mean(-2), size, yaw[..., None]], dim=-1)


def corners_in_camera(found: torch.Tensor) -> torch.Tensor:
    """Corners (..., 8, 3) of boxes (..., 7) in upright camera axes (x, -z, y), as 3DETR reports them."""
    x, y, z = boxes.corners(found).unbind(-1)
    return torch.stack([x, -z, y], dim=-1)


def overlaps(case: Case) -> dict[str, Any]:
    """The `box_*` and `cube_*` arrays."""
    one, two = (from_corners(torch.from_numpy(case.expected[n]).double()) for n in ("boxes1", "boxes2"))
    cube = torch.tensor([[0, 0, 0, 1, 1, 1, 0]], dtype=torch.float64)
    moved = torch.tensor([[s, 0, 0, 1, 1, 1, 0] for s in (0, 0.5, 1)], dtype=torch.float64)
    return {
        **{n: case.expected[n] for n in ("boxes1", "boxes2")},  # inputs
        "box_vol": boxes.intersection(one, two),
        "box_iou": boxes.iou(one, two),
        "cube_vol": boxes.intersection(cube, moved),
        "cube_iou": boxes.iou(cube, moved),
    }


@builder("semantic segmentation metrics")
def segmentation_metrics_case(case: Case) -> dict[str, Any]:
    """IoU and accuracies summed over scenes."""
    tally = SegmentationTally(case.arch["num_classes"], case.arch["ignore_label"])
    for i in range(case.arch["scenes"]):
        tally.add(case.expected[f"pred{i}"], case.expected[f"label{i}"])
    found, counts = tally.compute(), tally.counts()
    inputs = {k: v for k, v in case.expected.items() if k.startswith(("pred", "label"))}
    names = {"iou": "iou", "acc": "acc", "mIoU": "miou", "mAcc": "macc", "allAcc": "oa"}
    return (
        inputs
        | dict(zip(("intersection", "union", "target"), counts, strict=True))
        | {k: found[v] for k, v in names.items()}
    )


@builder("indoor 3D detection AP")
def detection_metrics_case(case: Case) -> dict[str, Any]:
    """AP and recall as both evaluators report them, and the whole path from predictions."""
    a, e = case.arch, case.expected
    found = [tuple(e[f"det_{k}_{i}"] for k in ("boxes", "labels", "scores")) for i in range(a["images"])]
    true = [tuple(e[f"gt_{k}_{i}"] for k in ("boxes", "labels")) for i in range(a["images"])]
    computed = {k: v for k, v in e.items() if k.startswith(("gt_", "det_", "calc_")) and k not in CALC_OUTPUTS}
    computed["iou3d_img0"] = iou_table(found[0][0], true[0][0])
    for threshold, result in evaluate_detections(found, true, a["num_classes"], a["iou_thresholds"]).items():
        t = f"{100 * threshold:g}"
        nowhere, no_truth = np.isnan(result.ap), ~result.has_truth
        computed |= {
            f"ap_3detr_{t}": np.where(nowhere, -1, result.ap),
            f"rec_3detr_{t}": np.where(nowhere, -1, result.recall),
            f"map_3detr_{t}": result.mean_ap,
            f"ap_epcl_{t}": np.where(nowhere, -1, np.where(no_truth, -2, result.ap)),
            f"rec_epcl_{t}": np.where(no_truth, -1, result.recall),
            f"map_epcl_{t}": result.mean_ap,
        }
    return computed | (whole_path(case) if "calc_kept" in e else {})


CALC_OUTPUTS = ("calc_kept", "calc_map", "calc_ar")


def whole_path(case: Case) -> dict[str, Any]:
    """3DETR's path from raw predictions to mAP."""
    e = {k: torch.from_numpy(v) for k, v in case.expected.items() if k.startswith("calc_")}
    kept, found, true = [], [], []
    for i in range(len(e["calc_pred_boxes"])):
        scene = [e[f"calc_{k}"][i] for k in ("pred_boxes", "cls_prob", "obj")]
        kept.append(select_boxes(*scene, points=e["calc_points"][i]))
        found.append(detections_of(*scene, kept[-1]))
        present = e["calc_gt_present"][i].bool()
        true.append((e["calc_gt_boxes"][i][present].numpy(), e["calc_gt_labels"][i][present].numpy()))
    results = evaluate_detections(found, true, case.arch["num_classes"], case.arch["iou_thresholds"]).values()
    return {
        "calc_kept": torch.stack(kept).int(),
        "calc_map": [r.mean_ap for r in results],
        "calc_ar": [r.mean_recall for r in results],
    }


def tower_of(state: Mapping[str, torch.Tensor], prefix: str, dim: int, heads: int, proj: int | None = None) -> Any:
    """A frozen CLIP tower from the `resblocks` (and what else a case has of it) under `prefix`."""
    blocks = {k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)}
    own = {
        (k if k.startswith("transformer.") else f"transformer.{k}") if "resblocks" in k else k: v
        for k, v in blocks.items()
    }
    depth = 1 + max(int(k.split(".")[2]) for k in own if "resblocks" in k)
    patch = own["conv1.weight"].shape[-1] if "conv1.weight" in own else 1
    rows = own["positional_embedding"].shape[0] if "positional_embedding" in own else 2
    hidden = own["transformer.resblocks.0.mlp.c_fc.weight"].shape[0]
    tower = VisionTransformer(
        image_size=patch * round((rows - 1) ** 0.5),
        patch_size=patch,
        dim=dim,
        depth=depth,
        num_heads=heads,
        mlp_ratio=exact_ratio(hidden, dim),
        act="quick_gelu",
        pre_norm=True,
        patch_bias=False,
        norm_eps=1e-5,
        out_dim=proj,
    )
    missing, unexpected = tower.load_state_dict(from_clip_visual_state(own), strict=False)
    assert not unexpected, unexpected
    assert not [k for k in missing if k.startswith("blocks.")], missing
    return freeze(tower)


def load_official(module: torch.nn.Module, own: Mapping[str, torch.Tensor], converter: Any) -> dict[str, torch.Tensor]:
    """Load official weights through the product's converter; return the trained tensors by official name."""
    missing, unexpected = module.load_state_dict(converter.to_ours(own), strict=False)
    assert not unexpected, unexpected
    frozen = ("encoder.", "epcl.encoder.", "epcl.pos_embed_none")
    assert not [k for k in missing if not k.startswith(frozen)], missing
    tensors = dict(module.named_parameters())
    return {k: tensors.get(next(iter(converter.to_ours({k: v})))) for k, v in own.items() if v.is_floating_point()}


@builder("EPCL classification")
def epcl_classification_case(case: Case) -> dict[str, Any]:
    """Tokens, embedding, logits and gradients."""
    a, state = case.arch, case.state()
    tower = tower_of(state, "clip_vit.", a["clip_width"], a["clip_heads"], a["clip_proj_dim"])
    own = {k: v for k, v in state.items() if not k.startswith("clip_vit.")}
    tasks = state["te_encoder.embedding.weight"].shape[0] if a.get("use_task_emb", True) else 0
    model = EPCLClassifier(
        tower,
        a["cls_dim"],
        a["num_group"],
        a["group_size"],
        tasks,
        hidden=state["cls_head_finetune.1.weight"].shape[0],
        skip_near_origin=True,
    ).eval()
    tensors = load_official(model, own, EPCL_CLASSIFICATION)
    coord = 0.4 * case.input("pts")
    _, center_idx, members = model.tokenizer.group(coord)
    logits, embedding = model(coord)
    loss = (logits * case.cotangent(logits.shape)).sum()
    loss = loss + (embedding * case.cotangent(embedding.shape, "cotangent_emb")).sum()
    computed = {
        "fps_idx": center_idx,
        "knn_idx_sorted": members.sort(-1).values,
        "group_tokens_sum": model.tokenizer(coord)[0].sum(-1).detach(),
        "token_emb": embedding.detach(),
        "logits": logits.detach(),
    }
    return computed | grad_norms(loss, tensors)


@builder("EPCL dense-feature encoder")
def epcl_dense_case(case: Case) -> dict[str, Any]:
    """The intended output with attention over tokens and one unit of length."""
    a, state = case.arch, case.state()
    own = {k: v for k, v in state.items() if "resblocks" not in k and k != "encoder.cls_token"}
    tower = tower_of(state, "encoder.blocks.", a["width"], a["clip_heads"])
    with torch.no_grad():
        tower.cls_token.copy_(state["encoder.cls_token"])
    model = EPCLDense(
        tower,
        a["tokenizer_dim"],
        a["num_group"],
        a["group_size"],
        a["num_task_tokens"],
        a["voxel_size"],
        skip_near_origin=True,
        prefix_position=case.input("cls_pos"),
    ).eval()
    tensors = load_official(model, own, EPCL_DENSE)
    sizes = a["sizes"]
    coord = torch.from_numpy(case.expected["coords"][:, :3]).float().split(sizes)
    feat = case.input("feats").split(sizes)
    padded = [torch.nn.utils.rnn.pad_sequence(x, batch_first=True) for x in (coord, feat)]
    out, centers = model(*padded, torch.tensor(sizes))
    out = torch.cat([o[:n] for o, n in zip(out, sizes, strict=True)])
    computed = {"coords": case.expected["coords"], "centers": centers, "out_fixed": out.detach()}
    return computed | grad_norms((out * case.cotangent(out.shape)).sum(), tensors, "fixed_grad:")


@builder("EPCL indoor segmentation")
def epcl_segmentation_case(case: Case) -> dict[str, Any]:
    """Logits with attention over tokens, their gradients, the first farthest points."""
    a, state = case.arch, case.state()
    own = {k: v for k, v in state.items() if "resblocks" not in k and k != "transformer.cls_token"}
    tower = tower_of(state, "transformer.blocks.", a["width"], a["clip_heads"])
    with torch.no_grad():
        tower.cls_token.copy_(state["transformer.cls_token"])
    model = EPCLSegmenter(
        tower,
        a["classes"],
        a["c"],
        a["planes"],
        a["blocks"],
        a["stride"],
        a["nsample"],
        a["share_planes"],
        a["num_task_tokens"],
        prefix_position=case.input("cls_pos"),
    ).eval()
    tensors = load_official(model, own, EPCL_SEGMENTATION)
    coord, feat, sizes = case.input("coord").abs(), case.input("feat").sigmoid(), a["cloud_sizes"]
    logits = model(coord, feat if a["c"] > 3 else None, sizes)
    first = next(s for s in a["stride"] if s > 1)
    computed = {
        "logits_tokenattn": logits.detach(),
        "fps4_first": packed_farthest(coord, sizes, [n // first for n in sizes]),
    }
    return computed | grad_norms((logits * case.cotangent(logits.shape)).sum(), tensors, "tokenattn_grad:")


def box_targets(case: Case, low: torch.Tensor, high: torch.Tensor) -> dict[str, torch.Tensor]:
    """The case's ground truth as the criterion wants it."""
    e = {k: torch.from_numpy(v) for k, v in case.expected.items() if k.startswith("gt_")}
    present = torch.tensor(case.json["inputs"]["n_present"])
    extent = (high - low)[:, None]
    return {
        "boxes": torch.cat([e["gt_centers"], e["gt_sizes"], e["gt_angle"][..., None]], dim=-1),
        "box_label": e["gt_cls"],
        "box_mask": torch.arange(e["gt_cls"].shape[1])[None] < present[:, None],
        "angle_class": e["gt_angle_class"],
        "angle_residual": e["gt_angle_residual"],
        "center_normalized": (e["gt_centers"] - low[:, None]) / extent,
        "size_normalized": e["gt_sizes"] / extent,
    }


@builder("3DETR decoder")
def detr_case(case: Case) -> dict[str, Any]:
    """Predictions of all layers, assignment, every loss term and its gradients."""
    a, state = case.arch, case.state()
    model = BoxDecoder(
        a["enc_dim"],
        a["num_semcls"],
        a["num_angle_bin"],
        a["dec_dim"],
        a["dec_nhead"],
        a["dec_ffn_dim"],
        a["dec_nlayers"],
        a["nqueries"],
        1 if a["masked_encoder_projection"] else 2,
        mlp_dropout=a["mlp_dropout"],
        skip_near_origin=True,
    ).eval()
    load_mapped(model, state)
    matcher = Matcher(*(a[f"matcher_{k}_cost"] for k in ("cls", "giou", "center", "objectness")))
    weights = {k: a[f"loss_{k}_weight"] for k in WEIGHTS}
    criterion = Criterion(
        a["num_semcls"], a["num_angle_bin"], matcher, a["loss_no_object_weight"], weights, giou_rule="released"
    )
    xyz = 1.5 * case.input("enc_xyz")
    low, high = xyz.amin(1) - 0.3, xyz.amax(1) + 0.2
    layers, query_idx = model(xyz, case.input("enc_features").transpose(0, 1), low, high)
    targets = box_targets(case, low, high)
    giou, assigned = criterion.match(layers[-1], targets)
    loss, terms = criterion(layers, targets)
    computed = {k: v for k, v in case.expected.items() if k.startswith("gt_")}
    giou = giou[..., : max(case.json["inputs"]["n_present"])]  # truth may be padded beyond the fullest cloud
    computed |= {"query_idx": query_idx, "gious": giou, "assignment": assigned, "loss": loss}
    computed |= {f"l:{k}": v for k, v in terms.items()}
    computed |= detr_outputs(layers[-1], "")
    for i, layer in enumerate(layers[:-1]):
        computed |= detr_outputs(layer, f"aux{i}_")
    computed = {k: v.detach() if isinstance(v, torch.Tensor) else v for k, v in computed.items()}
    return computed | grad_norms(loss, dict(model.named_parameters()))


def detr_outputs(layer: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """One layer's predictions under 3DETR's names."""
    names = {
        "sem_cls_logits": "logits",
        "sem_cls_prob": "class_probs",
        "center_normalized": "center_normalized",
        "center_unnormalized": "center",
        "size_normalized": "size_normalized",
        "size_unnormalized": "size",
        "angle_logits": "angle_logits",
        "angle_residual": "angle_residual",
        "angle_residual_normalized": "angle_raw",
        "angle_continuous": "angle",
        "objectness_prob": "objectness",
    }
    return {prefix + k: layer[v] for k, v in names.items()} | {
        f"{prefix}box_corners": corners_in_camera(layer["boxes"])
    }
