"""Sparse layers against dense convolutions of torch, and against sums written out."""

import pytest
import torch
import torch.nn.functional as F

from pointcloud.sparse import SparseTensor, Voxels, offsets_of, union, voxelize
from pointcloud.sparse_layers import (
    SparseBasicBlock,
    SparseConv,
    SparseConvTranspose,
    SparsePool,
    from_spconv,
    to_spconv,
)

SIDE = 6


def clouds(channels: int = 3, seed: int = 0, dtype: torch.dtype = torch.float32) -> SparseTensor:
    """Two clouds of a few voxels of a cube, in random order, negative ones among them."""
    generator = torch.Generator().manual_seed(seed)
    there = torch.rand(2, SIDE, SIDE, SIDE, generator=generator) < 0.3
    cells = there.nonzero()
    cells = cells[torch.randperm(len(cells), generator=generator)] - torch.tensor([0, 2, 3, 0])
    return SparseTensor.make(torch.randn(len(cells), channels, generator=generator, dtype=dtype), cells)


def dense(x: SparseTensor) -> torch.Tensor:
    """(2, C, X, Y, Z) with zeros where nothing is."""
    grid = x.features.new_zeros(2, SIDE, SIDE, SIDE, x.features.shape[1])
    b, i, j, k = (x.coordinates + torch.tensor([0, 2, 3, 0])).T
    grid[b, i, j, k] = x.features
    return grid.permute(0, 4, 1, 2, 3)


def read_back(grid: torch.Tensor, x: SparseTensor) -> torch.Tensor:
    b, i, j, k = (x.coordinates + torch.tensor([0, 2, 3, 0])).T
    return grid.permute(0, 2, 3, 4, 1)[b, i, j, k]


@pytest.mark.parametrize("size", [3, (3, 1, 5)])
def test_submanifold_convolution_is_a_dense_one_read_at_the_voxels(size):
    x, layer = clouds(), SparseConv(3, 4, size, bias=True)
    weight = to_spconv(layer.kernel, size).permute(0, 4, 1, 2, 3)  # (D, C, kx, ky, kz)
    padding = [n // 2 for n in layer.kernel_size]
    want = read_back(F.conv3d(dense(x), weight, layer.bias[0], padding=padding), x)
    torch.testing.assert_close(layer(x).features, want)


def test_gradients_by_finite_differences():
    x, layer = clouds(2, dtype=torch.float64), SparseConv(2, 2, 3, 2).double()
    features = x.features.clone().requires_grad_()

    def run(features, kernel):
        layer.kernel.data = kernel.data
        return torch.func.functional_call(layer, {"kernel": kernel}, (x.with_features(features),)).features

    assert torch.autograd.gradcheck(run, (features, layer.kernel.detach().clone().requires_grad_()))


def test_strides_floor_toward_minus_infinity_and_return_to_the_same_voxels():
    x = clouds()
    down = SparseConv(3, 4, 2, 2)(x)
    cells = {tuple(c) for c in torch.cat([x.coordinates[:, :1], (x.coordinates[:, 1:] // 2) * 2], 1).tolist()}
    assert {tuple(c) for c in down.coordinates.tolist()} == cells
    back = SparseConvTranspose(4, 3, 2, 2)(down)
    assert back.voxels is x.voxels
    assert (back + x).features.shape == x.features.shape


def test_transposed_is_the_adjoint():
    x = clouds(dtype=torch.float64)
    down, up = SparseConv(3, 4, 3, 2).double(), SparseConvTranspose(4, 3, 3, 2).double()
    up.kernel.data = down.kernel.data.transpose(1, 2)
    coarse = down(x)
    other = torch.randn(coarse.features.shape, dtype=torch.float64)
    left = (coarse.features * other).sum()
    right = (up(coarse.with_features(other)).features * x.features).sum()
    torch.testing.assert_close(left, right)


def test_layers_of_one_resolution_search_once(monkeypatch):
    found = []
    find = Voxels.find_shifted
    monkeypatch.setattr(
        Voxels, "find_shifted", lambda self, c, shifts: found.append(len(shifts)) or find(self, c, shifts)
    )
    block, x = SparseBasicBlock(3), clouds()
    block(block(x))
    assert sum(found) == 14  # 27 offsets, mirrored ones share a search


def test_average_divides_by_the_voxels_that_are_there():
    x = SparseTensor.make(torch.tensor([[1.0], [2.0], [5.0]]), torch.tensor([[0, 0, 0, 0], [0, 1, 1, 1], [0, 2, 0, 0]]))
    pooled = {kind: SparsePool(kind, 2, 2)(x).features[:, 0].tolist() for kind in ("max", "sum", "avg")}
    assert pooled == {"max": [2, 5], "sum": [3, 5], "avg": [1.5, 5]}


def test_union_adds_and_pruning_keeps():
    one = SparseTensor.make(torch.tensor([[1.0], [2.0]]), torch.tensor([[0, 0, 0, 0], [0, 1, 0, 0]]))
    two = SparseTensor.make(torch.tensor([[10.0], [20.0]]), torch.tensor([[0, 1, 0, 0], [1, 0, 0, 0]]))
    both = union(one, two)
    assert both.features[:, 0].tolist() == [1, 12, 20]
    assert both.pruned(both.features[:, 0] > 5).coordinates.tolist() == [[0, 1, 0, 0], [1, 0, 0, 0]]
    with pytest.raises(ValueError, match="other voxels"):
        one + two


def test_voxels_of_points():
    points = torch.tensor([[0.1, 0, 0], [-0.1, 0, 0], [0.4, 0.1, 0]])
    features = torch.tensor([[1.0], [2.0], [4.0]])
    cloud = torch.zeros(3)
    kept = {k: voxelize(points, cloud, features, 0.5, k).features[:, 0].tolist() for k in ("first", "mean", "sum")}
    assert kept == {"first": [2, 1], "mean": [2, 2.5], "sum": [2, 5]}
    assert voxelize(points, cloud, features, 0.5).coordinates.tolist() == [[0, -1, 0, 0], [0, 0, 0, 0]]


def test_what_cannot_be_is_refused():
    twice = torch.tensor([[0, 1, 1, 1], [0, 1, 1, 1]])
    with pytest.raises(ValueError, match="the same voxel"):
        SparseTensor.make(torch.zeros(2, 1), twice)
    far = torch.tensor([[0, 0, 0, 0], [0, 2**30, 2**30, 2**30]])
    with pytest.raises(ValueError, match="too far for 64-bit keys"):
        SparseTensor.make(torch.zeros(2, 1), far)
    with pytest.raises(ValueError, match=r"no tensor of stride \(1, 1, 1\) to return to"):
        SparseConvTranspose(1, 1, 2, 2)(SparseTensor.make(torch.zeros(1, 1), torch.tensor([[0, 2, 2, 2]]), 2))


def test_weights_of_spconv_go_and_come_back():
    weight = torch.randn(4, 3, 5, 1, 2)
    kernel = from_spconv(weight)
    assert torch.equal(to_spconv(kernel, (3, 5, 1)), weight)
    at = offsets_of((3, 5, 1), (1, 1, 1), (1, 1, 1)).index((1, -2, 0))
    assert torch.equal(kernel[at], weight[:, 2, 0, 0].T)
