"""Write results that point-cloud programs open: labeled points as `.ply`, `.las` or `.laz`, boxes as `.ply`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pointcloud.datasets.base import Cloud
from pointcloud.datasets.files import in_place
from pointcloud.formats.las import copy_labeled
from xmodal.atomic import replacing

PALETTE = (
    "#4c78a8", "#f58518", "#54a24b", "#e45756", "#72b7b2", "#eeca3b", "#b279a2", "#ff9da6", "#9d755d", "#bab0ac",
    "#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#7f7f7f", "#bcbd22", "#17becf",
)  # fmt: skip
PIECE = 1_000_000
PLY_TYPES = {"f8": "double", "f4": "float", "u1": "uchar", "i4": "int"}
# Two triangles for each side of a box in the order of `boxes.corners`, seen counter-clockwise from outside.
SIDES = (
    (0, 1, 2), (0, 2, 3), (4, 6, 5), (4, 7, 6), (0, 5, 1), (0, 4, 5), (1, 6, 2), (1, 5, 6), (2, 7, 3), (2, 6, 7),
    (3, 4, 0), (3, 7, 4),
)  # fmt: skip


def class_color(label: int) -> tuple[int, int, int]:
    """Return the color of a class, 0..255, the same in every file and page."""
    red, green, blue = bytes.fromhex(PALETTE[label % len(PALETTE)][1:])
    return red, green, blue


def ply_head(count: int, kinds: Sequence[tuple[str, str]], comments: Sequence[str], faces: int = 0) -> bytes:
    """Return the header of a binary `.ply`."""
    lines = ["ply", "format binary_little_endian 1.0", *(f"comment {c}" for c in comments)]
    lines += [f"element vertex {count}", *(f"property {PLY_TYPES[kind]} {name}" for name, kind in kinds)]
    if faces:
        lines += [f"element face {faces}", "property list uchar int vertex_indices"]
    return ("\n".join([*lines, "end_header"]) + "\n").encode("ascii", "replace")


def write_labeled_ply(path: Path, cloud: Cloud, segment: np.ndarray, names: Sequence[str]) -> None:
    """Write all points of a file in its own order and coordinates with `label`, and its colors, normals, intensity.

    Args:
        path: of the `.ply`.
        cloud: from `read_cloud`.
        segment: class of every point of the file (N,), -1 for none.
        names: of the classes, kept as comments.
    """
    frame, count = cloud["frame"], len(segment)
    kept = np.arange(count) if cloud["kept"] is None else np.flatnonzero(cloud["kept"])
    kinds = [(k, "f8" if frame.offset.any() or frame.unit != "m" else "f4") for k in "xyz"]
    kinds += [(k, "u1") for k in ("red", "green", "blue") if "feat" in cloud]
    kinds += [(k, "f4") for k in ("nx", "ny", "nz") if "normal" in cloud]
    kinds += [("intensity", "f4")] if "intensity" in cloud else []
    kinds += [("label", "i4")]
    layout = np.dtype([(name, f"<{kind}") for name, kind in kinds])
    comments = [f"label {i} {name}" for i, name in enumerate(names)] + ["label -1 none"]

    def write(file: Any) -> None:
        file.write(ply_head(count, kinds, comments))
        at = 0
        for start in range(0, count, PIECE):
            rows = np.zeros(min(PIECE, count - start), layout)
            here = kept[at : at + np.searchsorted(kept[at:], start + PIECE)]
            mine = slice(at, at + len(here))
            rows["label"] = segment[start : start + PIECE]
            for axis in "xyz":
                rows[axis] = np.nan
            for i, values in enumerate(frame.to_file(cloud["coord"][mine]).T):
                rows["xyz"[i]][here - start] = values
            if "feat" in cloud:
                for i, name in enumerate(("red", "green", "blue")):
                    rows[name][here - start] = (cloud["feat"][mine, i] * 255).round().clip(0, 255)
            if "normal" in cloud:
                for i, values in enumerate((cloud["normal"][mine] @ frame.turn).T):
                    rows[("nx", "ny", "nz")[i]][here - start] = values
            if "intensity" in cloud:
                rows["intensity"][here - start] = cloud["intensity"][mine]
            file.write(rows.tobytes())
            at += len(here)

    with replacing(path) as file:
        write(file)


def write_labeled(stem: str | Path, cloud: Cloud, segment: np.ndarray, names: Sequence[str]) -> dict[str, str]:
    """Write the classes of a file's points.

    Args:
        stem: path of the results without ending.
        cloud: from `read_cloud`, with `path`.
        segment: class of every point of the cloud (P,).
        names: of the classes.

    Returns:
        `segment`, the path of a `.npy` (N,) int16 in the file's order, -1 for points that were dropped; and `labeled`,
        a `.las` or `.laz` where the file is one, else a `.ply`.
    """
    every = in_place(cloud, segment.astype(np.int16), -1)
    array = Path(f"{stem}_segment.npy")
    with replacing(array) as file:
        np.save(file, every)
    source = Path(cloud["path"]) if "path" in cloud else Path()
    ending = source.suffix.lower() if source.suffix.lower() in (".las", ".laz") else ".ply"
    labeled = Path(f"{stem}_classes{ending}")
    if ending == ".ply":
        write_labeled_ply(labeled, cloud, every, names)
    else:
        copy_labeled(source, labeled, every, names)
    return {"segment": str(array), "labeled": str(labeled)}


def write_boxes_ply(path: str | Path, corners: np.ndarray, colors: Sequence[tuple[int, int, int]]) -> Path:
    """Write boxes as a mesh of triangles.

    Args:
        path: of the `.ply`.
        corners: (K, 8, 3), the lower face first, both faces in the same turn.
        colors: of each box, 0..255.
    """
    kinds = [*((k, "f8") for k in "xyz"), *((k, "u1") for k in ("red", "green", "blue"))]
    vertices = np.zeros(8 * len(corners), [(name, f"<{kind}") for name, kind in kinds])
    for i, axis in enumerate("xyz"):
        vertices[axis] = np.asarray(corners, np.float64).reshape(-1, 3)[:, i]
    for i, name in enumerate(("red", "green", "blue")):
        vertices[name] = np.repeat([c[i] for c in colors], 8)
    faces = np.zeros(len(SIDES) * len(corners), [("n", "u1"), ("rows", "<i4", (3,))])
    faces["n"] = 3
    faces["rows"] = (np.array(SIDES)[None] + 8 * np.arange(len(corners))[:, None, None]).reshape(-1, 3)
    comments = ["boxes in the coordinates of the file, 8 corners and 12 triangles each"]
    head = ply_head(len(vertices), kinds, comments, len(faces))
    with replacing(path) as file:
        file.write(head + vertices.tobytes() + faces.tobytes())
    return Path(path)
