"""Meshes through trimesh: points drawn on their surface, evenly by area."""

from pathlib import Path
from typing import Any

import numpy as np

from pointcloud.datasets.base import CloudError
from pointcloud.formats.scan import Columns, Scan, need, reader

SAMPLES = 100_000
UP = {".gltf": "y", ".glb": "y"}  # as the format defines it


@reader(".obj", ".stl", ".gltf", ".glb")
def read_mesh(path: Path, columns: Columns = None) -> Scan:
    """Draw points on a mesh's surface, with their normals and colors; a file without faces gives its vertices."""
    trimesh = need("trimesh", path.suffix, "meshes")
    found = trimesh.load(str(path))
    mesh = found.to_geometry() if hasattr(found, "to_geometry") else found
    up = UP.get(path.suffix.lower(), "z")
    faces = getattr(mesh, "faces", None)
    if faces is None or not len(faces):
        points = np.asarray(getattr(mesh, "vertices", ()), np.float64).reshape(-1, 3)
        notes = ["the file has no faces: its vertices are the points"]
        return Scan(points, color=vertex_colors(mesh, len(points)), up=up, notes=notes)
    return draw_scan(trimesh, mesh, up)


def draw_scan(trimesh: Any, mesh: Any, up: str = "z") -> Scan:
    """Draw points on the faces of a mesh, evenly by area."""
    if not np.isfinite(mesh.area) or mesh.area <= 0:
        raise CloudError(f"{len(mesh.faces)} faces without area: nothing to draw points on")
    points, index, color = sample(trimesh, mesh)
    note = f"{SAMPLES} points drawn on {len(mesh.faces)} faces, evenly by area"
    normal = np.asarray(mesh.face_normals[index], np.float32)
    return Scan(np.asarray(points, np.float64), color=color, normal=normal, up=up, notes=[note])


def vertex_colors(mesh: Any, count: int) -> np.ndarray | None:
    """Return the colors (P, 3) in 0..1 of a mesh's vertices, None where the file gives none."""
    visual = getattr(mesh, "visual", None)
    if getattr(visual, "kind", None) != "vertex" or len(visual.vertex_colors) != count:  # type: ignore[union-attr]
        return None
    return np.asarray(visual.vertex_colors, np.float32)[:, :3] / 255  # type: ignore[union-attr]


def sample(trimesh: Any, mesh: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Points, their faces and, where the mesh has any, their colors in 0..1; the same at every call."""
    visual = mesh.visual
    if getattr(visual, "kind", None) is None:
        points, index = trimesh.sample.sample_surface(mesh, SAMPLES, seed=0)
        return points, index, None
    try:
        points, index, color = trimesh.sample.sample_surface(mesh, SAMPLES, seed=0, sample_color=True)
    except (AttributeError, TypeError, ValueError, IndexError):  # a texture whose image is not there
        points, index = trimesh.sample.sample_surface(mesh, SAMPLES, seed=0)
        return points, index, None
    if visual.kind == "vertex":  # trimesh gives the mean of a face's three colors
        share = trimesh.triangles.points_to_barycentric(mesh.triangles[index], points)
        color = (visual.vertex_colors[mesh.faces[index]] * share[:, :, None]).sum(1).clip(0, 255)
    return points, index, np.asarray(color, np.float32)[:, :3] / 255
