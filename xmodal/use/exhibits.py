"""Samples of data sets as parts of a page: videos that play, pictures, clouds that turn."""

import io
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from pointcloud.datasets.base import CloudDataset
from pointcloud.formats.write import class_color
from video.datasets import VideoDataset
from video.reencode import preview
from xmodal import page
from xmodal.data.pictures import read_picture

SIDE = 240  # pixels of pictures; of films the short side is at most half of it
SMALL = 150_000  # bytes of a film that is shown as it is
STRIP = 8  # frames of a clip that are shown side by side


def shown(dataset: Any, index: int) -> str:
    """Return one sample of an evaluation's data set as people know it: the file, before any cropping.

    Raises:
        Exception: whatever reading it raises.
    """
    if isinstance(dataset, VideoDataset):
        return film_of(dataset.samples[index].path)
    if isinstance(dataset, CloudDataset):
        raw = dataset.load(index)
        return page.cloud(raw["coord"], colors_of(raw.get("feat")))
    samples = getattr(dataset, "samples", None)
    path = getattr(samples[index], "path", None) if samples else None
    if path is not None and Path(path).is_file():
        return picture_of(read_picture(path))
    return seen(dataset[index])


def seen(item: dict[str, Any]) -> str:
    """Return a sample as the network sees it, before normalization; empty where it has no known form."""
    if "clips" in item:
        clip = item["clips"][0]  # (T, 3, H, W)
        few = clip[np.linspace(0, len(clip) - 1, min(STRIP, len(clip))).round().astype(int)]
        return picture_of(Image.fromarray(np.hstack([pixels(frame) for frame in few])), STRIP * SIDE)
    if "image" in item:
        return picture_of(Image.fromarray(pixels(item["image"])))
    if "coord" in item:
        count = int(item["lengths"]) if "lengths" in item else None
        feat = item.get("feat")
        coord = np.asarray(item["coord"])[:count]
        return page.cloud(coord, colors_of(None if feat is None else np.asarray(feat)[:count]))
    return ""


def pixels(image: Tensor) -> np.ndarray:
    """Convert (3, H, W) of 0 to 255 to (H, W, 3) bytes."""
    return image.float().round().clamp(0, 255).byte().permute(1, 2, 0).numpy()


def picture_of(image: Image.Image, most: int = SIDE) -> str:
    """Return a picture, made smaller where it is larger than `most` pixels."""
    image = image.copy()
    image.thumbnail((most, most))
    out = io.BytesIO()
    image.save(out, "WEBP", quality=85)
    return page.picture(page.data_url(out.getvalue(), ".webp"))


def film_of(path: str) -> str:
    """Return a video that plays: as it is when it is small and browsers play it, else a small copy of its begin."""
    source = Path(path)
    if source.is_file() and source.suffix.lower() in (".mp4", ".webm") and source.stat().st_size <= SMALL:
        return page.film(page.data_url(source.read_bytes(), source.suffix.lower()))
    with tempfile.TemporaryDirectory() as folder:
        copy = preview(path, Path(folder) / "a.mp4", SIDE // 2)
        return page.film(page.data_url(copy.read_bytes(), ".mp4"))


def colors_of(feat: np.ndarray | None) -> np.ndarray | None:
    """Return colors (P, 3) of 0 to 255 where the features begin with colors of 0 to 1."""
    if feat is None or feat.shape[1] < 3 or feat[:, :3].min() < 0 or feat[:, :3].max() > 1:
        return None
    return np.asarray(feat[:, :3]) * 255


def of_classes(segment: np.ndarray) -> np.ndarray:
    """Return a color (P, 3) for the class of each point, gray where there is none."""
    table = {int(c): class_color(int(c)) if c >= 0 else (128, 128, 128) for c in np.unique(segment)}
    return np.array([table[int(c)] for c in segment])
