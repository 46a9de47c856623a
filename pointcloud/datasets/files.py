"""Any cloud file, for prediction: `.ply`, `.npy`, `.npz`, `.las`, `.laz`, `.pcd`, `.txt`, `.bin`."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from pointcloud.datasets.base import DAMAGE, Cloud, CloudError, check_cloud

COLORS = ("red", "green", "blue")


def from_table(table: np.ndarray) -> Cloud:
    """Columns x, y, z and, if there are six or more, colors in 0..1 or 0..255."""
    table = np.asarray(table)
    if table.ndim != 2 or table.shape[1] < 3:
        raise CloudError(f"an array of shape {table.shape}, expected (P, 3) or more columns")
    cloud: Cloud = {"coord": table[:, :3].astype(np.float32)}
    if table.shape[1] >= 6:
        cloud["feat"] = unit_colors(table[:, 3:6])
    return cloud


def unit_colors(colors: np.ndarray) -> np.ndarray:
    """Colors in 0..1, whether they came as such, as bytes or as 16 bits."""
    colors = np.asarray(colors, np.float32)
    top = float(colors.max(initial=0))
    return colors / (1 if top <= 1 else 255 if top <= 255 else 65535)


def from_fields(fields: dict[str, np.ndarray]) -> Cloud:
    """A cloud from named columns."""
    if not {"x", "y", "z"} <= fields.keys():
        raise CloudError(f"columns {sorted(fields)}, expected x, y and z")
    table = np.stack([fields[k] for k in "xyz"], axis=1)
    if set(COLORS) <= fields.keys():
        table = np.concatenate([table, unit_colors(np.stack([fields[k] for k in COLORS], axis=1))], axis=1)
    return from_table(table)


def read_ply(path: Path) -> Cloud:
    """Read the vertices of a `.ply`."""
    try:
        from plyfile import PlyData, PlyParseError
    except ImportError as error:
        raise CloudError(".ply files need plyfile: pip install 'xmodal[points]'") from error
    try:
        data = PlyData.read(str(path))["vertex"].data
    except PlyParseError as error:
        raise CloudError(str(error)) from error
    return from_fields({name: np.asarray(data[name]) for name in data.dtype.names})


def read_npz(path: Path) -> Cloud:
    """Read `coord` (and `color` or `feat`), or the only or the `pc` array, of an `.npz`."""
    with np.load(path, allow_pickle=False) as file:
        if "coord" in file:
            color = next((file[k] for k in ("color", "color", "feat") if k in file), None)
            coord = file["coord"]
            return from_table(coord if color is None else np.concatenate([coord, unit_colors(color)[:, :3]], axis=1))
        names = file.files
        name = "pc" if "pc" in names else "points" if "points" in names else names[0] if len(names) == 1 else None
        if name is None:
            raise CloudError(f"arrays {names}: which one holds points? expected coord, pc or points")
        return from_table(file[name])


def read_las(path: Path) -> Cloud:
    """Read a `.las` or `.laz`."""
    try:
        import laspy
    except ImportError as error:
        raise CloudError(".las files need laspy: pip install laspy") from error
    las = laspy.read(str(path))
    coord = np.stack([las.x, las.y, las.z], axis=1)
    coord = coord - coord.min(0)  # survey coordinates do not fit float32
    names = set(las.point_format.dimension_names)
    if set(COLORS) <= names:
        coord = np.concatenate([coord, unit_colors(np.stack([las[k] for k in COLORS], axis=1))], axis=1)
    return from_table(coord)


def read_pcd(path: Path) -> Cloud:
    """Read a `.pcd`, ascii or binary (not compressed)."""
    raw = path.read_bytes()
    head: dict[str, list[str]] = {}
    at = 0
    while "DATA" not in head:
        end = raw.find(b"\n", at)
        if end < 0:
            raise CloudError("no DATA line in the header")
        words = raw[at:end].decode("ascii", "replace").split()
        at = end + 1
        if words and not words[0].startswith("#"):
            head[words[0]] = words[1:]
    kinds = [
        f"{'f' if t == 'F' else 'i' if t == 'I' else 'u'}{s}" for t, s in zip(head["TYPE"], head["SIZE"], strict=True)
    ]
    counts = [int(c) for c in head.get("COUNT", ["1"] * len(kinds))]
    layout = np.dtype([(f, k, (c,) if c > 1 else ()) for f, k, c in zip(head["FIELDS"], kinds, counts, strict=True)])
    data: dict[str, np.ndarray]
    if head["DATA"] == ["ascii"]:
        rows = np.loadtxt(raw[at:].decode().splitlines(), ndmin=2)
        data = {f: rows[:, sum(counts[:i])] for i, f in enumerate(head["FIELDS"])}
    elif head["DATA"] == ["binary"]:
        table = np.frombuffer(raw, layout, count=int(head["POINTS"][0]), offset=at)
        data = {f: np.asarray(table[f]) for f in head["FIELDS"]}
    else:
        raise CloudError(f"DATA {' '.join(head['DATA'])}: only ascii and binary are read; convert the file")
    if "rgb" in data:
        packed = np.ascontiguousarray(data.pop("rgb"), np.float32).view(np.uint32)
        data |= {k: (packed >> s) & 255 for k, s in zip(COLORS, (16, 8, 0), strict=True)}
    return from_fields(data)


def read_text(path: Path) -> Cloud:
    """Read rows of numbers, by commas or spaces."""
    first = path.open().readline()
    return from_table(np.loadtxt(path, delimiter="," if "," in first else None, ndmin=2))


READERS: dict[str, Callable[[Path], Cloud]] = {
    ".ply": read_ply,
    ".npy": lambda path: from_table(np.load(path, allow_pickle=False)),
    ".npz": read_npz,
    ".las": read_las,
    ".laz": read_las,
    ".pcd": read_pcd,
    ".txt": read_text,
    ".xyz": read_text,
    ".bin": lambda path: from_table(np.fromfile(path, np.float32).reshape(-1, 4)[:, :3]),
}


def read_cloud(path: str | Path) -> Cloud:
    """Read any cloud file.

    Args:
        path: of the file; its suffix tells the format.

    Returns:
        `coord` (P, 3) and, where the file has colors, `feat` (P, 3) in 0..1.

    Raises:
        CloudError: a format that is not known, or a file that cannot be read.
    """
    path = Path(path)
    if path.suffix.lower() not in READERS:
        raise CloudError(f"{path.name}: no reader for {path.suffix!r}; there are {', '.join(READERS)}")
    try:
        return check_cloud(READERS[path.suffix.lower()](path))
    except DAMAGE as error:
        raise CloudError(f"{path.name}: {error}") from error
