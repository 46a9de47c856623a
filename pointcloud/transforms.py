"""Augmentations and samplings of the recipes: `transform(cloud, rng) -> cloud`, see `datasets/base.py` for clouds.

Nothing is changed in place, and everything random comes from the generator.
"""

from collections.abc import Sequence

import numpy as np
import torch

from pointcloud import ops
from pointcloud.datasets.base import Cloud, CloudError, select
from pointcloud.voxels import voxel_groups
from xmodal.registry import TRANSFORMS


def rotate_up(coord: np.ndarray, angle: float) -> np.ndarray:
    """Points (P, 3) turned counter-clockwise around z."""
    c, s = np.cos(angle), np.sin(angle)
    return (coord @ np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]])).astype(np.float32)


def moved(cloud: Cloud, shift: np.ndarray, scale: float = 1.0) -> Cloud:
    """The cloud with coordinates (x - shift) / scale.

    What has been done to the coordinates adds up in `scale` and `shift`, by which results find their way back:
    x * scale + shift.
    """
    coord = ((cloud["coord"] - shift) / scale).astype(np.float32)
    before = cloud.get("scale", 1.0), cloud.get("shift", np.zeros(3))
    return {**cloud, "coord": coord, "scale": before[0] * scale, "shift": before[0] * np.asarray(shift) + before[1]}


@TRANSFORMS.register_module(name="unit_ball")
class UnitBall:
    """Center on the mean and scale to unit radius."""

    def __call__(self, cloud: Cloud, rng: np.random.Generator) -> Cloud:
        """Normalize."""
        mean = cloud["coord"].mean(0, dtype=np.float64)  # float32 sums drift with a million points
        return moved(cloud, mean, max(float(np.linalg.norm(cloud["coord"] - mean, axis=1).max()), 1e-9))


@TRANSFORMS.register_module(name="farthest_points")
class FarthestPoints:
    """Keep `num_points` points that are far from each other; all when there are fewer."""

    def __init__(self, num_points: int):
        self.num_points = num_points

    def __call__(self, cloud: Cloud, rng: np.random.Generator) -> Cloud:
        """Sample."""
        if len(cloud["coord"]) <= self.num_points:
            return cloud
        return select(
            cloud, ops.farthest_point_sample(torch.from_numpy(cloud["coord"])[None], self.num_points)[0].numpy()
        )


@TRANSFORMS.register_module(name="random_points")
class RandomPoints:
    """Keep `num_points` random points; with fewer, each at least once and some again."""

    def __init__(self, num_points: int):
        self.num_points = num_points

    def __call__(self, cloud: Cloud, rng: np.random.Generator) -> Cloud:
        """Sample."""
        count = len(cloud["coord"])
        index = rng.permutation(count)[: self.num_points]
        if count < self.num_points:
            index = np.concatenate([index, rng.integers(count, size=self.num_points - count)])
        return select(cloud, index)


@TRANSFORMS.register_module(name="scale_shift")
class ScaleShift:
    """Scale every axis by its own factor, then shift (EPCL's classification recipe).

    Args:
        scale: range of the factors.
        shift: largest shift.
    """

    def __init__(self, scale: Sequence[float] = (2 / 3, 3 / 2), shift: float = 0.2):
        self.scale, self.shift = tuple(scale), shift

    def __call__(self, cloud: Cloud, rng: np.random.Generator) -> Cloud:
        """Augment coordinates."""
        coord = cloud["coord"] * rng.uniform(self.scale[0], self.scale[1], 3) + rng.uniform(-self.shift, self.shift, 3)
        return {**cloud, "coord": coord.astype(np.float32)}


@TRANSFORMS.register_module(name="jitter")
class Jitter:
    """Gaussian noise on coordinates, cut at `clip`."""

    def __init__(self, std: float = 0.01, clip: float = 0.05):
        self.std, self.clip = std, clip

    def __call__(self, cloud: Cloud, rng: np.random.Generator) -> Cloud:
        """Augment coordinates."""
        noise = rng.normal(0, self.std, cloud["coord"].shape).clip(-self.clip, self.clip)
        return {**cloud, "coord": (cloud["coord"] + noise).astype(np.float32)}


@TRANSFORMS.register_module(name="random_scale")
class RandomScale:
    """Scale the whole scene, then move it, boxes included.

    Args:
        low: smallest factor.
        high: largest factor.
        shift: farthest that it moves along each axis, meters.
    """

    def __init__(self, low: float = 0.9, high: float = 1.1, shift: float = 0.0):
        self.low, self.high, self.shift = low, high, shift

    def __call__(self, cloud: Cloud, rng: np.random.Generator) -> Cloud:
        """Augment coordinates and boxes."""
        factor = np.float32(rng.uniform(self.low, self.high))
        shift = rng.uniform(-self.shift, self.shift, 3).astype(np.float32) if self.shift else np.zeros(3, np.float32)
        out = {**cloud, "coord": cloud["coord"] * factor + shift}
        if "boxes" in cloud:
            boxes = cloud["boxes"]
            out["boxes"] = np.concatenate([boxes[:, :3] * factor + shift, boxes[:, 3:6] * factor, boxes[:, 6:]], 1)
        return out


