"""Point Transformer V3 and Sonata: curves, transform, networks."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from pointcloud.grid_points import fnv_hash, grid_of, voxel_numbers
from pointcloud.ptv3 import PointTransformer
from pointcloud.serialization import ORDERS, encode
from pointcloud.transforms import CenterFloor
from tests.parity.core import Case, builder, grad_norms, load_mapped, tagged

RENAMED = {"enable_rpe": "rpe"}
WITHOUT_EFFECT = ("enc_mode", "cls_mode", "traceable", "shuffle_orders", "enable_flash", "upcast_attention",
                  "upcast_softmax", "attn_drop", "proj_drop", "freeze_encoder")  # fmt: skip
OFF = ("qk_scale", "pdnorm_bn", "pdnorm_ln")  # not built: None or false in every released network


def network_of(case: Case) -> PointTransformer:
    """The product's network of a variant, with its weights."""
    said = {k: v for k, v in case.arch["args"].items() if k not in WITHOUT_EFFECT}
    if on := [k for k in OFF if said.pop(k, None)]:
        raise KeyError(f"{case.path.name}: the options {on} are not built")
    args = {RENAMED.get(k, k): v for k, v in said.items() if not k.startswith("pdnorm_")}
    if "dec_depths" not in args:
        args = {k: v for k, v in args.items() if not k.startswith("dec_")}
    if case.arch["args"].get("enc_mode") or case.arch["args"].get("cls_mode"):
        args = {k: v for k, v in args.items() if not k.startswith("dec_")}
    model = PointTransformer(**args, first_version=case.arch["mode"] == "v1", shrink=not case.arch["flash"]).eval()
    load_mapped(model, case.state())
    return model


def variant_case(case: Case) -> dict[str, Any]:
    """Outputs and gradients of one variant."""
    model = network_of(case)
    coord, grid, cloud = (torch.from_numpy(case.expected[k]) for k in ("coord", "grid_coord", "batch"))
    feat = case.cotangent((len(coord), case.arch["args"]["in_channels"]), "feat")
    mask = case.cotangent((len(coord),), "mask") > 0.5 if case.arch["mask"] else None
    seen: list[Tensor] = []
    hook = model.enc["enc0"]["block0"].cpe[0].register_forward_hook(lambda m, a, out: seen.append(out))
    x, level = model(coord, grid, cloud, feat, mask)
    hook.remove()
    found = {"cpe_conv": seen[0], "feat": x, "out_grid": level.grid, "out_coord": level.coord, "out_batch": level.cloud}
    if model.dec is None:
        found["upcast_all"] = model.all_levels(coord, grid, cloud, feat, mask)
    loss = (x * case.cotangent(x.shape)).sum()
    return {k: v.detach() for k, v in found.items()} | grad_norms(loss, dict(model.named_parameters()))


def transform_case(case: Case) -> dict[str, Any]:
    """Centering, voxels, hashes and colors of a raw cloud."""
    count = len(case.expected["transform.coord"])
    raw = case.cotangent((count, 3), "raw_coord").numpy() * np.array([0.08, 0.06, 0.05], np.float32)
    color = np.floor(np.abs(case.cotangent((count, 3), "raw_color").numpy()) * 80 % 256)
    coord = CenterFloor()({"coord": raw}, np.random.default_rng(0))["coord"]
    grid = grid_of(coord, 0.02)
    inverse, counts = voxel_numbers(grid)
    return {"coord": coord, "grid_coord": grid, "hash": fnv_hash(grid), "inverse": inverse, "parts": counts.max(),
            "voxels": len(counts), "color": color / 255}  # fmt: skip


@builder("ptv3")
def ptv3_case(case: Case) -> dict[str, Any]:
    """Everything of a case."""
    inputs = case.json.get("input_arrays", ())
    found: dict[str, Any] = {k: case.expected[k] for k in inputs}
    for key in (k for k in inputs if k.startswith("codes.")):
        grid, depth = torch.from_numpy(case.expected[key]), int(key.split(".")[1][1:])
        rows = torch.arange(len(grid)) % 3
        found |= {key.replace("xyz", order): encode(grid, rows, depth, order) for order in ORDERS}
    if any(name.startswith("transform.") for name in case.expected):
        found |= tagged("transform", transform_case(case))
    for name, variant in case.variants():
        found |= tagged(name, variant_case(variant))
    return found
