"""LAS, LAZ and COPC through laspy: points read and copied piece by piece."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pointcloud.datasets.base import CloudError
from pointcloud.formats.scan import COLORS, Columns, Scan, need, reader

PIECE = 1_000_000


def open_las(path: Path) -> Any:
    """Open a file.

    Raises:
        CloudError: laspy or its decompressor is not installed; the message names the extra.
    """
    laspy = need("laspy", path.suffix)
    if path.suffix.lower() == ".laz" and not laspy.LazBackend.detect_available():
        raise CloudError(".laz files need lazrs: pip install 'xmodal[points]'")
    return laspy.open(str(path))


@reader(".las", ".laz")
def read_las(path: Path, columns: Columns = None) -> Scan:
    """Read coordinates in float64, colors (8 or 16 bits, as their values tell), intensity and classification."""
    with open_las(path) as file:
        count, names = file.header.point_count, set(file.header.point_format.dimension_names)
        if not count:
            raise CloudError("no points")
        if count * file.header.point_format.size > 1000 * path.stat().st_size:
            raise CloudError(f"the header says {count} points, the file has {path.stat().st_size} bytes")
        xyz = np.empty((count, 3))
        color = np.empty((count, 3), np.uint16) if set(COLORS) <= names else None
        intensity, classes = np.empty(count, np.float32), np.empty(count, np.int64)
        at = 0
        for piece in file.chunk_iterator(PIECE):
            rows = slice(at, at + len(piece))
            xyz[rows, 0], xyz[rows, 1], xyz[rows, 2] = piece.x, piece.y, piece.z
            intensity[rows], classes[rows] = piece.intensity, piece.classification
            if color is not None:
                for axis, name in enumerate(COLORS):
                    color[rows, axis] = piece[name]
            at += len(piece)
    if at != count:
        raise CloudError(f"{at} of {count} points are there: the file is cut")
    scan = Scan(xyz, intensity=intensity, classification=classes)
    if color is not None and color.any():
        narrow = color.max() <= 255
        scan.color = color.astype(np.float32) / (255 if narrow else 65535)
        if narrow:
            scan.notes.append("no color above 255: read as 8 bits")
    elif color is not None:
        scan.notes.append("all colors are 0: not used")
    return scan


def copy_labeled(source: Path, target: Path, segment: np.ndarray, names: Sequence[str]) -> None:
    """Copy a file with predicted classes.

    `prediction` gets the classes; so does `classification` where the point format has room for them, and the file's
    own classes move to `original_class`. Everything else stays.

    Args:
        source: a `.las` or `.laz`.
        target: of the same ending.
        segment: class of every point (P,).
        names: of the classes, kept as the description of `prediction` as far as they fit.
    """
    import laspy

    with open_las(source) as file:
        header = copy.deepcopy(file.header)
        if (header.version.major, header.version.minor) < (1, 2):  # those that can be written
            header.version = laspy.header.Version(1, 2)
        fits = segment.max(initial=0) <= (31 if header.point_format.id < 6 else 255)
        taken = set(header.point_format.dimension_names)
        extra = [laspy.ExtraBytesParams("prediction", np.int16, ",".join(names)[:31])]
        extra += [laspy.ExtraBytesParams("original_class", np.uint8)] if fits else []
        header.add_extra_dims([e for e in extra if e.name not in taken])
        header.vlrs = [v for v in header.vlrs if v.record_id not in (1, 1000) or v.user_id.lower() != "copc"]
        at = 0
        with laspy.open(str(target), mode="w", header=header) as out:
            for piece in file.chunk_iterator(PIECE):
                rows = segment[at : at + len(piece)]
                record = laspy.ScaleAwarePointRecord.zeros(len(piece), header=header)
                record.copy_fields_from(piece)
                record["prediction"] = rows
                if fits:
                    record["original_class"] = np.asarray(piece.classification)
                    record.classification = np.maximum(rows, 0)
                out.write_points(record)
                at += len(piece)
