"""The vertices of a `.ply`, ascii or binary; faces are left alone."""

import io
import re
from pathlib import Path
from typing import Any

import numpy as np

from pointcloud.datasets.base import CloudError
from pointcloud.formats.scan import Columns, Scan, from_fields, need, reader

SPLATS = ("f_dc_0", "f_dc_1", "f_dc_2")  # of Gaussian splats: their colors, as factors of the harmonic 1 / sqrt(4 pi)
SINGLE = re.compile(rb"^(\s*property\s+)float(?:32)?(\s+[xyz]\s*)$")


def check_size(lines: list[bytes], path: Path) -> None:
    """Refuse a header that promises more elements than the file can hold, before memory is taken for them.

    Raises:
        CloudError: naming the element.
    """
    size = path.stat().st_size
    for word in (line.decode("ascii", "replace").split() for line in lines):
        if word[:1] == ["element"] and len(word) == 3 and (not word[2].isdigit() or int(word[2]) > size):
            raise CloudError(f"the header says {word[2]} of {word[1]}, the file has {size} bytes")


def header_lines(file: Any) -> list[bytes]:
    """Return the lines of the header; the first one tells whether carriage returns alone end them.

    Raises:
        CloudError: there is none.
    """
    alone = re.match(rb"ply\r[^\n]", file.peek(5)) is not None
    lines: list[bytes] = []
    while not lines or lines[-1].strip() != b"end_header":
        line = line_to_return(file) if alone else file.readline(4096)
        if not line or len(lines) > 10_000 or (not lines and not line.startswith(b"ply")):
            raise CloudError("no header that begins with `ply` and ends with `end_header`: not a .ply file")
        lines.append(line)
    return lines


def line_to_return(file: Any) -> bytes:
    """Read a line that ends with a carriage return."""
    start = file.tell()
    line, end, _ = file.read(4096).partition(b"\r")
    file.seek(start + len(line + end))
    return line + end


@reader(".ply")
def read_ply(path: Path, columns: Columns = None) -> Scan:
    """Read the vertices: coordinates, colors by any usual name, normals, intensity."""
    plyfile = need("plyfile", ".ply")
    with path.open("rb") as file:
        raw = header_lines(file)
        lines = [line.decode("ascii", "replace").encode("ascii", "replace") for line in raw]  # plyfile takes no others
        check_size(lines, path)
        if any(line.split()[:2] == [b"format", b"ascii"] for line in lines):
            # text may have more digits than the type that the header gives it
            wide = [SINGLE.sub(rb"\1double\2", line) for line in lines]
            text = b"".join(wide) + file.read()
            data = plyfile.PlyData.read(io.BytesIO(re.sub(rb"\r\n?", b"\n", text) if b"\r" in wide[0] else text))
        elif lines != raw:
            data = plyfile.PlyData.read(io.BytesIO(b"".join(lines) + file.read()), mmap=False)
        else:
            data = plyfile.PlyData.read(str(path), mmap="c")
    element = next((e for e in data.elements if e.name.lower() in ("vertex", "vertices", "point")), None)
    if element is None:
        raise CloudError(f"elements {[e.name for e in data.elements]}, expected one called vertex")
    names = [n for n in element.data.dtype.names if element.data.dtype[n].kind in "fiu"]  # lists are objects
    scan = from_fields({name: np.asarray(element.data[name]) for name in names})
    if set(SPLATS) <= set(names) and scan.color is None:
        constant = np.stack([element.data[name] for name in SPLATS], axis=1).astype(np.float32)
        scan.color = np.clip(0.5 + 0.28209479177387814 * constant, 0, 1)
        scan.notes.append("Gaussian splats: their centers are the points, their color from all sides is the color")
    if any(e.name == "face" and len(e.data) for e in data.elements):
        scan.notes.append("the file has faces: its vertices are the points")
    return scan
