"""Name the columns of tables: by `--columns`, by the convention of the format, or by their values."""

from collections.abc import Sequence

import numpy as np

from pointcloud.datasets.base import CloudError
from pointcloud.formats.pcd import unpack_colors
from pointcloud.formats.scan import COLORS, NORMALS, Columns, Scan, canonical, from_fields

XYZ = ("x", "y", "z")
# What files call arrays and fields that hold the vectors of all points, in lower case.
POINTS = (
    "coord", "pc", "points", "xyz", "point", "coords", "pos", "position", "positions", "vertices", "pointcloud", "pcd",
    "data",
)  # fmt: skip
PARTS = {
    "color": ("color", "colors", "colour", "colours", "rgb", "rgba", "feat"),
    "normal": ("normal", "normals"),
    "intensity": ("intensity", "reflectance"),
}
GROUPS = {"colors": ("red", "green", "blue"), "normals": ("nx", "ny", "nz")}
HELP = "name the columns, such as --columns x,y,z,red,green,blue or x,y,z,nx,ny,nz"
MOST = 40  # columns of a table without names
LOOK = 200_000  # rows that a guess looks at


def check_columns(columns: Sequence[str]) -> list[str]:
    """Return column names as they are known here; `-` and `_` are columns to leave out.

    Raises:
        ValueError: x, y or z is missing or named twice.
    """
    names = [canonical(c) for c in columns]
    for axis in XYZ:
        if names.count(axis) != 1:
            raise ValueError(f"--columns {','.join(columns)}: {axis} must be named once")
    return names


def from_table(table: np.ndarray, columns: Columns = None, layout: Sequence[str] | None = None) -> Scan:
    """Make a scan of a table without column names.

    Args:
        table: (P, C), or an image of points (H, W, C).
        columns: names given by the user; fewer than C leave the rest out.
        layout: names that the format's convention gives to tables of this width, used when the values agree.

    Raises:
        CloudError: the table has another shape, or fewer columns than names.
    """
    table = np.asarray(table)
    if table.dtype.names:
        return from_fields(unpack_colors(split_vectors(table)))
    notes: list[str] = []
    if table.ndim == 3 and table.shape[2] >= 3:
        notes.append(f"an array of shape {table.shape}: read as an image of {table.shape[0]} x {table.shape[1]} points")
        table = table.reshape(-1, table.shape[2])
    if table.ndim != 2 or table.shape[1] < 3:
        raise CloudError(f"an array of shape {table.shape}, expected (P, 3) or more columns")
    if table.shape[1] > MOST and columns is None:
        raise CloudError(
            f"an array of shape {table.shape}: points are its rows, and no point has so many columns: save "
            "its transpose"
        )
    if table.dtype.kind not in "fiu":
        raise CloudError(f"an array of type {table.dtype}, expected numbers")
    if columns is not None:
        names = check_columns(columns)
        if len(names) > table.shape[1]:
            raise CloudError(f"--columns names {len(names)} columns, the file has {table.shape[1]}")
    else:
        names = [*XYZ, *guess(table[:, 3:], layout, notes)]
    fields = {name: table[:, i] for i, name in enumerate(names) if name not in ("-", "_", "")}
    return from_fields(fields, typed=table.dtype.kind in "iu", notes=notes)


def split_vectors(table: np.ndarray) -> dict[str, np.ndarray]:
    """Return the columns (P,) of an array with named fields; `xyz`, `rgb` and the like may have several numbers."""
    vectors = ((POINTS, XYZ), (PARTS["color"], COLORS), (PARTS["normal"], NORMALS))
    columns: dict[str, np.ndarray] = {}
    for name in table.dtype.names or ():
        values = table[name].reshape(table.size, -1)
        axes = next((axes for known, axes in vectors if name.lower() in known), ())
        if values.shape[1] == 1:
            columns[name.lower()] = values[:, 0]
        elif values.shape[1] >= len(axes):
            columns.update(zip(axes, values.T, strict=False))
    return columns


def guess(rest: np.ndarray, layout: Sequence[str] | None, notes: list[str]) -> list[str]:
    """Name the columns behind x, y and z where their values leave one reading; says what was read and what was not."""
    width = rest.shape[1]
    if not width:
        return []
    rows = rest[:: max(1, len(rest) // LOOK)]
    rows = rows[np.isfinite(rows).all(1)]
    if layout is not None and len(layout) == width and agrees(rows, layout):
        notes.append(f"columns read as x, y, z, {', '.join(layout)}, as the format has it")
        return list(layout)
    names: list[str] = []
    if width % 3 == 0:
        kinds = [kind_of(rows[:, i : i + 3]) for i in range(0, width, 3)]
        if kinds in (["colors"], ["normals"], ["colors", "normals"], ["normals", "colors"]):
            names = [name for kind in kinds for name in GROUPS[kind]]  # type: ignore[index]
            notes.append(f"columns read as x, y, z and {' and '.join(kinds)}")  # type: ignore[arg-type]
    if not names:
        what = "column 4 is" if width == 1 else f"columns 4 to {3 + width} are"
        notes.append(f"{what} not used, since their values do not tell what they are: {HELP}")
    return names


def agrees(rows: np.ndarray, layout: Sequence[str]) -> bool:
    """Return whether the columns that a layout calls colors can be colors of 0..255, and its classes whole numbers."""
    colors = rows[:, [layout.index(c) for c in GROUPS["colors"] if c in layout]]
    if "classification" in layout:
        classes = rows[:, layout.index("classification")]
        if (classes != np.rint(classes)).any():
            return False
    if not colors.size:
        return True
    return bool(colors.min() >= 0 and colors.max() <= 255) and kind_of(colors) != "normals"


def kind_of(rows: np.ndarray) -> str | None:
    """Return `colors` or `normals` for three columns that can be nothing else of the two, None otherwise."""
    if not len(rows):
        return None
    rows = rows.astype(np.float64)
    length = np.sqrt((rows**2).sum(1))
    normals = bool((np.abs(length - 1) < 0.02).mean() > 0.95)
    low, high = rows.min(), rows.max()
    whole = bool((rows == np.rint(rows)).all())
    bytes_ = whole and low >= 0 and 1 < high <= 255
    unit = low >= 0 and high <= 1 and not whole
    if normals:
        return "normals" if not bytes_ else None
    return "colors" if bytes_ or unit else None
