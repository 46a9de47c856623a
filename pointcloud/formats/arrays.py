"""Arrays: `.npy`, `.npz`, `.h5` and raw float32 in `.bin`."""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pointcloud.datasets.base import CloudError
from pointcloud.formats.columns import PARTS, POINTS, XYZ, check_columns, from_table
from pointcloud.formats.scan import Columns, Scan, from_fields, need, reader, unit_colors

PICKLED = "it holds pickled objects, which are not opened: save arrays of numbers (np.savez: coord, color, normal)"
S3DIS = ("red", "green", "blue", "classification")  # rooms as `.npy` (P, 7)
# Columns of the data sets whose scans are `.bin`, by width.
BINS = {
    4: ("x", "y", "z", "intensity"),
    5: ("x", "y", "z", "intensity", "ring"),
    6: ("x", "y", "z", "red", "green", "blue"),
}
BIN_SETS = (
    "4 for KITTI (x,y,z,intensity), 5 for nuScenes (x,y,z,intensity,ring), 6 for mmdetection3d's rooms (x,y,z,r,g,b)"
)


@reader(".npy")
def read_npy(path: Path, columns: Columns = None) -> Scan:
    """Read a table (P, 3 and more), an image of points (H, W, 3 and more) or an array with named columns."""
    with path.open("rb") as file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, kind = read(file)
        need_bytes, have = int(np.prod([int(n) for n in shape], dtype=object)) * kind.itemsize, path.stat().st_size
    if kind.hasobject:
        raise CloudError(PICKLED)
    if need_bytes > have:
        raise CloudError(f"an array of shape {shape} needs {need_bytes} bytes, the file has {have}")
    table = np.load(path, allow_pickle=False)
    return from_table(table, columns, S3DIS if table.ndim == 2 and table.shape[1] == 7 else None)


def from_arrays(arrays: Mapping[str, Any], columns: Columns, cloud: int | None) -> Scan:
    """Make a scan of arrays by name: points, and perhaps colors, normals and intensity.

    Args:
        arrays: of the file.
        columns: names given by the user, for the array of points.
        cloud: which cloud of an array (N, P, C).

    Raises:
        CloudError: no array is known to hold points, or there are several clouds and none is chosen.
    """
    arrays = {name.lower(): values for name, values in arrays.items()}
    names = list(arrays)
    name = next((n for n in POINTS if n in names), names[0] if len(names) == 1 else None)
    if name is None and set(XYZ) <= set(names):
        columns_ = {n: np.asarray(values).reshape(-1) for n, values in arrays.items()}
        return from_fields({n: values for n, values in columns_.items() if len(values) == len(columns_["x"])})
    if name is None:
        raise CloudError(f"arrays {names}: which one holds points? expected one of {', '.join(POINTS)}")
    points = np.asarray(arrays[name])
    several = points.ndim == 3 and points.shape[2] >= 3 and name == "data"
    if several and cloud is None and len(points) > 1:
        raise CloudError(f"{name} holds {len(points)} clouds: name one, FILE#0 to FILE#{len(points) - 1}")
    if several and not 0 <= (cloud or 0) < len(points):
        raise CloudError(f"{name} holds {len(points)} clouds, there is none with number {cloud}")
    if several:
        points, total = points[cloud or 0], len(points)
        arrays = {n: values[cloud or 0] for n, values in arrays.items() if values.shape[:1] == (total,)}
    scan = from_table(points, columns)
    for part, known in PARTS.items():
        other = next((n for n in known if n in arrays and n != name), None)
        if other is not None:
            add_part(scan, part, other, np.asarray(arrays[other]))
    return scan


