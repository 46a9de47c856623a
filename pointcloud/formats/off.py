"""Read `.off` meshes: counts, vertices and faces in text, with the normals and colors that the first word announces."""

import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pointcloud.datasets.base import CloudError
from pointcloud.formats.columns import from_table
from pointcloud.formats.meshes import draw_scan
from pointcloud.formats.scan import Columns, Scan, need, reader, unit_colors

HEAD = re.compile(r"(?P<letters>(?:ST|C|N|4)*)(?P<n>n?)OFF(?P<binary>\s+BINARY)?(?=[\s\d]|$)")
GRAY = 2 / 3  # of faces without a color in a mesh where others have one, as Geomview shows them


@dataclass
class Mesh:
    """Vertices of a file, triangles (T, 3) cut from its faces, and the color (T, 3) of the face each comes from."""

    vertices: Scan
    triangles: np.ndarray
    colors: np.ndarray | None = None
    notes: list[str] = field(default_factory=list)


@reader(".off")
def read_off(path: Path, columns: Columns = None) -> Scan:
    """Draw points on the surface, with the colors of the vertices or faces; a file without faces gives its vertices."""
    mesh = parse(path.read_text(encoding="utf-8-sig", errors="replace"))
    if not len(mesh.triangles):
        mesh.vertices.notes.append("the file has no faces: its vertices are the points")
        return mesh.vertices
    trimesh = need("trimesh", ".off", "meshes")
    colors = {"vertex_colors": mesh.vertices.color} if mesh.colors is None else {"face_colors": mesh.colors}
    colors = {name: np.rint(c * 255).astype(np.uint8) for name, c in colors.items() if c is not None}
    # equal places may have different colors: vertices are joined only where there are none
    surface = trimesh.Trimesh(mesh.vertices.xyz, mesh.triangles, process=not colors, **colors)
    scan = draw_scan(trimesh, surface)
    scan.notes += mesh.notes
    return scan


def parse(text: str) -> Mesh:
    """Read the text of a file; in ModelNet's files the counts are glued to the first word.

    Raises:
        CloudError: binary, of other dimensions than three, or counts that the lines do not have.
    """
    lines = [words for line in text.splitlines() if (words := line.split("#")[0].split())]
    head = HEAD.match(" ".join(lines[0]) if lines else "")
    letters = head["letters"] if head else ""
    if head:
        if head["n"] or head["binary"]:
            raise CloudError(f"{head[0]}: only text files of three dimensions are read; save the mesh as OFF or COFF")
        lines[0] = " ".join(lines[0])[head.end() :].split()
        lines = lines if lines[0] else lines[1:]
    try:
        count, faces = (int(word) for word in lines[0][:2])
    except (IndexError, ValueError):
        raise CloudError("no line with the numbers of vertices and faces: not an .off file") from None
    if count < 0 or faces < 0 or len(lines) - 1 < count + faces:
        raise CloudError(f"the header says {count} vertices and {faces} faces, the file has {len(lines) - 1} lines")
    widths = {len(words) for words in lines[1 : count + 1]}
    if len(widths) > 1:
        raise CloudError(f"vertices of {min(widths)} to {max(widths)} numbers, expected the same number in each line")
    vertices = vertices_of(np.array(lines[1 : count + 1], np.float64).reshape(count, -1), letters)
    return with_faces(vertices, lines[count + 1 : count + faces + 1], count)


def vertices_of(table: np.ndarray, letters: str) -> Scan:
    """Return the vertices of rows x y z [w] [normal] [color] [texture]; the letters tell which there are."""
    if not letters:
        return from_table(table)
    if "4" in letters:
        table = np.c_[table[:, :3] / table[:, 3:4], table[:, 4:]]
    at = 6 if "N" in letters else 3
    least = at + (3 if "C" in letters else 0) + (2 if "ST" in letters else 0)
    if table.shape[1] < least:
        raise CloudError(f"{letters}OFF has {least} numbers or more for each vertex, the file has {table.shape[1]}")
    scan = Scan(table[:, :3])
    scan.normal = table[:, 3:6].astype(np.float32) if "N" in letters else None
    scan.color = unit_colors(table[:, at : at + 3], notes=scan.notes) if "C" in letters else None
    return scan


def with_faces(vertices: Scan, faces: list[list[str]], count: int) -> Mesh:
    """Cut faces (`3 0 1 2`, then nothing, a number or a color) into triangles that fan out from their first corners."""
    corners = np.array([int(words[0]) for words in faces], np.int64)
    parts, owners = [np.zeros((0, 3), np.int64)], [np.zeros(0, np.int64)]
    for n in np.unique(corners[corners > 2]):
        own = np.flatnonzero(corners == n)
        rows = np.array([faces[i][1 : n + 1] for i in own], np.int64)
        for k in range(1, n - 1):
            parts.append(rows[:, [0, k, k + 1]])
            owners.append(own)
    owner = np.concatenate(owners)
    order = np.argsort(owner, kind="stable")
    triangles, owner = np.concatenate(parts)[order], owner[order]
    if len(triangles) and not 0 <= triangles.min() <= triangles.max() < count:
        raise CloudError(f"faces name vertices from {triangles.min()} to {triangles.max()}, there are 0 to {count - 1}")
    mesh = Mesh(vertices, triangles, notes=list(vertices.notes))
    colors = [words[n + 1 : n + 4] for words, n in zip(faces, corners, strict=True)]
    have = np.array([len(c) == 3 for c in colors], bool)
    if have.any():
        found = unit_colors(np.array([c for c, h in zip(colors, have, strict=True) if h], np.float64), notes=mesh.notes)
        if found is not None:
            every = np.full((len(faces), 3), GRAY, np.float32)
            every[have] = found
            mesh.colors = every[owner]
            if not have.all():
                mesh.notes.append(f"{int((~have).sum())} of {len(have)} faces have no color: gray")
    return mesh
