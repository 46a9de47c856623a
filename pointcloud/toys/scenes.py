"""Clouds made here: objects built from parts, and furnished rooms with labels, instances and oriented boxes.

Surfaces are sampled by area; scans see them from one side, with noise, occluders and clutter. Everything follows from a
seed. Nothing of it is evidence about real scans.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pointcloud.datasets.base import Cloud

Rng = np.random.Generator


@dataclass
class Piece:
    """A surface: points (N, 3) with outward normals (N, 3) and the area they stand for."""

    points: np.ndarray
    normals: np.ndarray

    def moved(self, shift: tuple[float, float, float], yaw: float = 0.0) -> "Piece":
        """Turned around z (counter-clockwise), then shifted."""
        c, s = np.cos(yaw), np.sin(yaw)
        turn = np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]])
        return Piece(self.points @ turn + np.asarray(shift), self.normals @ turn)


DENSITY = 3000.0  # points per unit of area before scanning


def block(rng: Rng, size: tuple[float, float, float], shift: tuple[float, float, float] = (0, 0, 0)) -> Piece:
    """The surface of a box whose lower face is centered on `shift`."""
    x, y, z = size
    areas = np.array([y * z, y * z, x * z, x * z, x * y, x * y])
    count = max(24, int(areas.sum() * DENSITY))
    side = rng.choice(6, count, p=areas / areas.sum())
    points = rng.uniform(-0.5, 0.5, (count, 3))
    normals = np.zeros((count, 3))
    rows, axis, sign = np.arange(count), side // 2, np.where(side % 2, 1.0, -1.0)
    points[rows, axis] = sign / 2
    normals[rows, axis] = sign
    return Piece(points * size + np.asarray(shift) + [0, 0, z / 2], normals)


def turned(
    rng: Rng, profile: Callable[[np.ndarray], np.ndarray], height: float, shift: tuple[float, float, float] = (0, 0, 0)
) -> Piece:
    """A surface of revolution around z: `profile` gives the radius at a relative height in 0..1."""
    t = np.linspace(0, 1, 65)
    area = 2 * np.pi * profile(t).mean() * height
    count = max(24, int(area * DENSITY))
    weight = profile(t) + 1e-6
    h = np.interp(rng.random(count), np.concatenate([[0], weight.cumsum()[1:] / weight[1:].sum()]), t)
    angle = rng.uniform(0, 2 * np.pi, count)
    radius = profile(h)
    points = np.stack([radius * np.cos(angle), radius * np.sin(angle), h * height], axis=1) + np.asarray(shift)
    return Piece(points, np.stack([np.cos(angle), np.sin(angle), np.zeros(count)], axis=1))


def tube(rng: Rng, radius: float, height: float, shift: tuple[float, float, float] = (0, 0, 0)) -> Piece:
    """An upright cylinder without lids."""
    return turned(rng, lambda t: np.full_like(t, radius), height, shift)


def disc(rng: Rng, radius: float, shift: tuple[float, float, float] = (0, 0, 0)) -> Piece:
    """A flat round plate facing up."""
    count = max(24, int(np.pi * radius**2 * DENSITY))
    angle, r = rng.uniform(0, 2 * np.pi, count), radius * np.sqrt(rng.random(count))
    points = np.stack([r * np.cos(angle), r * np.sin(angle), np.zeros(count)], axis=1) + np.asarray(shift)
    return Piece(points, np.tile([0.0, 0.0, 1.0], (count, 1)))


def legs(rng: Rng, x: float, y: float, height: float, thick: float) -> list[Piece]:
    """Four legs under a plate of size x by y."""
    places = [(i * (x - thick) / 2, j * (y - thick) / 2, 0.0) for i in (-1, 1) for j in (-1, 1)]
    return [block(rng, (thick, thick, height), place) for place in places]


def chair(rng: Rng) -> list[Piece]:
    """Seat, back, four legs."""
    w, seat, back = rng.uniform(0.42, 0.55), rng.uniform(0.4, 0.5), rng.uniform(0.4, 0.6)
    plate = block(rng, (w, w, 0.06), (0, 0, seat))
    return [plate, block(rng, (w, 0.05, back), (0, (w - 0.05) / 2, seat + 0.06)), *legs(rng, w, w, seat, 0.05)]


def table(rng: Rng) -> list[Piece]:
    """Plate and four legs."""
    x, y, z = rng.uniform(1.0, 1.6), rng.uniform(0.6, 0.9), rng.uniform(0.65, 0.8)
    return [block(rng, (x, y, 0.05), (0, 0, z)), *legs(rng, x, y, z, 0.07)]


def bed(rng: Rng) -> list[Piece]:
    """Mattress, headboard, pillow."""
    x, y, z = rng.uniform(0.9, 1.6), rng.uniform(1.9, 2.1), rng.uniform(0.35, 0.5)
    head = block(rng, (x, 0.08, z + rng.uniform(0.3, 0.5)), (0, (y - 0.08) / 2, 0))
    return [block(rng, (x, y, z)), head, block(rng, (0.7 * x, 0.35, 0.12), (0, y / 2 - 0.3, z))]


def sofa(rng: Rng) -> list[Piece]:
    """Seat, back, two arms."""
    x, y, z = rng.uniform(1.5, 2.1), rng.uniform(0.75, 0.95), rng.uniform(0.38, 0.46)
    arm = 0.18
    arms = [block(rng, (arm, y, z + 0.2), (i * (x - arm) / 2, 0, 0)) for i in (-1, 1)]
    return [block(rng, (x - 2 * arm, y, z)), block(rng, (x, 0.2, z + 0.4), (0, (y - 0.2) / 2, 0)), *arms]


def shelf(rng: Rng) -> list[Piece]:
    """Two sides, a back and boards."""
    x, y, z = rng.uniform(0.7, 1.1), rng.uniform(0.28, 0.38), rng.uniform(1.6, 2.0)
    sides = [block(rng, (0.04, y, z), (i * (x - 0.04) / 2, 0, 0)) for i in (-1, 1)]
    boards = [block(rng, (x, y, 0.04), (0, 0, h)) for h in np.linspace(0.05, z - 0.05, rng.integers(4, 6))]
    return [*sides, block(rng, (x, 0.02, z), (0, (y - 0.02) / 2, 0)), *boards]


def lamp(rng: Rng) -> list[Piece]:
    """Foot, pole, shade."""
    z, r = rng.uniform(1.3, 1.7), rng.uniform(0.2, 0.28)
    shade = turned(rng, lambda t: r * (1 - 0.45 * t), 0.35, (0, 0, z - 0.35))
    return [disc(rng, 0.17, (0, 0, 0.02)), tube(rng, 0.025, z), shade]


def bottle(rng: Rng) -> list[Piece]:
    """Body, shoulder, neck."""
    r, neck = rng.uniform(0.16, 0.22), rng.uniform(0.05, 0.07)
    profile = lambda t: np.where(t < 0.6, r, np.where(t > 0.78, neck, r + (neck - r) * (t - 0.6) / 0.18))  # noqa: E731
    return [turned(rng, profile, rng.uniform(0.9, 1.2)), disc(rng, r)]


def mug(rng: Rng) -> list[Piece]:
    """Cup with a handle."""
    r, z = rng.uniform(0.3, 0.4), rng.uniform(0.7, 0.9)
    count = int(400 + 0.05 * DENSITY)
    around, across = rng.uniform(-np.pi / 2, np.pi / 2, count), rng.uniform(0, 2 * np.pi, count)
    ring = 0.22 + 0.05 * np.cos(across)
    handle = np.stack([r + ring * np.cos(around), 0.05 * np.sin(across), z / 2 + ring * np.sin(around)], axis=1)
    normal = np.stack([np.cos(across) * np.cos(around), np.sin(across), np.cos(across) * np.sin(around)], axis=1)
    return [tube(rng, r, z), disc(rng, r, (0, 0, 0.03)), Piece(handle, normal)]


def plane(rng: Rng) -> list[Piece]:
    """Fuselage, wings, tail."""
    length = rng.uniform(1.7, 2.1)
    body = turned(rng, lambda t: 0.13 * np.sqrt(np.clip(1 - (2 * t - 1) ** 4, 0.02, 1)), length)
    lying = Piece(body.points[:, [2, 1, 0]] - [length / 2, 0, 0], body.normals[:, [2, 1, 0]])
    wings = block(rng, (rng.uniform(0.3, 0.4), rng.uniform(1.6, 2.0), 0.03), (0.05, 0, -0.03))
    tail = block(rng, (0.2, 0.7, 0.03), (-length / 2 + 0.12, 0, 0.02))
    return [lying, wings, tail, block(rng, (0.22, 0.03, 0.35), (-length / 2 + 0.12, 0, 0.03))]


def car(rng: Rng) -> list[Piece]:
    """Body, cabin, wheels."""
    x, y, z = rng.uniform(1.7, 2.1), rng.uniform(0.75, 0.9), rng.uniform(0.3, 0.38)
    cabin = block(rng, (0.5 * x, 0.85 * y, 0.3), (-0.05 * x, 0, 0.15 + z))
    wheels = []
    for i in (-1, 1):
        for j in (-1, 1):
            wheel = turned(rng, lambda t: np.full_like(t, 0.17), 0.12)
            flat = Piece(wheel.points[:, [0, 2, 1]], wheel.normals[:, [0, 2, 1]])
            wheels.append(flat.moved((i * 0.31 * x, j * (y / 2) - 0.06, 0.17)))
    return [block(rng, (x, y, z), (0, 0, 0.15)), cabin, *wheels]


OBJECTS: dict[str, Callable[[Rng], list[Piece]]] = {
    f.__name__: f for f in (chair, table, bed, sofa, shelf, lamp, bottle, mug, plane, car)
}
FURNITURE = ("chair", "table", "bed", "sofa", "shelf", "lamp")
ROOM_CLASSES = ("floor", "wall", *FURNITURE)


def join(parts: list[Piece]) -> Piece:
    """All surfaces as one."""
    return Piece(np.concatenate([p.points for p in parts]), np.concatenate([p.normals for p in parts]))


def object_cloud(name: str, rng: Rng, num_points: int = 2048, noise: float = 0.012) -> Cloud:
    """A scan of one object: one view, an occluder, noise, a few stray points; upright, any yaw.

    Args:
        name: a key of `OBJECTS`.
        rng: of everything random.
        num_points: P.
        noise: standard deviation, as a share of the object's radius.

    Returns:
        `coord` (P, 3), unit radius, and `feat` (P, 3), the normals.
    """
    whole = join(OBJECTS[name](rng)).moved((0, 0, 0), rng.uniform(0, 2 * np.pi))
    points = whole.points - whole.points.mean(0)
    points = points / np.linalg.norm(points, axis=1).max()
    view = rng.normal(size=3) * [1, 1, 0.6]
    seen = whole.normals @ (view / np.linalg.norm(view)) > -0.35  # most of the far side is hidden
    ball = points[rng.integers(len(points))] + rng.normal(0, 0.1, 3)
    free = np.linalg.norm(points - ball, axis=1) > rng.uniform(0.08, 0.28)
    index = np.flatnonzero(seen & free)
    index = index if len(index) >= 64 else np.arange(len(points))
    index = rng.choice(index, num_points, replace=len(index) < num_points)
    coord = points[index] + rng.normal(0, noise, (num_points, 3))
    stray = rng.random(num_points) < rng.uniform(0, 0.03)
    coord[stray] = rng.uniform(-1, 1, (int(stray.sum()), 3))
    return {"coord": coord.astype(np.float32), "feat": whole.normals[index].astype(np.float32)}


def footprint(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest coordinates (3,) of an object in its own axes."""
    return points.min(0), points.max(0)


