"""Point Cloud Library's `.pcd`: ascii, binary and binary_compressed."""

import io
from pathlib import Path

import numpy as np

from pointcloud.datasets.base import CloudError
from pointcloud.formats.scan import COLORS, Columns, Scan, from_fields, reader

KINDS = {"F": "f", "I": "i", "U": "u"}
Head = dict[str, list[str]]


def read_head(raw: bytes) -> tuple[Head, int]:
    """Return the header's lines by their first word, and where the data begin.

    Raises:
        CloudError: no header, or one that does not fit together.
    """
    head: Head = {}
    at = 0
    while "DATA" not in head:
        end = raw.find(b"\n", at)
        if end < 0 or end - at > 100_000:
            raise CloudError("no DATA line: not a .pcd file")
        words = raw[at:end].decode("ascii", "replace").split()
        at = end + 1
        if words and not words[0].startswith("#"):
            head[words[0].upper()] = words[1:]
    for key in ("FIELDS", "SIZE", "TYPE", "DATA"):
        if not head.get(key):
            raise CloudError(f"no {key} line in the header")
    head.setdefault("COUNT", ["1"] * len(head["FIELDS"]))
    widths = {key: len(head[key]) for key in ("FIELDS", "SIZE", "TYPE", "COUNT")}
    if len(set(widths.values())) != 1:
        raise CloudError(f"header lines of different lengths: {widths}")
    return head, at


def layout_of(head: Head) -> tuple[np.dtype, list[str]]:
    """Return the type of one point, and the names of its fields with repeated ones (padding) made different."""
    names, parts = [], []
    for i, (name, size, kind, count) in enumerate(
        zip(head["FIELDS"], head["SIZE"], head["TYPE"], head["COUNT"], strict=True)
    ):
        unique = name if name not in names and name != "_" else f"_{i}"
        try:
            base = np.dtype(f"<{KINDS[kind]}{int(size)}")
        except (KeyError, TypeError, ValueError) as error:
            raise CloudError(f"field {name} has TYPE {kind} and SIZE {size}, which .pcd does not have") from error
        if int(count) < 1:
            unique, base, count = f"_{i}", np.dtype("V0"), "1"
        names.append(unique)
        parts.append((unique, base, (int(count),) if int(count) > 1 else ()))
    return np.dtype(parts), names


def count_of(head: Head) -> int:
    """Return the number of points."""
    if head.get("POINTS"):
        return int(head["POINTS"][0])
    if not head.get("WIDTH"):
        raise CloudError("neither POINTS nor WIDTH in the header")
    return int(head["WIDTH"][0]) * int(head.get("HEIGHT", ["1"])[0])


def from_ascii(text: bytes, layout: np.dtype, names: list[str], count: int) -> dict[str, np.ndarray]:
    """Columns of an ascii body. A packed color may be written as its number or as the float with its bits."""
    rows = np.loadtxt(io.BytesIO(text), ndmin=2, max_rows=count, encoding="latin1")
    wide = sum(int(np.prod(layout[n].shape)) or 1 for n in names)
    if len(rows) != count or rows.shape[1] != wide:
        raise CloudError(f"{len(rows)} rows of {rows.shape[1]} numbers, the header says {count} of {wide}")
    data, at = {}, 0
    for name in names:
        span = int(np.prod(layout[name].shape)) or 1
        column = rows[:, at] if span == 1 else rows[:, at : at + span]
        packed = name in ("rgb", "rgba") and layout[name].kind == "f"
        numbers = packed and bool((np.isfinite(column) & ((column == 0) | (column >= 1)) & (column < 2**32)).all())
        # a float below 1 has the packed bits of a color without alpha; whole numbers are the packed color itself
        kind = np.dtype(np.uint32) if numbers else layout[name].base
        # text may have more digits than the type that the header gives it
        data[name] = column if kind.kind == "f" and not packed else column.astype(kind)
        at += span
    return data


def from_binary(raw: bytes, at: int, layout: np.dtype, names: list[str], count: int) -> dict[str, np.ndarray]:
    """Columns of a binary body."""
    if len(raw) - at < count * layout.itemsize:
        raise CloudError(f"{(len(raw) - at) // layout.itemsize} of {count} points are there: the file is cut")
    table = np.frombuffer(raw, layout, count=count, offset=at)
    return {name: table[name] for name in names}


