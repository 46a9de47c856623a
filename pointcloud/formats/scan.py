"""The content of a cloud file before it becomes a cloud, and the table of readers by file ending.

A new format is one file: a function from (path, columns) to a `Scan`, decorated with `reader(".ending")`, and a line in
`pointcloud.datasets.files`.
"""

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pointcloud.datasets.base import CloudError

Columns = Sequence[str] | None
Reader = Callable[[Path, Columns], "Scan"]
PIECE = 1_000_000  # rows looked at together
READERS: dict[str, Reader] = {}
COLORS, NORMALS = ("red", "green", "blue"), ("nx", "ny", "nz")
# Name -> what files call it, in lower case and without units.
ALIASES = {
    "x": ("px", "pos_x", "position_x", "point_x", "points:0", "points_0", "coord_x", "easting"),
    "y": ("py", "pos_y", "position_y", "point_y", "points:1", "points_1", "coord_y", "northing"),
    "z": ("pz", "pos_z", "position_z", "point_z", "points:2", "points_2", "coord_z", "elevation", "height"),
    "red": ("r", "diffuse_red", "color_r", "red_channel", "f_red"),
    "green": ("g", "diffuse_green", "color_g", "green_channel", "f_green"),
    "blue": ("b", "diffuse_blue", "color_b", "blue_channel", "f_blue"),
    "nx": ("normal_x", "n_x", "normalx", "normals:0", "normals_0"),
    "ny": ("normal_y", "n_y", "normaly", "normals:1", "normals_1"),
    "nz": ("normal_z", "n_z", "normalz", "normals:2", "normals_2"),
    "intensity": ("i", "scalar_intensity", "reflectance", "scalar_reflectance", "reflectivity", "remission"),
    "classification": ("class", "label", "scalar_classification", "scalar_label", "scalar_class"),
}
KNOWN = {alias: name for name, aliases in ALIASES.items() for alias in (name, *aliases)}


@dataclass
class Scan:
    """Points of a file in the file's own coordinates, unit and order.

    Args:
        xyz: (P, 3), in the precision of the file; rows may be NaN (pixels without a return).
        color: (P, 3) float32 in 0..1, or None.
        normal: (P, 3) float32, or None.
        intensity: (P,) float32 in the file's own range, or None.
        classification: (P,) int64, the file's own classes, or None.
        up: the axis that points up, where the format says so.
        notes: what was assumed, left out or sampled, one sentence each.
    """

    xyz: np.ndarray
    color: np.ndarray | None = None
    normal: np.ndarray | None = None
    intensity: np.ndarray | None = None
    classification: np.ndarray | None = None
    up: str = "z"
    notes: list[str] = field(default_factory=list)


def reader(*endings: str) -> Callable[[Reader], Reader]:
    """Register a function as the reader of files with these endings (lower case, with the dot)."""

    def register(function: Reader) -> Reader:
        READERS.update(dict.fromkeys(endings, function))
        return function

    return register