def room(rng: Rng, num_points: int = 16384, low: int = 4, high: int = 7, noise: float = 0.008) -> Cloud:
    """A furnished room scanned from inside: floor, four walls, furniture that does not overlap.

    Args:
        rng: of everything random.
        num_points: P.
        low: fewest pieces of furniture.
        high: most pieces.
        noise: standard deviation, meters.

    Returns:
        `coord` (P, 3) meters, `feat` colors (P, 3), `segment` and `instance` (P,), `boxes` (K, 7) with `box_label`
        (K,), indices into `FURNITURE`; segments are indices into `ROOM_CLASSES`, instance 0 is the room itself.
    """
    x, y, z = rng.uniform(4.0, 6.0), rng.uniform(4.0, 6.0), 2.5
    sheets, boxes, names = room_shell(rng, x, y, z), [], []
    taken: list[tuple[float, float, float]] = []
    for number in range(int(rng.integers(low, high + 1))):
        name = FURNITURE[rng.integers(len(FURNITURE))] if number else FURNITURE[rng.integers(4)]
        whole = join(OBJECTS[name](rng))
        lowest, highest = footprint(whole.points)
        size, center = highest - lowest, (highest + lowest) / 2
        reach = float(np.hypot(size[0], size[1])) / 2
        place = free_place(rng, taken, reach, x, y)
        if place is None:
            continue
        taken.append((*place, reach))
        yaw = rng.integers(4) * np.pi / 2 + rng.normal(0, 0.1)  # furniture stands along walls, roughly
        own = Piece(whole.points - [center[0], center[1], lowest[2]], whole.normals)
        names.append(FURNITURE.index(name))
        sheets.append((own.moved((*place, 0.0), yaw), 2 + names[-1], len(names)))
        boxes.append([*place, size[2] / 2, *size, np.pi - (np.pi + yaw) % (2 * np.pi)])  # yaw of boxes runs clockwise
    cloud = scan(rng, sheets, num_points, noise)
    boxes_array = np.array(boxes, np.float32).reshape(-1, 7)
    return {**cloud, "boxes": boxes_array, "box_label": np.array(names, np.int64)}


