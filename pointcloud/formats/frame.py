"""Units and axes of a file: clouds here are in meters with z up, results go back to the file's own coordinates."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

LOOK = 100_000  # points that tell strays from the rest
UNITS = {
    "m": 1.0, "cm": 1e-2, "mm": 1e-3, "um": 1e-6, "km": 1e3, "in": 0.0254, "ft": 0.3048, "us-ft": 1200 / 3937,
}  # fmt: skip
# The rotation that turns the file's up axis to z; rows are the new axes in the old ones.
TURNS = {
    "z": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "y": ((1, 0, 0), (0, 0, -1), (0, 1, 0)),
    "x": ((0, 1, 0), (0, 0, 1), (1, 0, 0)),
    "-y": ((1, 0, 0), (0, 0, 1), (0, -1, 0)),
    "-z": ((1, 0, 0), (0, -1, 0), (0, 0, -1)),
    "-x": ((0, 0, 1), (0, 1, 0), (-1, 0, 0)),
}


@dataclass(frozen=True)
class Frame:
    """How coordinates of a cloud relate to those of its file: cloud = turn(file) * meters - offset.

    Args:
        unit: of the file, a key of `UNITS`.
        up: the file's axis that points up, a key of `TURNS`.
        offset: subtracted from the coordinates in meters, z up, so that float32 holds them (3,).

    Raises:
        ValueError: an unknown unit or axis.
    """

    unit: str = "m"
    up: str = "z"
    offset: np.ndarray = field(default_factory=lambda: np.zeros(3))

    def __post_init__(self) -> None:
        if self.unit not in UNITS:
            raise ValueError(f"unit {self.unit!r}: choose one of {', '.join(UNITS)}")
        if self.up not in TURNS:
            raise ValueError(f"up {self.up!r}: choose one of {', '.join(TURNS)}")

    @property
    def turn(self) -> np.ndarray:
        """Return the rotation (3, 3) from the file's axes to z up."""
        return np.array(TURNS[self.up], np.float64)

    def meters(self, xyz: np.ndarray) -> np.ndarray:
        """Coordinates of the file (P, 3) in meters with z up, the offset not yet taken off."""
        if self.up != "z":
            xyz = xyz.astype(np.float64) @ self.turn.T
        return xyz if self.unit == "m" else xyz.astype(np.float64) * UNITS[self.unit]

    def to_file(self, points: np.ndarray) -> np.ndarray:
        """Points of the cloud (..., 3) in the file's own coordinates, float64."""
        return (np.asarray(points, np.float64) + self.offset) / UNITS[self.unit] @ self.turn

    def describe(self) -> dict[str, Any]:
        """Return what a result says about its coordinates."""
        said: dict[str, Any] = {
            "unit": "m",
            "up": "z",
            "box": "center x, y, z; full sizes along the box's own axes; yaw around z in radians, clockwise from above",
            "offset": [float(v) for v in self.offset],
        }
        if (self.unit, self.up) != ("m", "z"):
            said["file"] = {"unit": self.unit, "up": self.up}
        return said


def offset_of(points: np.ndarray) -> np.ndarray:
    """Return what to subtract from points (P, 3) so that float32 holds them to a 100,000th of their extent.

    0 where it holds them as they are; otherwise the lowest corner, or, where a few strays lie 100 times as far out as
    the rest, the lowest corner of the rest.
    """
    low, high = points.min(0), points.max(0)
    rest = np.percentile(points[:: max(1, len(points) // LOOK)], [5, 95], axis=0)
    extent = float((high - low).max())
    if 0 < 100 * (rest[1] - rest[0]).max() < extent:
        low, extent = rest[0], float((rest[1] - rest[0]).max())
    step = float(np.spacing(np.float32(min(np.abs([low, high]).max(), 1e38))))
    return low.astype(np.float64) if step > 1e-5 * (extent or 1.0) else np.zeros(3)