def need(module: str, ending: str, extra: str = "points") -> Any:
    """Import an optional library.

    Raises:
        CloudError: it is not installed; the message names the extra.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise CloudError(f"{ending} files need {module}: pip install 'xmodal[{extra}]'") from error


def canonical(name: str) -> str:
    """Return the name that a column has here, without quotes, comment marks and units; unknown names stay."""
    plain = name.strip().strip("\"'").lstrip("/#%").strip().lower()
    plain = plain.split("(")[0].split("[")[0].strip()
    return KNOWN.get(plain, plain)


def from_fields(fields: Mapping[str, np.ndarray], typed: bool = True, notes: list[str] | None = None) -> Scan:
    """Make a scan of named columns.

    Args:
        fields: columns (P,) by any name in `ALIASES`; others are ignored.
        typed: the types of the columns are the file's own, so that they tell the range of colors.
        notes: of the reader.

    Raises:
        CloudError: x, y and z are not all there.
    """
    notes = [] if notes is None else notes
    columns: dict[str, np.ndarray] = {}
    for name, values in fields.items():
        columns.setdefault(canonical(name), values)
    if not {"x", "y", "z"} <= columns.keys():
        raise CloudError(f"columns {sorted(fields)}, expected x, y and z: name them with --columns")
    scan = Scan(np.stack([np.asarray(columns[k]) for k in "xyz"], axis=1), notes=notes)
    if scan.xyz.dtype.kind not in "fiu":
        raise CloudError(f"coordinates of type {scan.xyz.dtype}, expected numbers")
    if scan.xyz.dtype.kind != "f" or scan.xyz.dtype.itemsize < 4:  # extents and offsets would overflow
        scan.xyz = scan.xyz.astype(np.float64)
    if set(COLORS) <= columns.keys():
        channels = [np.asarray(columns[k]) for k in COLORS]
        kind = np.float32 if channels[0].dtype.kind == "f" else None
        scan.color = unit_colors(np.stack(channels, axis=1, dtype=kind), typed, notes)
    if set(NORMALS) <= columns.keys():
        scan.normal = np.stack([columns[k] for k in NORMALS], axis=1).astype(np.float32)
        if len(scan.normal) and not scan.normal.any():
            scan.normal = None
            notes.append("the normals are all zero: not used")
    if "intensity" in columns:
        scan.intensity = np.asarray(columns["intensity"], np.float32).reshape(-1)
    if "classification" in columns and np.isfinite(np.asarray(columns["classification"], np.float64)).all():
        scan.classification = np.asarray(columns["classification"]).astype(np.int64).reshape(-1)
    return scan


def unit_colors(colors: np.ndarray, typed: bool = False, notes: list[str] | None = None) -> np.ndarray | None:
    """Bring colors to 0..1.

    Args:
        colors: (P, 3) of any type.
        typed: the type is the file's own: bytes are 0..255, 16 bits 0..65535, floats 0..1. Otherwise, in text, the
            values decide: whole numbers above 1 are 0..255, or 0..65535 when one is above 255.
        notes: gets a sentence where the values had to decide, or cannot be colors.

    Returns:
        float32, or None when the values cannot be colors.
    """
    colors = np.asarray(colors)
    notes = [] if notes is None else notes
    low, high, whole = range_of(colors)
    if low < 0 or high > 65535:
        notes.append(f"the columns called colors run from {low:g} to {high:g}: not used")
        return None
    if typed and colors.dtype.kind in "iub":
        top = 65535 if colors.dtype.itemsize == 2 or high > 255 else 255
        if high > 255 and colors.dtype.itemsize != 2:
            notes.append("colors above 255: read as 16 bits")
    elif high <= 1:
        top = 1
    elif high <= 255:
        top = 255
        if typed:
            notes.append(f"colors of type float reach {high:g}: read as 0 to 255")
    else:
        top = 65535
        notes.append("colors above 255: read as 16 bits")
    if not typed and high > 255 and not whole:
        notes.append(f"the columns called colors hold fractions up to {high:g}: not used")
        return None
    return np.divide(colors, np.float32(top), dtype=np.float32)


def release_colors(color: np.ndarray) -> np.ndarray:
    """Return the colors (P, 3) of a released data set in 0..1: from bytes, numbers up to 255, or 0..1 already.

    Raises:
        CloudError: they have another shape, or are no colors.
    """
    found = unit_colors(color, color.dtype.kind in "iu") if color.ndim == 2 and color.shape[1] == 3 else None
    if found is None:
        low, high, _ = range_of(color)
        raise CloudError(f"colors of shape {color.shape} from {low:g} to {high:g}, expected 0 to 255")
    return found


def range_of(values: np.ndarray) -> tuple[float, float, bool]:
    """Return the lowest and highest of the finite values, and whether all are whole numbers; a piece at a time."""
    low, high, whole = np.inf, -np.inf, True
    for start in range(0, len(values), PIECE):
        piece = values[start : start + PIECE]
        if values.dtype.kind == "f":
            piece = piece[np.isfinite(piece)]
        if piece.size:
            low, high = min(low, float(piece.min())), max(high, float(piece.max()))
            near = values.dtype.kind in "iub" or (np.abs(piece - np.rint(piece)) <= 1e-6 * max(high, 1)).all()
            whole = whole and bool(near)
    return (low, high, whole) if low <= high else (0.0, 0.0, True)