Sheet = tuple[Piece, int, int]


def room_shell(rng: Rng, x: float, y: float, z: float) -> list[Sheet]:
    """Floor and walls with their class and instance."""
    global_density = 0.35 * DENSITY
    sheets: list[Sheet] = []
    faces = (
        ((x, y), lambda u, v: (u * x, v * y, 0 * u), (0, 0, 1), 0),
        ((x, z), lambda u, v: (u * x, 0 * u - y / 2, (v + 0.5) * z), (0, 1, 0), 1),
        ((x, z), lambda u, v: (u * x, 0 * u + y / 2, (v + 0.5) * z), (0, -1, 0), 1),
        ((y, z), lambda u, v: (0 * u - x / 2, u * y, (v + 0.5) * z), (1, 0, 0), 1),
        ((y, z), lambda u, v: (0 * u + x / 2, u * y, (v + 0.5) * z), (-1, 0, 0), 1),
    )
    for (a, b), place, normal, label in faces:
        count = int(a * b * global_density)
        u, v = rng.uniform(-0.5, 0.5, (2, count))
        points = np.stack(place(u, v), axis=1)
        sheets.append((Piece(points, np.tile(np.array(normal, float), (count, 1))), label, 0))
    return sheets


def free_place(
    rng: Rng, taken: list[tuple[float, float, float]], reach: float, x: float, y: float
) -> tuple[float, float] | None:
    """A place on the floor for a piece of this reach, None when none was found."""
    for _ in range(40):
        place = rng.uniform(-x / 2 + reach, x / 2 - reach), rng.uniform(-y / 2 + reach, y / 2 - reach)
        if all(np.hypot(place[0] - px, place[1] - py) > reach + other for px, py, other in taken):
            return place
    return None


