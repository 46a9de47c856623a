"""Any cloud file as a cloud in meters, z up, near the origin; the readers are in `pointcloud.formats`."""

import importlib
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from pointcloud.datasets.base import Cloud, CloudError, check_cloud, reason_of
from pointcloud.formats.columns import check_columns
from pointcloud.formats.frame import Frame, offset_of
from pointcloud.formats.scan import READERS, Scan
from xmodal.data.stores import local_file
from xmodal.data.trouble import NotAFileError, regular_file

for _family in ("arrays", "e57", "las", "meshes", "off", "pcd", "ply", "text"):
    importlib.import_module(f"pointcloud.formats.{_family}")
ENDINGS = tuple(READERS)
PIECE = 1_000_000
FEATURES = ("color", "normal", "intensity")


def read_scan(path: str | Path, columns: Sequence[str] | None = None) -> Scan:
    """Read a file as it is, in its own coordinates.

    Args:
        path: of the file, which may be in a tar or store; its ending tells the format. `FILE.h5#3` is the fourth cloud
            of a file that holds many.
        columns: names of the columns of a table without names, such as ("x", "y", "z", "intensity").

    Raises:
        CloudError: a format that is not known, or a file that cannot be read, naming it.
        ValueError: `columns` without x, y or z.
    """
    if columns is not None:
        check_columns(columns)
    where = os.fspath(path)
    numbered = re.fullmatch(r"(.*\.(?:h5|hdf5))#(\d+)", where, re.IGNORECASE | re.DOTALL)
    number = {"cloud": int(numbered[2])} if numbered else {}
    where = numbered[1] if numbered else where
    name, ending = os.path.basename(where), os.path.splitext(where)[1]
    if ending.lower() not in READERS:
        raise CloudError(f"{name}: no reader for {ending!r}; there are {', '.join(READERS)}")
    try:
        with local_file(where) as file:
            if not regular_file(file).st_size:
                raise CloudError(f"{name} is empty")
            return named(name, lambda: READERS[ending.lower()](file, columns, **number))
    except FileNotFoundError as error:
        raise CloudError(f"no file at {where}") from error
    except NotAFileError as error:
        raise CloudError(f"{where} is no file") from error


def named(name: str, read: Callable[[], Scan]) -> Scan:
    """Read a file; whatever goes wrong is a `CloudError` that names it."""
    try:
        return read()
    except CloudError as error:
        raise CloudError(f"{name}: {error}") from error
    except ModuleNotFoundError as error:
        raise CloudError(f"{name}: reading it needs {error.name}: pip install {error.name}") from error
    except Exception as error:  # every library has errors of its own for files that are not whole
        raise CloudError(f"{name} cannot be read: {reason_of(error)}") from error


def read_cloud(path: str | Path, columns: Sequence[str] | None = None, unit: str = "m", up: str | None = None) -> Cloud:
    """Read any cloud file.

    Args:
        path: see `read_scan`.
        columns: see `read_scan`.
        unit: of the file's coordinates: m, cm, mm, um, km, in, ft, us-ft.
        up: the file's axis that points up: z, y, x, -y, -z, -x; None for z, or what the format defines (glTF: y).

    Returns:
        `coord` (P, 3) float32, meters, z up; where the file has them `feat` (P, 3), colors in 0..1, `normal` (P, 3),
        `intensity` (P,) in the file's range, `classification` (P,); `frame`, which has the offset and takes points back
        to the file's coordinates; `kept` (N,), which of the file's points are here, None for all; `notes`. Points with
        a coordinate or feature that is not finite are dropped and counted in `notes`.

    Raises:
        CloudError: see `read_scan`.
        ValueError: an unknown unit or axis, `columns` without x, y or z.
    """
    Frame(unit, up or "z")  # before a long read
    scan = read_scan(path, columns)
    try:
        return to_cloud(scan, unit, up)
    except CloudError as error:
        raise CloudError(f"{Path(path).name}: {error}") from error


def finite_rows(scan: Scan, features: dict[str, np.ndarray], notes: list[str]) -> np.ndarray | None:
    """Return which points (P,) have finite coordinates and features, None for all; counts the others in `notes`.

    A feature that no point has is taken out of `features` instead.

    Raises:
        CloudError: there is no such point.
    """
    kept = np.isfinite(scan.xyz).all(1)
    if not kept.any():
        raise CloudError(f"none of {len(kept)} points has coordinates that are finite")
    lost = len(kept) - int(kept.sum())
    if lost:
        notes.append(f"{lost} of {len(kept)} points have coordinates that are not finite: dropped")
    for key in list(features):
        fine = np.isfinite(features[key]).reshape(len(kept), -1).all(1)
        count = int((kept & ~fine).sum())
        if count == kept.sum():
            notes.append(f"no {key} is finite: not used")
            del features[key]
        elif count:
            notes.append(f"{count} of {len(kept)} points have a {key} that is not finite: dropped")
            kept &= fine
    return None if kept.all() else kept


def to_cloud(scan: Scan, unit: str = "m", up: str | None = None) -> Cloud:
    """Turn the content of a file into a cloud; see `read_cloud`."""
    if not len(scan.xyz):
        raise CloudError("no points")
    notes = list(scan.notes)
    features = {key: getattr(scan, key) for key in FEATURES if getattr(scan, key) is not None}
    kept = finite_rows(scan, features, notes)
    if scan.classification is not None:
        features["classification"] = scan.classification
    rows = slice(None) if kept is None else kept
    frame = Frame(unit, up or scan.up)
    points = frame.meters(scan.xyz[rows])
    reach = float(max(abs(points.min()), abs(points.max())))
    if reach > 1e30:
        raise CloudError(f"coordinates reach {reach:.3g}, which cannot be meters")
    offset = offset_of(points)
    coord = np.empty(points.shape, np.float32)
    for start in range(0, len(points), PIECE):  # a difference of all points would be another copy in float64
        coord[start : start + PIECE] = points[start : start + PIECE] - offset
    cloud: Cloud = {"coord": coord}
    for key, values in features.items():
        cloud["feat" if key == "color" else key] = values[rows]
    if "normal" in cloud and frame.up != "z":
        cloud["normal"] = (cloud["normal"] @ frame.turn.T).astype(np.float32)
    if frame.up != "z" and up is None:
        notes.append(f"{frame.up} is the up axis of this format")
    cloud |= {"frame": Frame(unit, frame.up, offset), "offset": offset, "kept": kept, "notes": notes}
    return check_cloud(cloud)


def in_place(cloud: Cloud, values: np.ndarray, fill: float) -> np.ndarray:
    """Values of a cloud's points (P, ...) at all points of its file (N, ...); points that were dropped get `fill`."""
    kept = cloud.get("kept")
    if kept is None:
        return values
    out = np.full((len(kept), *values.shape[1:]), fill, values.dtype)
    out[kept] = values
    return out