def add_part(scan: Scan, part: str, name: str, values: np.ndarray) -> None:
    """Give a scan the colors, normals or intensity in an array: a row a point, or an image of them.

    Raises:
        CloudError: another number of rows than points.
    """
    count, size = len(scan.xyz), 1 if part == "intensity" else 3
    if values.shape[:1] != (count,) and values.shape[:2] and int(np.prod(values.shape[:2])) == count:
        values = values.reshape(count, -1)
    if values.shape[:1] != (count,):
        raise CloudError(f"{name} has shape {values.shape} for {count} points, expected a row a point")
    values = values.reshape(count, -1)
    if values.shape[1] < size:
        scan.notes.append(f"{name} has {values.shape[1]} of {size} columns: not used as {part}")
    elif part == "color":
        scan.color = unit_colors(values[:, :3], values.dtype.kind in "iu", scan.notes)
    else:
        setattr(scan, part, values[:, 0 if part == "intensity" else slice(3)].astype(np.float32))


@reader(".npz")
def read_npz(path: Path, columns: Columns = None) -> Scan:
    """Read `coord` (or `pc`, `points`, `xyz`, the only array) and, beside it, `color`, `normal` and `intensity`."""
    with zipfile.ZipFile(path) as file:
        size = sum(part.file_size for part in file.infolist())
    if size > 2000 * path.stat().st_size:
        raise CloudError(f"{path.stat().st_size} bytes would become {size}: not opened")
    with np.load(path, allow_pickle=False) as arrays:
        try:
            return from_arrays(arrays, columns, None)
        except ValueError as error:
            raise CloudError(PICKLED if "Object arrays" in str(error) else str(error)) from error


@reader(".h5", ".hdf5")
def read_h5(path: Path, columns: Columns = None, cloud: int | None = None) -> Scan:
    """Read one cloud of an HDF5 file; `FILE#12` chooses one of many."""
    h5py = need("h5py", path.suffix)
    with h5py.File(path, "r") as file:
        found: dict[str, Any] = {}

        def note(name: str, item: Any) -> None:
            if isinstance(item, h5py.Dataset):
                found.setdefault(name.rpartition("/")[2], item)

        file.visititems(note)
        return from_arrays(found, columns, cloud)


@reader(".bin")
def read_bin(path: Path, columns: Columns = None) -> Scan:
    """Read float32 rows; without `columns`, their width is that of a known data set if the values fit only that one."""
    raw = np.fromfile(path, "<f4")
    if columns is None:
        width, notes = width_of(raw, path), ["columns read as {}"]
        columns = BINS[width]
        notes = [f"columns read as {', '.join(columns)}"]
    else:
        check_columns(columns)
        width, notes = len(columns), []
    if path.stat().st_size % (4 * width) or not len(raw):
        raise CloudError(f"{path.stat().st_size} bytes are no whole rows of {width} float32: {','.join(columns)}")
    scan = from_table(raw.reshape(-1, width), columns)
    scan.notes = notes + scan.notes
    return scan


def width_of(raw: np.ndarray, path: Path) -> int:
    """Return the columns of a `.bin`.

    Raises:
        CloudError: several widths would do, or none.
    """
    fits = [w for w in BINS if len(raw) and len(raw) % w == 0 and path.stat().st_size % (4 * w) == 0]
    likely = [w for w in fits if plausible(raw.reshape(-1, w), w)]
    if len(likely) == 1:
        return likely[0]
    if fits == [4] and len(raw) % 3 and near(raw.reshape(-1, 4)):
        return 4
    raise CloudError(f"the number of columns is not clear ({len(raw)} numbers): name them with --columns; {BIN_SETS}")


def near(table: np.ndarray) -> bool:
    """Return whether the coordinates are those of a scan: bytes of something else are rarely below 10,000 km."""
    xyz = table[:, :3]
    return not bool((np.abs(xyz[np.isfinite(xyz)]) > 1e7).any())


def plausible(table: np.ndarray, width: int) -> bool:
    """Return whether the columns behind the coordinates hold what the data sets of this width have there."""
    rest = table[:, 3:]
    if not np.isfinite(rest).all() or rest.min() < 0 or not near(table):
        return False
    if width == 4:
        return bool(rest.max() <= 1 and np.abs(table[:, :3]).max() > 1)
    whole = rest[:, -1] if width == 5 else rest
    return bool(rest.max() <= 255 and (whole == np.rint(whole)).all() and rest.max() > 1)
