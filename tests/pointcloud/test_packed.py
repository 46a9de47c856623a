"""Operations on packed clouds: nothing crosses from one cloud into the next."""

import math

import pytest
import torch

from pointcloud.packed import cloud_mean, pack, packed_farthest, packed_knn, scatter_softmax, scatter_sum, starts_of

POINTS = torch.tensor([[0.0, 0, 0], [1, 0, 0], [5, 0, 0], [0, 0, 0], [2, 0, 0], [0, 0, 0]])
SIZES = [3, 2, 1]


def test_packing_keeps_the_first_rows():
    padded = torch.arange(12.0).view(2, 3, 2)
    assert pack(padded, [1, 2]).tolist() == [[0, 1], [6, 7], [8, 9]]
    assert starts_of(SIZES) == [0, 3, 5]


def test_neighbors_stay_in_their_cloud():
    """Ascending distance; a cloud with fewer than k points is filled with its first."""
    found = packed_knn(POINTS, POINTS, SIZES, SIZES, 3)
    assert found.tolist() == [[0, 1, 2], [1, 0, 2], [2, 1, 0], [3, 4, 3], [4, 3, 3], [5, 5, 5]]
    query = torch.tensor([[4.0, 0, 0], [1.9, 0, 0], [9, 0, 0]])
    assert packed_knn(query, POINTS, [1, 1, 1], SIZES, 1).tolist() == [[2], [4], [5]]
    with pytest.raises(ValueError, match="without points"):
        packed_knn(query, POINTS, [1, 1, 1], [3, 3, 0], 1)


def test_far_points_begin_with_the_first_of_each_cloud():
    assert packed_farthest(POINTS, SIZES, [2, 1, 1]).tolist() == [0, 2, 3, 5]
    assert packed_farthest(POINTS, SIZES, [3, 2, 1]).tolist() == [0, 2, 1, 3, 4, 5]


def test_means_are_those_of_each_cloud():
    assert cloud_mean(POINTS[:, :1], SIZES).flatten().tolist() == [2, 2, 2, 1, 1, 0]


def test_softmax_over_rows_that_share_an_index():
    scores = torch.tensor([[0.0, 1.0], [1.0, 500.0], [0.0, 499.0], [3.0, 2.0]])
    index = torch.tensor([2, 0, 0, 2])
    e = math.e
    want = [[1 / (1 + e**3), 1 / (1 + e)], [e / (e + 1), e / (e + 1)], [1 / (e + 1), 1 / (e + 1)]]
    found = scatter_softmax(scores, index, 3)
    assert torch.allclose(found[:3], torch.tensor(want), atol=1e-6)
    assert torch.allclose(scatter_sum(found, index, 3), torch.tensor([[1.0, 1], [0, 0], [1, 1]]), atol=1e-6)
