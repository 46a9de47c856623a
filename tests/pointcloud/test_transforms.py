"""Augmentations keep points, boxes and labels together; generators do what they say."""

import numpy as np
import pytest
import torch

from pointcloud import boxes as box_ops
from pointcloud import synthetic
from pointcloud.transforms import (
    ColourContrast,
    ColourShift,
    CuboidCrop,
    FarthestPoints,
    HueSaturation,
    RandomFlip,
    RandomPoints,
    RandomRotation,
    RandomScale,
    SphereCrop,
    UnitBall,
    VoxelPoints,
    voxel_groups,
)


@pytest.fixture(scope="module")
def room():
    return synthetic.room(np.random.default_rng(1), 3000)


def inside(cloud, slack=0.05):
    """Share of each object's points that its box holds."""
    shares = []
    for number, box in enumerate(cloud["boxes"], start=1):
        points = torch.from_numpy(cloud["coord"][cloud["instance"] == number])
        shares.append(box_ops.contains(torch.from_numpy(box)[None], points, slack).float().mean().item())
    return np.array(shares)


def test_rooms_are_labelled_right(room):
    assert len(room["boxes"]) >= 2
    assert inside(room).min() > 0.97
    for number, label in enumerate(room["box_label"], start=1):
        assert set(room["segment"][room["instance"] == number]) == {2 + label}
    overlap = box_ops.iou(*[torch.from_numpy(room["boxes"])] * 2).fill_diagonal_(0)
    assert overlap.max() < 1e-6
    again = synthetic.room(np.random.default_rng(1), 3000)
    assert all(np.array_equal(room[k], again[k]) for k in room)


@pytest.mark.parametrize("name", synthetic.OBJECTS)
def test_objects(name):
    cloud = synthetic.object_cloud(name, np.random.default_rng(0), 300)
    assert cloud["coord"].shape == (300, 3)
    assert np.isfinite(cloud["coord"]).all()
    other = synthetic.object_cloud(name, np.random.default_rng(1), 300)
    assert not np.array_equal(cloud["coord"], other["coord"])


@pytest.mark.parametrize(
    "transform",
    [RandomFlip(prob=1.0), RandomFlip("x", 1.0), RandomRotation(180), RandomRotation(5, rebox=True), RandomScale()],
)
def test_boxes_follow_their_points(room, transform):
    before = {k: v.copy() for k, v in room.items()}
    if getattr(transform, "rebox", False):
        straight = room["boxes"].copy()
        low, high = (x.numpy() for x in box_ops.hull(torch.from_numpy(room["boxes"])))
        straight[:, :3], straight[:, 3:6], straight[:, 6] = (low + high) / 2, high - low, 0
        room = {**room, "boxes": straight}
    out = transform(room, np.random.default_rng(5))
    assert not np.allclose(out["coord"], room["coord"])
    assert inside(out).min() > 0.97
    assert all(np.array_equal(before[k], v) for k, v in room.items() if k != "boxes")


def test_crops(room):
    out = CuboidCrop(min_points=300, aspect=0.75)(room, np.random.default_rng(0))
    assert 300 <= len(out["coord"]) < 3000
    assert len(out["coord"]) == len(out["segment"]) == len(out["feat"])
    assert len(out["boxes"]) == len(out["box_label"]) >= 1
    out = SphereCrop(500)(room, np.random.default_rng(0))
    assert len(out["coord"]) == 500
    assert CuboidCrop(min_points=10**6)(room, np.random.default_rng(0)) is room


def test_samplings(room):
    order, counts = voxel_groups(room["coord"], 0.2)
    assert counts.sum() == 3000
    assert sorted(order) == list(range(3000))
    out = VoxelPoints(0.2)(room, np.random.default_rng(0))
    assert len(out["coord"]) == len(counts)
    cells = np.floor((out["coord"] - room["coord"].min(0)) / 0.2)
    assert len(np.unique(cells, axis=0)) == len(cells)
    assert len(RandomPoints(100)(room, np.random.default_rng(0))["coord"]) == 100
    few = RandomPoints(4000)(room, np.random.default_rng(0))
    assert len(np.unique(few["coord"], axis=0)) == len(np.unique(room["coord"], axis=0))
    far = FarthestPoints(10)(room, np.random.default_rng(0))
    assert np.array_equal(far["coord"][0], room["coord"][0])


def test_unit_ball(room):
    coord = UnitBall()(room, None)["coord"]
    assert np.abs(coord.mean(0)).max() < 1e-5
    assert np.linalg.norm(coord, axis=1).max() == pytest.approx(1)


@pytest.mark.parametrize("transform", [ColourContrast(1.0), ColourShift(1.0), HueSaturation()])
def test_colours_stay_colours(room, transform):
    out = transform(room, np.random.default_rng(0))["feat"]
    assert out.shape == room["feat"].shape
    assert 0 <= out.min() <= out.max() <= 1
    assert not np.allclose(out, room["feat"])