@TRANSFORMS.register_module(name="random_flip")
class RandomFlip:
    """Mirror the scene, boxes included.

    Args:
        axes: of `x` and `y`; each is mirrored by itself.
        prob: of each.
    """

    def __init__(self, axes: str = "xy", prob: float = 0.5):
        if not set(axes) <= set("xy"):
            raise ValueError(f"axes {axes!r}: choose x, y or xy")
        self.axes, self.prob = ["xyz".index(a) for a in axes], prob

    def __call__(self, cloud: Cloud, rng: np.random.Generator) -> Cloud:
        """Augment coordinates and boxes."""
        out = dict(cloud)
        for axis in self.axes:
            if rng.random() >= self.prob:
                continue
            mirror = np.ones(3, np.float32)
            mirror[axis] = -1
            out["coord"] = out["coord"] * mirror
            if "boxes" in out:
                boxes = out["boxes"].copy()
                boxes[:, axis] *= -1
                # mirroring x turns yaw into pi - yaw, mirroring y into -yaw; a box is the same after half a turn
                boxes[:, 6] = wrap(np.pi - boxes[:, 6]) if axis == 0 else -boxes[:, 6]
                out["boxes"] = boxes
        return out


def wrap(angle: np.ndarray) -> np.ndarray:
    """Angles in (-pi, pi]."""
    return np.pi - (np.pi - angle) % (2 * np.pi)


@TRANSFORMS.register_module(name="random_rotation")
class RandomRotation:
    """Turn the scene around z, boxes included.

    Args:
        degrees: largest angle either way; 180 for any.
        rebox: boxes stay axis-aligned and grow to hold what they held (ScanNet); otherwise their yaw turns.
    """

    def __init__(self, degrees: float = 5, rebox: bool = False):
        self.degrees, self.rebox = degrees, rebox

    def __call__(self, cloud: Cloud, rng: np.random.Generator) -> Cloud:
        """Augment coordinates and boxes."""
        angle = np.deg2rad(rng.uniform(-self.degrees, self.degrees))
        out = {**cloud, "coord": rotate_up(cloud["coord"], angle)}
        if "boxes" in cloud:
            boxes = cloud["boxes"].copy()
            boxes[:, :3] = rotate_up(boxes[:, :3], angle)
            if self.rebox:
                c, s = abs(np.cos(angle)), abs(np.sin(angle))
                boxes[:, 3], boxes[:, 4] = c * boxes[:, 3] + s * boxes[:, 4], s * boxes[:, 3] + c * boxes[:, 4]
            else:
                boxes[:, 6] = wrap(boxes[:, 6] - angle)  # yaw runs clockwise
            out["boxes"] = boxes.astype(np.float32)
        return out


@TRANSFORMS.register_module(name="cuboid_crop")
class CuboidCrop:
    """Cut a random box out of the scene (3DETR's recipe); objects whose center is outside go.

    Args:
        min_points: a crop with fewer points is drawn again.
        aspect: smallest ratio of the crop's sides, as shares of the scene.
        min_side: smallest share of a side.
        max_side: largest share of a side.
        tries: crops drawn before the scene is left whole.
    """

    def __init__(
        self,
        min_points: int = 30_000,
        aspect: float = 0.8,
        min_side: float = 0.5,
        max_side: float = 1.0,
        tries: int = 100,
    ):
        self.min_points, self.aspect, self.tries = min_points, aspect, tries
        self.min_side, self.max_side = min_side, max_side

    def __call__(self, cloud: Cloud, rng: np.random.Generator) -> Cloud:
        """Crop."""
        coord = cloud["coord"]
        extent = coord.max(0) - coord.min(0)
        for _ in range(self.tries):
            share = rng.uniform(self.min_side, self.max_side, 3)
            if share.min() / share.max() < self.aspect:
                continue
            center, half = coord[rng.integers(len(coord))], extent * share / 2
            keep = (np.abs(coord - center) <= half).all(1)
            inside = (np.abs(cloud["boxes"][:, :3] - center) <= half).all(1) if "boxes" in cloud else None
            if keep.sum() < self.min_points or (inside is not None and len(inside) and not inside.any()):
                continue
            out = select(cloud, keep)
            if inside is not None:
                out["boxes"], out["box_label"] = cloud["boxes"][inside], cloud["box_label"][inside]
            return out
        return cloud


@TRANSFORMS.register_module(name="voxel_points")
class VoxelPoints:
    """Keep one random point of every occupied voxel."""

    def __init__(self, size: float = 0.04):
        if size <= 0:
            raise ValueError(f"voxel size must be positive, got {size}")
        self.size = size

    def __call__(self, cloud: Cloud, rng: np.random.Generator) -> Cloud:
        """Sample."""
        order, counts = voxel_groups(cloud["coord"], self.size)
        start = np.concatenate([[0], counts.cumsum()[:-1]])
        return select(cloud, order[start + rng.integers(0, counts)])