def scan(rng: Rng, sheets: list[Sheet], num_points: int, noise: float) -> Cloud:
    """Keep the points that a scanner sees from a few places at eye height."""
    points = np.concatenate([s.points for s, _, _ in sheets])
    normals = np.concatenate([s.normals for s, _, _ in sheets])
    segment = np.concatenate([np.full(len(s.points), label) for s, label, _ in sheets])
    instance = np.concatenate([np.full(len(s.points), number) for s, _, number in sheets])
    eyes = np.concatenate([rng.uniform(-1.5, 1.5, (3, 2)), np.full((3, 1), 1.6)], axis=1)
    seen = np.zeros(len(points), bool)
    for eye in eyes:
        seen |= ((eye - points) * normals).sum(1) > 0
    weight = np.where(segment < 2, 0.35, 1.0) * seen  # furniture is scanned more closely than walls
    index = rng.choice(len(points), num_points, p=weight / weight.sum(), replace=num_points > int(seen.sum()))
    palette = rng.uniform(0.1, 0.9, (int(instance.max()) + 2, 3))
    shade = 0.7 + 0.3 * np.abs(normals[index] @ [0.3, 0.5, 0.81])
    color = palette[np.where(segment[index] == 1, len(palette) - 1, instance[index])] * shade[:, None]
    color = (color + rng.normal(0, 0.03, color.shape)).clip(0, 1)
    return {
        "coord": (points[index] + rng.normal(0, noise, (num_points, 3))).astype(np.float32),
        "feat": color.astype(np.float32),
        "segment": segment[index].astype(np.int64),
        "instance": instance[index].astype(np.int64),
    }
