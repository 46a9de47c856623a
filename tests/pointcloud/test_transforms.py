"""Augmentations keep points, boxes and labels together; generators do what they say."""

import colorsys

import numpy as np
import pytest
import torch

from pointcloud import boxes as box_ops
from pointcloud.datasets.base import CloudError
from pointcloud.toys import scenes as synthetic
from pointcloud.transforms import (
    CenterFloor,
    ColorContrast,
    ColorJitter,
    ColorShift,
    CuboidCrop,
    FarthestPoints,
    HueSaturation,
    Jitter,
    RandomFlip,
    RandomPoints,
    RandomRotation,
    RandomScale,
    ScaleShift,
    SphereCrop,
    ToOrigin,
    UnitBall,
    VoxelPoints,
    voxel_groups,
    wrap,
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


def test_rooms_are_labeled_right(room):
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


@pytest.mark.parametrize("transform", [ColorContrast(1.0), ColorShift(1.0), HueSaturation()])
def test_colors_stay_colors(room, transform):
    out = transform(room, np.random.default_rng(0))["feat"]
    assert out.shape == room["feat"].shape
    assert 0 <= out.min() <= out.max() <= 1
    assert not np.allclose(out, room["feat"])


def plain(count=400, **columns):
    """Random points in a box that is not centered, and nothing else but what is given."""
    coord = np.random.default_rng(3).random((count, 3)).astype(np.float32) * [1, 2, 3] + [4, 5, 6]
    return {"coord": coord.astype(np.float32), **columns}


def test_jitter_is_gaussian_and_cut_on_both_sides():
    zero = {"coord": np.zeros((20_000, 3), np.float32)}
    noise = Jitter(std=0.01, clip=0.05)(zero, np.random.default_rng(0))["coord"]
    assert noise.std() == pytest.approx(0.01, rel=0.02)
    noise = Jitter(std=0.05, clip=0.05)(zero, np.random.default_rng(0))["coord"]
    assert noise.min() == np.float32(-0.05)
    assert noise.max() == np.float32(0.05)
    beyond = (np.abs(noise) == np.float32(0.05)).mean()
    assert beyond == pytest.approx(0.317, abs=0.01)  # a normal number lies beyond one deviation


def test_scale_and_shift_of_every_axis():
    """One factor and one shift per axis, the shift not scaled: EPCL's 2/3 to 3/2, and up to 0.2 either way."""
    cloud, factors, shifts = plain(), [], []
    for seed in range(300):
        out = ScaleShift()(cloud, np.random.default_rng(seed))["coord"].astype(np.float64)
        low, high = cloud["coord"].astype(np.float64).argmin(0), cloud["coord"].argmax(0)
        axes = np.arange(3)
        before = cloud["coord"][high, axes].astype(np.float64) - cloud["coord"][low, axes]
        factor = (out[high, axes] - out[low, axes]) / before
        factors.append(factor)
        shifts.append(out[low, axes] - factor * cloud["coord"][low, axes])
    factors, shifts = np.array(factors), np.array(shifts)
    for values, ends in ((factors, (2 / 3, 3 / 2)), (shifts, (-0.2, 0.2))):
        width = ends[1] - ends[0]
        assert (values.min(0) > ends[0] - 1e-4).all()
        assert (values.min(0) < ends[0] + 0.05 * width).all()
        assert (values.max(0) < ends[1] + 1e-4).all()
        assert (values.max(0) > ends[1] - 0.05 * width).all()
        assert np.abs(np.corrcoef(values.T) - np.eye(3)).max() < 0.2  # every axis has its own


def test_scale_of_scenes_and_their_boxes():
    boxes = np.array([[1, 2, 3, 0.5, 0.6, 0.7, 0.4]], np.float32)
    factors = []
    for seed in range(200):
        out = RandomScale(0.9, 1.1)(plain(boxes=boxes), np.random.default_rng(seed))
        ratio = out["coord"] / plain()["coord"]
        factors.append(ratio[0, 0])
        assert np.allclose(ratio, ratio[0, 0])
        assert np.allclose(out["boxes"], [[*(ratio[0, 0] * boxes[0, :6]), 0.4]])
    assert 0.9 <= min(factors) < 0.91
    assert 1.09 < max(factors) <= 1.1


def test_mirrors_move_points_boxes_and_yaw():
    """A box whose long side points to yaw a clockwise; mirrored in y to -a, in x to pi - a, in both to a + pi."""
    boxes = np.array([[1, 2, 3, 0.5, 0.6, 0.7, 0.4]], np.float32)
    for axes, signs, yaw in (("x", (-1, 1, 1), np.pi - 0.4), ("y", (1, -1, 1), -0.4), ("xy", (-1, -1, 1), 0.4 - np.pi)):
        out = RandomFlip(axes, 1.0)(plain(boxes=boxes), np.random.default_rng(0))
        assert np.allclose(out["coord"], plain()["coord"] * signs)
        assert np.allclose(out["boxes"], [[*(boxes[0, :3] * signs), 0.5, 0.6, 0.7, yaw]], atol=1e-6)
    often = [
        (out["coord"][0, :2] < 0).tolist()
        for out in (RandomFlip(prob=0.2)(plain(), np.random.default_rng(seed)) for seed in range(600))
    ]
    assert np.abs(np.mean(often, 0) - 0.2).max() < 0.05
    assert np.mean([a and b for a, b in often]) == pytest.approx(0.04, abs=0.025)  # each axis by itself
    with pytest.raises(ValueError, match="choose x, y or xy"):
        RandomFlip("z")


def test_rotations_are_counter_clockwise_and_yaw_runs_clockwise():
    cloud = {
        "coord": np.array([[1, 0, 5]], np.float32),
        "boxes": np.array([[1, 0, 5, 0.5, 0.6, 0.7, 0.4]], np.float32),
    }
    angles = []
    for seed in range(300):
        out = RandomRotation(30)(cloud, np.random.default_rng(seed))
        x, y, z = out["coord"][0]
        angle = np.arctan2(y, x)
        angles.append(np.rad2deg(angle))
        assert (np.hypot(x, y), z) == pytest.approx((1, 5), abs=1e-5)
        assert np.allclose(out["boxes"], [[x, y, 5, 0.5, 0.6, 0.7, 0.4 - angle]], atol=1e-5)
    assert -30.001 < min(angles) < -28
    assert 28 < max(angles) < 30.001
    for seed in range(5):
        out = RandomRotation(180, rebox=True)(cloud, np.random.default_rng(seed))
        angle = np.arctan2(out["coord"][0, 1], out["coord"][0, 0])
        c, s = abs(np.cos(angle)), abs(np.sin(angle))  # the hull of a turned rectangle
        hull = [c * 0.5 + s * 0.6, s * 0.5 + c * 0.6, 0.7, 0.4]
        assert np.allclose(out["boxes"][0, 3:], hull, atol=1e-5)


def test_angles_are_wrapped_to_half_a_turn():
    given = np.array([0.0, 3.5, -3.5, np.pi, -np.pi, 9.0])
    want = [0.0, 3.5 - 2 * np.pi, 2 * np.pi - 3.5, np.pi, np.pi, 9.0 - 2 * np.pi]
    assert np.allclose(wrap(given), want)


def test_unit_ball_is_centered_on_the_mean():
    """By hand: the mean of 0, 0, 3 on x is 1, and the farthest point is then 2 away."""
    cloud = {"coord": np.array([[0, 0, 0], [0, 0, 0], [3, 0, 0]], np.float32)}
    assert UnitBall()(cloud, None)["coord"].tolist() == [[-0.5, 0, 0], [-0.5, 0, 0], [1, 0, 0]]


def test_scenes_are_moved_to_the_floor_and_to_the_origin():
    coord = np.array([[1, 2, 3], [1, 2, 3], [5, 4, 9]], np.float32)
    boxes = np.array([[2, 3, 4, 1, 1, 1, 0.3]], np.float32)
    floor = CenterFloor()({"coord": coord, "boxes": boxes}, None)
    assert floor["coord"].tolist() == [[-2, -1, 0], [-2, -1, 0], [2, 1, 6]]
    assert np.allclose(floor["boxes"], [[-1, 0, 1, 1, 1, 1, 0.3]])
    origin = ToOrigin()({"coord": coord, "boxes": boxes}, None)
    assert origin["coord"].tolist() == [[0, 0, 0], [0, 0, 0], [4, 2, 6]]
    assert np.allclose(origin["boxes"], [[1, 1, 1, 1, 1, 1, 0.3]])


def test_cuboids_have_the_sides_asked_and_keep_what_stands_in_them():
    """Points on three lines through the middle of a scene of 10 m, where most points are, measure the crops."""
    line = np.linspace(0, 10, 401)
    arms = [np.insert(np.full((401, 2), 5.0), axis, line, axis=1) for axis in range(3)]
    coord = np.concatenate([*arms, np.full((9000, 3), 5.0)]).astype(np.float32)
    label = np.arange(0, 1203, 6)
    boxes = np.concatenate([coord[label], np.ones((len(label), 4), np.float32)], axis=1)
    cloud = {"coord": coord, "boxes": boxes, "box_label": label, "instance": np.arange(len(coord))}
    shares = []
    for seed in range(150):
        crop = CuboidCrop(min_points=1000, aspect=0.8, min_side=0.5, max_side=0.7)
        out = crop(cloud, np.random.default_rng(seed))
        assert np.array_equal(coord[out["instance"]], out["coord"])
        assert out["box_label"].tolist() == [i for i in label if i in set(out["instance"])]
        assert np.array_equal(out["boxes"], boxes[np.searchsorted(label, out["box_label"])])
        low, high = out["coord"].min(0), out["coord"].max(0)
        if np.allclose(low + high, 10, atol=0.06):  # cut around the middle
            shares.append((high - low) / 10)
    shares = np.array(shares)
    assert len(shares) > 100
    assert 0.495 <= shares.min() < 0.52
    assert 0.68 < shares.max() <= 0.7
    aspect = shares.min(1) / shares.max(1)
    assert 0.79 <= aspect.min() < 0.83


def test_voxels_keep_a_random_point_and_begin_at_the_lowest():
    coord = np.array([[0.5, 0, 0], [1.25, 0, 0], [1.75, 0, 0], [3.0, 0, 0]], np.float32)
    order, counts = voxel_groups(coord, 1.0)  # voxels from 0.5 to 1.5, to 2.5, to 3.5
    assert counts.tolist() == [2, 1, 1]
    assert order.tolist() == [0, 1, 2, 3]
    firsts = {float(VoxelPoints(1.0)({"coord": coord}, np.random.default_rng(s))["coord"][0, 0]) for s in range(40)}
    assert firsts == {float(coord[0, 0]), float(coord[1, 0])}


def test_spheres_hold_the_nearest_points():
    cloud = plain(instance=np.arange(400))
    for seed in range(5):
        out = SphereCrop(50)(cloud, np.random.default_rng(seed))
        gaps = ((cloud["coord"][:, None] - cloud["coord"][None]) ** 2).sum(-1)
        spheres = [set(row.argsort()[:50]) for row in gaps]
        assert set(out["instance"]) in spheres
    orders = {tuple(SphereCrop(500)(cloud, np.random.default_rng(s))["instance"]) for s in range(3)}
    assert len(orders) == 3
    assert {tuple(sorted(o)) for o in orders} == {tuple(range(400))}


def test_random_points_are_drawn_without_replacement_while_there_are_enough():
    cloud = plain(instance=np.arange(400))
    some = RandomPoints(300)(cloud, np.random.default_rng(0))["instance"]
    assert len(set(some)) == 300
    assert set(some) != set(range(300))
    many = RandomPoints(1000)(cloud, np.random.default_rng(0))["instance"]
    assert np.bincount(many, minlength=400).min() >= 1
    assert len(many) == 1000


def colored(count=200, extra=1):
    feat = np.random.default_rng(2).uniform(0.3, 0.6, (count, 3 + extra)).astype(np.float32)
    feat[:, 0] -= 0.1
    return plain(count, feat=feat)


def test_contrast_stretches_every_channel_and_blends():
    cloud = colored()
    color, shares = cloud["feat"][:, :3].astype(np.float64), []
    full = (color - color.min(0)) / (color.max(0) - color.min(0))
    for seed in range(50):
        out = ColorContrast(1.0)(cloud, np.random.default_rng(seed))["feat"]
        assert np.array_equal(out[:, 3:], cloud["feat"][:, 3:])
        share = (out[0, 0] - color[0, 0]) / (full[0, 0] - color[0, 0])
        shares.append(share)
        assert np.allclose(out[:, :3], (1 - share) * color + share * full, atol=1e-4)
    assert 0 <= min(shares) < 0.1
    assert 0.9 < max(shares) <= 1


def test_color_shift_is_one_color_and_jitter_is_noise():
    cloud = colored()
    shifts = []
    for seed in range(200):
        moved = ColorShift(1.0, 0.05)(cloud, np.random.default_rng(seed))["feat"] - cloud["feat"]
        assert np.allclose(moved, moved[0], atol=1e-6)
        assert moved[0, 3] == 0
        shifts.append(moved[0, :3])
    assert np.abs(shifts).max() < 0.0501
    assert np.abs(shifts).max(0).min() > 0.045
    assert np.abs(np.corrcoef(np.array(shifts).T) - np.eye(3)).max() < 0.3
    noise = (ColorJitter(1.0)(colored(5000), np.random.default_rng(0))["feat"] - colored(5000)["feat"])[:, :3]
    assert noise.std() == pytest.approx(0.005, rel=0.05)  # the released recipe's
    with pytest.raises(CloudError, match="ColorJitter needs colors"):
        ColorJitter(1.0)(plain(), np.random.default_rng(0))


def test_hue_is_turned_and_saturation_scaled_alike_for_all_points():
    cloud = colored()
    before = np.array([colorsys.rgb_to_hsv(*c) for c in cloud["feat"][:, :3].tolist()])
    turns, scales = [], []
    for seed in range(60):
        out = HueSaturation()(cloud, np.random.default_rng(seed))["feat"]
        after = np.array([colorsys.rgb_to_hsv(*c) for c in out[:, :3].tolist()])
        turn = (after[:, 0] - before[:, 0] + 0.5) % 1 - 0.5
        assert np.abs((turn - turn[0] + 0.5) % 1 - 0.5).max() < 1e-3
        assert np.allclose(after[:, 2], before[:, 2], atol=1e-4)
        scale = after[:, 1] / before[:, 1]
        assert np.allclose(scale, scale[0], atol=1e-3)
        turns.append(turn[0])
        scales.append(scale[0])
    assert -0.5 <= min(turns) < -0.4
    assert 0.4 < max(turns) <= 0.5
    assert 0.8 < min(scales) < 0.83
    assert 1.17 < max(scales) < 1.2


@pytest.mark.parametrize("make", [ColorContrast, ColorShift, ColorJitter])
def test_colors_change_as_often_as_asked(make):
    cloud = colored(20)
    changed = [make(prob=0.2)(cloud, np.random.default_rng(seed)) is not cloud for seed in range(500)]
    assert np.mean(changed) == pytest.approx(0.2, abs=0.05)


def test_made_objects_fill_the_unit_ball_and_show_one_side():
    for name in synthetic.OBJECTS:
        cloud = synthetic.object_cloud(name, np.random.default_rng(0), 2000, noise=0.0)
        radius = np.linalg.norm(cloud["coord"], axis=1)
        assert np.quantile(radius, 0.95) <= 1.0 + 1e-6  # but for a few stray points
        assert np.quantile(radius, 0.95) > 0.5
        assert np.allclose(np.linalg.norm(cloud["feat"], axis=1), 1, atol=1e-5)


def test_made_rooms_are_scanned_from_inside():
    """Furniture stands on the floor without touching, colors stay colors, walls are seen from within only."""
    for seed in range(4):
        cloud = synthetic.room(np.random.default_rng(seed), 4000, noise=0.0)
        assert 0 <= cloud["feat"].min() <= cloud["feat"].max() <= 1
        boxes = torch.from_numpy(cloud["boxes"])
        assert torch.allclose(boxes[:, 2] - boxes[:, 5] / 2, torch.zeros(len(boxes)), atol=1e-5)
        gaps = (boxes[:, None, :2] - boxes[None, :, :2]).norm(dim=-1)
        reach = boxes[:, 3:5].norm(dim=-1) / 2
        apart = gaps > reach[:, None] + reach[None] - 1e-4
        assert apart.fill_diagonal_(True).all()
        floor = cloud["coord"][cloud["segment"] == 0]
        assert np.abs(floor[:, 2]).max() < 1e-6
        # the underside of furniture faces the floor: no scanner at eye height sees it
        assert inside(cloud, 1e-4).min() > 0.999
        for number, box in enumerate(cloud["boxes"], start=1):
            mine = cloud["coord"][cloud["instance"] == number]
            assert (mine[:, 2] < 1e-6).mean() < 0.02, box


@pytest.mark.parametrize(("offset", "count"), [(0, 1_000), (100, 1_000_000), (1000, 200_000)])
def test_the_unit_ball_of_many_points_far_from_zero_is_centered(offset, count):
    coord = (np.random.default_rng(0).uniform(0, 1, (count, 3)) + offset).astype(np.float32)
    cloud = UnitBall()({"coord": coord}, np.random.default_rng(0))
    assert np.abs(cloud["coord"].mean(0, dtype=np.float64)).max() < 1e-4
    back = cloud["coord"].astype(np.float64) * cloud["scale"] + cloud["shift"]
    assert np.abs(back - coord).max() < 1e-4