def from_compressed(raw: bytes, at: int, layout: np.dtype, names: list[str], count: int) -> dict[str, np.ndarray]:
    """Columns of a compressed body: field after field, packed with LZF."""
    if len(raw) - at < 8:
        raise CloudError("the file ends before its compressed data")
    packed, size = (int(v) for v in np.frombuffer(raw, "<u4", 2, at))
    if size != count * layout.itemsize or len(raw) - at - 8 < packed:
        raise CloudError(
            f"{len(raw) - at - 8} of {packed} compressed bytes for {size} bytes; {count} points have "
            f"{count * layout.itemsize}"
        )
    plain = unpack_lzf(memoryview(raw)[at + 8 : at + 8 + packed], size) if packed != size else raw[at + 8 :]
    data, start = {}, 0
    for name in names:
        kind = layout[name]
        data[name] = np.frombuffer(plain, kind, count, start) if kind.itemsize else np.zeros(count)
        start += count * kind.itemsize
    return data


def unpack_lzf(packed: memoryview, size: int) -> bytearray:
    """Decompress LZF: runs of literal bytes, and copies of what came before.

    Raises:
        CloudError: the stream does not give `size` bytes.
    """
    out = bytearray()
    at, end = 0, len(packed)
    try:
        while at < end:
            control = packed[at]
            at += 1
            if control < 32:  # literals
                out += packed[at : at + control + 1]
                at += control + 1
                continue
            length = control >> 5
            if length == 7:
                length += packed[at]
                at += 1
            start = len(out) - ((control & 31) << 8) - packed[at] - 1
            at += 1
            length += 2
            if start < 0:
                raise CloudError("the compressed data are damaged")
            chunk = out[start : start + length]
            while len(chunk) < length:  # the copy overlaps what it makes
                chunk += chunk[: length - len(chunk)]
            out += chunk
    except IndexError as error:
        raise CloudError("the compressed data are cut") from error
    if len(out) != size:
        raise CloudError(f"the compressed data give {len(out)} bytes, expected {size}")
    return out


def unpack_colors(data: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Replace a packed `rgb` or `rgba` (0xAARRGGBB, as a number or in the bits of a float) by bytes of each color."""
    name = next((n for n in ("rgb", "rgba") if n in data), None)
    if name is None or set(COLORS) <= data.keys() or (data[name].ndim == 1 and data[name].dtype.itemsize < 4):
        return data
    column = np.ascontiguousarray(data.pop(name))
    if column.ndim == 2 and column.shape[1] >= 3:  # three or four bytes
        return {**data, **{k: column[:, i] for i, k in enumerate(COLORS)}}
    bits = column.view(np.uint32) if column.dtype == np.float32 else column.astype(np.int64) & 0xFFFFFFFF
    return {**data, **{k: ((bits >> s) & 255).astype(np.uint8) for k, s in zip(COLORS, (16, 8, 0), strict=True)}}


def viewpoint_notes(head: Head) -> list[str]:
    """Return a sentence where the sensor was not at the origin: as in PCL, the stored coordinates are not moved."""
    words = head.get("VIEWPOINT", [])
    try:
        moved = bool(words) and [float(w) for w in words] != [0, 0, 0, 1, 0, 0, 0]
    except ValueError:
        moved = True
    return (
        [f"VIEWPOINT {' '.join(words)}: the sensor's place; coordinates are left as they are stored"] if moved else []
    )


@reader(".pcd")
def read_pcd(path: Path, columns: Columns = None) -> Scan:
    """Read a `.pcd` of any encoding; organized clouds row by row, pixels without a return as NaN."""
    raw = path.read_bytes()
    head, at = read_head(raw)
    layout, names = layout_of(head)
    count = count_of(head)
    if count < 1 or count > len(raw) * 300:
        raise CloudError(f"the header says {count} points, the file has {len(raw)} bytes")
    form = head["DATA"][0].lower()
    if form == "ascii":
        data = from_ascii(raw[at:], layout, names, count)
    elif form == "binary":
        data = from_binary(raw, at, layout, names, count)
    elif form == "binary_compressed":
        data = from_compressed(raw, at, layout, names, count)
    else:
        raise CloudError(f"DATA {form}: .pcd has ascii, binary and binary_compressed")
    data = {name.lower(): values for name, values in data.items()}
    fields = {k: v for k, v in unpack_colors(data).items() if v.ndim == 1 and not k.startswith("_")}
    scan = from_fields(fields)
    scan.notes += viewpoint_notes(head)
    return scan