@TRANSFORMS.register_module(name="sphere_crop")
class SphereCrop:
    """Keep the `max_points` points nearest to a random one, in random order; the scene when it has fewer."""

    def __init__(self, max_points: int = 40_000):
        self.max_points = max_points

    def __call__(self, cloud: Cloud, rng: np.random.Generator) -> Cloud:
        """Crop."""
        coord = cloud["coord"]
        index = np.arange(len(coord))
        if len(coord) > self.max_points:
            gap = ((coord - coord[rng.integers(len(coord))]) ** 2).sum(1)
            index = np.argpartition(gap, self.max_points)[: self.max_points]
        return select(cloud, rng.permutation(index))


@TRANSFORMS.register_module(name="to_origin")
class ToOrigin:
    """Move the scene so that its lowest coordinates are 0; boxes move along."""

    def origin(self, coord: np.ndarray) -> np.ndarray:
        """Return the point (3,) that becomes 0."""
        return coord.min(0)

    def __call__(self, cloud: Cloud, rng: np.random.Generator) -> Cloud:
        """Shift."""
        shift = self.origin(cloud["coord"])
        out = moved(cloud, shift)
        if "boxes" in cloud:
            out["boxes"] = np.concatenate([cloud["boxes"][:, :3] - shift, cloud["boxes"][:, 3:]], axis=1)
        return out


@TRANSFORMS.register_module(name="center_floor")
class CenterFloor(ToOrigin):
    """Move the scene: x and y to the middle, z to the floor; boxes move along."""

    def origin(self, coord: np.ndarray) -> np.ndarray:
        """Return the middle of the floor (3,)."""
        low, high = coord.min(0), coord.max(0)
        return np.array([*(low + high)[:2] / 2, low[2]], np.float32)


class ColorTransform:
    """A transform of the colors (the first three features, 0..1), done with probability `prob`."""

    def __init__(self, prob: float):
        self.prob = prob

    def __call__(self, cloud: Cloud, rng: np.random.Generator) -> Cloud:
        """Change colors.

        Raises:
            CloudError: the cloud has none.
        """
        if rng.random() >= self.prob:
            return cloud
        feat = cloud.get("feat")
        if feat is None or feat.shape[1] < 3:
            raise CloudError(f"{type(self).__name__} needs colors, and this cloud has none: remove it from the recipe")
        color = self.change(feat[:, :3], rng).clip(0, 1)
        return {**cloud, "feat": np.concatenate([color, feat[:, 3:]], axis=1).astype(np.float32)}

    def change(self, color: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Map colors (P, 3) to colors."""
        raise NotImplementedError


@TRANSFORMS.register_module(name="color_contrast")
class ColorContrast(ColorTransform):
    """Stretch every channel to the full range, blended with what was there by a random share."""

    def __init__(self, prob: float = 0.2):
        super().__init__(prob)

    def change(self, color: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Stretch."""
        low, high = color.min(0, keepdims=True), color.max(0, keepdims=True)
        share = rng.random()
        return (1 - share) * color + share * (color - low) / np.maximum(high - low, 1e-6)


@TRANSFORMS.register_module(name="color_shift")
class ColorShift(ColorTransform):
    """Add one random color, up to `ratio` each way."""

    def __init__(self, prob: float = 0.95, ratio: float = 0.05):
        super().__init__(prob)
        self.ratio = ratio

    def change(self, color: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Shift."""
        return color + rng.uniform(-self.ratio, self.ratio, (1, 3))


@TRANSFORMS.register_module(name="color_jitter")
class ColorJitter(ColorTransform):
    """Gaussian noise on every color."""

    def __init__(self, prob: float = 0.95, std: float = 0.005):
        super().__init__(prob)
        self.std = std

    def change(self, color: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Add noise."""
        return color + rng.normal(0, self.std, color.shape)


@TRANSFORMS.register_module(name="hue_saturation")
class HueSaturation(ColorTransform):
    """Turn the hue and scale the saturation, the same for all points.

    Args:
        hue: largest turn, in turns.
        saturation: largest relative change.
        prob: of doing so.
    """

    def __init__(self, hue: float = 0.5, saturation: float = 0.2, prob: float = 1.0):
        super().__init__(prob)
        self.hue, self.saturation = hue, saturation

    def change(self, color: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Turn and scale."""
        from matplotlib.colors import hsv_to_rgb, rgb_to_hsv

        hsv = rgb_to_hsv(color.clip(0, 1))
        hsv[:, 0] = (hsv[:, 0] + rng.uniform(-self.hue, self.hue)) % 1
        hsv[:, 1] = (hsv[:, 1] * (1 + rng.uniform(-self.saturation, self.saturation))).clip(0, 1)
        return hsv_to_rgb(hsv)
