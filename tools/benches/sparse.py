"""Sparse convolution and point transformers against the number of voxels, and against a dense convolution.

`python tools/bench.py sparse-conv sparse-unet ptv3 --peak` measures them, forward passes over 25,000 to 100,000 voxels.
"""

import argparse
import functools
from typing import Any

import torch

from tools.benches.measure import Variant
from tools.benches.points import scene

SIZES = (25_000, 50_000, 100_000)


@functools.lru_cache
def voxels(count: int) -> torch.Tensor:
    """Voxels (V, 3) on the surfaces of a room, about `count` of them, shuffled."""
    edge = 0.02 * (100_000 / count) ** 0.5
    cells = torch.unique(torch.floor(scene(8 * count)[0] / (1.2 * edge)).long(), dim=0)
    order = torch.randperm(len(cells), generator=torch.Generator().manual_seed(0))
    return cells[order[:count]]


def sparse(count: int, channels: int) -> Any:
    from pointcloud.sparse import SparseTensor

    cells = voxels(count)
    features = torch.randn(len(cells), channels, generator=torch.Generator().manual_seed(1))
    return SparseTensor.make(features, torch.cat([torch.zeros(len(cells), 1, dtype=torch.long), cells], 1))


def unet(count: int) -> Any:
    """A function that runs EPCL's sparse U-Net."""
    from pointcloud.sparse_unet import SparseUNet

    torch.manual_seed(0)
    model, x = SparseUNet().eval(), sparse(count, 3)
    return torch.no_grad()(lambda: model(x.pruned(torch.ones(len(x.features), dtype=torch.bool))))


def transformer(count: int) -> Any:
    """A function that runs Sonata's base encoder."""
    from pointcloud.ptv3 import PointTransformer

    torch.manual_seed(0)
    model, cells = PointTransformer(9).eval(), voxels(count)
    inputs = cells * 0.02, cells, torch.zeros(len(cells), dtype=torch.long), torch.randn(len(cells), 9)
    return torch.no_grad()(lambda: model.all_levels(*inputs))


def rows(make: Any) -> list[Variant]:
    return [Variant(f"{n:7,} voxels", lambda run: run(), functools.partial(make, n)) for n in SIZES]


def sparse_unet(args: argparse.Namespace) -> list[Variant]:
    return rows(unet)


def ptv3(args: argparse.Namespace) -> list[Variant]:
    return rows(transformer)


def sparse_conv(args: argparse.Namespace) -> list[Variant]:
    """3x3x3, 32 to 32 channels, on 25,000 voxels of a room: ours, spconv where it is there, dense over the box."""
    from pointcloud.sparse_layers import SparseConv

    torch.manual_seed(0)
    x, layer = sparse(25_000, 32), SparseConv(32, 32)
    size = (x.coordinates[:, 1:].amax(0) + 1).tolist()
    box = torch.zeros(1, 32, *size)
    box[0, :, x.coordinates[:, 1], x.coordinates[:, 2], x.coordinates[:, 3]] = x.features.T
    dense = torch.nn.Conv3d(32, 32, 3, padding=1, bias=False)
    layer(x)
    peer = spconv_layer(x, layer, size)
    return [
        Variant("sparse, neighbors known", torch.no_grad()(lambda _: layer(x)), lambda: None),
        *([Variant("spconv, neighbors known", torch.no_grad()(lambda _: peer()), lambda: None)] if peer else []),
        Variant(f"dense, a box of {' x '.join(map(str, size))}", torch.no_grad()(lambda _: dense(box)), lambda: None),
    ]


def spconv_layer(x: Any, layer: Any, size: list[int]) -> Any:
    """A function that runs spconv's layer of the same weights, its answer checked; None where it is not installed."""
    try:
        import spconv.pytorch as spconv
    except ImportError:
        return None
    from pointcloud.sparse_layers import to_spconv

    peer = spconv.SubMConv3d(32, 32, 3, bias=False, indice_key="known")
    peer.weight.data = to_spconv(layer.kernel.detach(), 3)
    given = spconv.SparseConvTensor(x.features, x.coordinates.int(), size, 1)
    with torch.no_grad():
        found = peer(given)
        torch.testing.assert_close(found.features, layer(x).features, rtol=1e-4, atol=1e-4)

    def run() -> Any:
        again = given.replace_feature(x.features)
        again.indice_dict = found.indice_dict
        return peer(again)

    return run
