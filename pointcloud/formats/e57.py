"""E57 through pye57: all scans of a file, each moved to the place that its pose says."""

from pathlib import Path
from typing import Any

import numpy as np

from pointcloud.datasets.base import CloudError
from pointcloud.formats.scan import COLORS, Columns, Scan, need, reader


@reader(".e57")
def read_e57(path: Path, columns: Columns = None) -> Scan:
    """Read every scan of a file in the order they have there; invalid points are NaN."""
    pye57 = need("pye57", ".e57", "e57")
    file = pye57.E57(str(path))
    try:
        parts = [read_part(file, number) for number in range(file.scan_count)]
    finally:
        file.close()
    if not parts:
        raise CloudError("no scans in the file")
    notes = [f"{len(parts)} scans joined"] if len(parts) > 1 else []
    joined = {key: [part[key] for part in parts] for key in ("color", "intensity")}
    color, intensity = (
        None if any(v is None for v in values) else np.concatenate(values) for values in joined.values()
    )
    notes += [
        f"not all scans have {key}: not used"
        for key, values in joined.items()
        if any(v is None for v in values) and any(v is not None for v in values)
    ]
    return Scan(np.concatenate([part["xyz"] for part in parts]), color=color, intensity=intensity, notes=notes)


def read_part(file: Any, number: int) -> dict[str, Any]:
    """Points, colors in 0..1 and intensity of one scan."""
    head = file.get_header(number)
    names = list(head.point_fields)
    if {"cartesianX", "sphericalRange"}.isdisjoint(names):
        raise CloudError(f"scan {number} has {names}, expected cartesian or spherical coordinates")
    data = file.read_scan_raw(number)
    spherical = "cartesianX" not in names
    if spherical:
        reach, turn, rise = (data[f"spherical{k}"].astype(np.float64) for k in ("Range", "Azimuth", "Elevation"))
        flat = reach * np.cos(rise)
        xyz = np.stack([flat * np.cos(turn), flat * np.sin(turn), reach * np.sin(rise)], axis=1)
    else:
        xyz = np.stack([data[f"cartesian{k}"].astype(np.float64) for k in "XYZ"], axis=1)
    state = data.get("sphericalInvalidState" if spherical else "cartesianInvalidState")
    if state is not None:
        xyz[np.asarray(state) != 0] = np.nan
    if head.has_pose():
        xyz = xyz @ np.asarray(head.rotation_matrix).T + np.asarray(head.translation)
    channels = [data.get(f"color{k.capitalize()}") for k in COLORS]
    color = None
    if all(c is not None for c in channels):
        color = np.stack(channels, axis=1).astype(np.float32) / top_of(head)
    intensity = data.get("intensity")
    return {"xyz": xyz, "color": color, "intensity": None if intensity is None else np.asarray(intensity, np.float32)}


def top_of(head: Any) -> float:
    """Return the largest color value that a scan declares, 255 where it declares none."""
    try:
        return float(head.node["colorLimits"]["colorRedMaximum"].value()) or 255.0
    except Exception:  # pye57 raises its own C++ errors for nodes that are not there
        return 255.0
