"""Sound files of every kind that the readers know, small, to be damaged."""

import json
import struct
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from tests.video import videos

VIDEOS = {
    "mp4": {}, "mov": {}, "mkv": {}, "flv": {"options": {"bf": "0"}}, "ts": {}, "webm": {"codec": "libvpx-vp9"},
    "avi": {"codec": "mpeg4"}, "mpg": {"codec": "mpeg2video"}, "wmv": {"codec": "wmv2"}, "3gp": {"codec": "mpeg4"},
    "gif": {"codec": "gif", "pix_fmt": "rgb8"},
}  # fmt: skip
IMAGES = ("png", "jpg", "webp", "gif", "tiff", "bmp", "ppm", "avif", "tga", "jp2")


def make(folder: Path) -> dict[str, list[Path]]:
    """Write the files; returns their paths by kind."""
    folder.mkdir(parents=True, exist_ok=True)
    kinds = {"video": films(folder), "image": images(folder), "cloud": clouds(folder)}
    return {**kinds, "checkpoint": checkpoints(folder), "annotation": annotations(folder)}


def films(folder: Path) -> list[Path]:
    """Numbered frames in several containers."""
    made = []
    for ending, options in VIDEOS.items():
        try:
            made.append(videos.write_video(folder / f"film.{ending}", frames=30, size=(48, 64), grain=30, **options))
        except (ValueError, OSError, LookupError):  # this PyAV has no such encoder
            (folder / f"film.{ending}").unlink(missing_ok=True)
    return made


def images(folder: Path) -> list[Path]:
    """A picture in several formats."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    made = []
    for ending in IMAGES:
        try:
            Image.fromarray(pixels).save(folder / f"image.{ending}")
            made.append(folder / f"image.{ending}")
        except (KeyError, OSError, ValueError):  # this Pillow cannot write it
            (folder / f"image.{ending}").unlink(missing_ok=True)
    return made


def clouds(folder: Path) -> list[Path]:
    """Points in several formats."""
    points = np.random.default_rng(0).normal(size=(200, 3)).astype(np.float32)
    np.save(folder / "cloud.npy", points)
    np.savez(folder / "cloud.npz", coord=points)
    np.savetxt(folder / "cloud.txt", points)
    np.concatenate([points, points[:, :1]], 1).astype(np.float32).tofile(folder / "cloud.bin")
    fields = "\n".join(f"property float {axis}" for axis in "xyz")
    for form in ("ascii", "binary_little_endian"):
        body = points.astype("<f4").tobytes()
        text = "".join(" ".join(map(str, row)) + "\n" for row in points.tolist()).encode()
        head = f"ply\nformat {form} 1.0\nelement vertex {len(points)}\n{fields}\nend_header\n".encode()
        (folder / f"{form}.ply").write_bytes(head + (text if form == "ascii" else body))
    head = f"FIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nCOUNT 1 1 1\nWIDTH {len(points)}\nHEIGHT 1\nPOINTS {len(points)}\n"
    (folder / "cloud.pcd").write_bytes(f"VERSION 0.7\n{head}DATA binary\n".encode() + points.astype("<f4").tobytes())
    (folder / "cloud.las").write_bytes(las(points))
    names = ("cloud.npy", "cloud.npz", "cloud.txt", "cloud.bin", "ascii.ply", "binary_little_endian.ply", "cloud.pcd")
    return [folder / name for name in (*names, "cloud.las")]


def las(points: np.ndarray) -> bytes:
    """A file of LAS 1.2, point format 0."""
    scaled = np.round(points / 0.001).astype("<i4")
    low, high = points.min(0).astype(float), points.max(0).astype(float)
    bounds = [value for pair in zip(high, low, strict=True) for value in pair]
    head = struct.pack("<4sHHIHH8sBB32s32sHHHII", b"LASF", 0, 0, 0, 0, 0, b"", 1, 2, b"", b"", 1, 2026, 227, 227, 0)
    head += struct.pack("<BHI5I", 0, 20, len(points), len(points), 0, 0, 0, 0)
    head += struct.pack("<12d", *[0.001] * 3, *[0.0] * 3, *bounds)
    return head + b"".join(row.tobytes() + bytes(8) for row in scaled)


def checkpoints(folder: Path) -> list[Path]:
    """What `tools/train.py` writes, as far as the readers look at it."""
    from safetensors.torch import save_file

    from xmodal.engine import checkpoint

    state = {f"layer{i}.weight": torch.randn(8, 8) for i in range(4)}
    meta = {"format": checkpoint.FORMAT, "step": 3, "classes": ["a", "b"]}
    checkpoint.write(folder / "last.pth", {"meta": meta, "state_dict": state})
    save_file(state, folder / "weights.safetensors")
    return [folder / "last.pth", folder / "weights.safetensors"]


def annotations(folder: Path) -> list[Path]:
    """Lists, and the official files of Kinetics and Something-Something."""
    (folder / "v").mkdir(exist_ok=True)
    for i in range(6):
        (folder / "v" / f"abc{i}_000000_000010.mp4").write_bytes(b"x")
    (folder / "list.txt").write_text("".join(f"v/abc{i}_000000_000010.mp4 {i % 3}\n" for i in range(6)))
    rows = [f"label {i % 3},abc{i},0,10,val\n" for i in range(6)]
    (folder / "kinetics.csv").write_text("label,youtube_id,time_start,time_end,split\n" + "".join(rows))
    entries = [{"id": f"abc{i}_000000_000010", "template": f"doing [{i % 3}]"} for i in range(6)]
    (folder / "ssv2.json").write_text(json.dumps(entries, indent=1))
    labels = {f"doing {i}": str(i) for i in range(3)}
    (folder / "something-something-v2-labels.json").write_text(json.dumps(labels))
    return [folder / name for name in ("list.txt", "kinetics.csv", "ssv2.json", "something-something-v2-labels.json")]
