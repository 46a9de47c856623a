"""Sparse convolution, pooling and EPCL's sparse U-Net against MinkowskiEngine."""

from typing import Any

import torch
from torch import Tensor, nn

from pointcloud.sparse import SparseTensor, voxelize
from pointcloud.sparse_layers import SparseConv, SparseConvTranspose, SparsePool
from pointcloud.sparse_unet import SparseUNet
from tests.parity.core import Case, builder, grad_norms, load_mapped

OPS = {"conv": {}, "convtr": {}, "gentr": {"generative": True}}


def layer_of(op: str, args: dict[str, Any], kernel: Tensor | None) -> nn.Module:
    """The product's layer for an operation of a case."""
    if op in ("max", "avg", "sum"):
        return SparsePool(op, **args)
    if op not in OPS or kernel is None:
        raise KeyError(f"operation {op!r}: known are max, avg, sum and, with a kernel, {', '.join(OPS)}")
    kind = SparseConv if op == "conv" else SparseConvTranspose
    return kind(kernel.shape[-2], kernel.shape[-1], **args, **OPS[op])  # type: ignore[arg-type]


def in_order(x: SparseTensor) -> tuple[Tensor, Tensor]:
    """Coordinates and features sorted by (cloud, x, y, z)."""
    _, order = torch.unique(x.coordinates, dim=0, return_inverse=True)
    at = order.argsort()
    return x.coordinates[at].int(), x.features[at]


def operation(case: Case, name: str, given: SparseTensor) -> dict[str, Any]:
    """Output, coordinates and gradients of one operation."""
    variant = case.json["variants"][name]
    state = case.state(variant["state"]) if variant["state"] else {}
    steps = [*variant["after"], (variant["op"], variant["args"])]
    x = SparseTensor.make(given.features.clone().requires_grad_(), given.coordinates)
    source, layer = x.features, None
    for i, (op, args) in enumerate(steps):
        prefix = f"{name}." if i == len(steps) - 1 else f"{name}.pre{i}."
        own = {
            k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix) and "." not in k[len(prefix) :]
        }
        layer = layer_of(op, args, own.get("kernel"))
        load_mapped(layer, own)
        x = layer(x)
    coordinates, features = in_order(x)
    loss = (features * case.cotangent(features.shape)).sum()
    trained = {f"{name}.{k}": p for k, p in layer.named_parameters()}  # type: ignore[union-attr]
    found = {f"{name}.coordinates": coordinates, f"{name}.features": features.detach()}
    return found | grad_norms(loss, {"input": source, **trained}, f"{name}.grad:")


def unet(case: Case, coordinates: Tensor) -> dict[str, Any]:
    """EPCL's U-Net without its bottleneck."""
    state = case.state(case.json["unet_state"])
    rgb = case.input("rgb")
    out = state["out_layer.0.kernel"].shape[1]
    model = SparseUNet(rgb.shape[1], case.arch["unet_widths"], out).eval()
    load_mapped(model, state)
    _, _, eight = model.down(SparseTensor.make(rgb, coordinates))
    result = model(SparseTensor.make(rgb, coordinates))
    found = {}
    for name, x in (("stride8", eight), ("out", result)):
        at, features = in_order(x)
        found |= {f"unet.{name}.coordinates": at, f"unet.{name}.features": features.detach()}
    loss = (features * case.cotangent(features.shape)).sum()
    return found | grad_norms(loss, dict(model.named_parameters()), "unet.grad:")


@builder("minkowski")
def minkowski_case(case: Case) -> dict[str, Any]:
    """All operations of a case, the U-Net, and voxels of points."""
    coordinates = torch.from_numpy(case.expected["coordinates"])
    given = SparseTensor.make(case.input("features"), coordinates)
    found: dict[str, Any] = {"coordinates": coordinates}
    for name in case.json["variants"]:
        found |= operation(case, name, given)
    if "unet_state" in case.json:
        found |= unet(case, coordinates)
    if "raw_points" not in case.json["inputs"]:
        return found
    points = case.input("raw_points") * 1.5
    clouds = torch.arange(len(points)) % case.arch["batch"]
    words = {"UNWEIGHTED_AVERAGE": "mean", "UNWEIGHTED_SUM": "sum", "RANDOM_SUBSAMPLE": "first"}
    for name, keep in words.items():
        at, features = in_order(voxelize(points, clouds, case.input("raw_features"), 0.7, keep))
        found |= {f"quantize.{name}.coordinates": at, f"quantize.{name}.features": features}
    return found
