"""Read image files as RGB, and cut them for training and for testing, as torchvision does."""

import io
import math
import os
import threading
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from xmodal.data import stores
from xmodal.data.trouble import reading

MAX_PIXELS = 2**27  # of an image: 11,585 x 11,585
MAX_BYTES = 2**30  # of an image file
ORIENTATION = 274  # EXIF's tag
_T = Image.Transpose
TURNS = {2: _T.FLIP_LEFT_RIGHT, 3: _T.ROTATE_180, 4: _T.FLIP_TOP_BOTTOM, 5: _T.TRANSPOSE, 6: _T.ROTATE_270,
         7: _T.TRANSVERSE, 8: _T.ROTATE_90}  # fmt: skip


# what strangers' folders hold that Pillow does not read: where the mark is, the mark, what the file is
OTHERS = (
    (4, b"ftyphe", "HEIC"), (4, b"ftypmif1", "HEIF"), (4, b"ftyp", "a video"), (0, b"\xff\x0a", "JPEG XL"),
    (4, b"JXL ", "JPEG XL"), (0, b"8BPS", "a Photoshop file"), (0, b"%PDF", "PDF"), (0, b"<", "text (HTML, SVG)"),
)  # fmt: skip


class ImageError(RuntimeError):
    """A file that holds no image that can be read."""


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert any image to RGB; 16-bit grays are scaled, not clipped.

    Raises:
        ValueError: 32-bit pixels that do not lie in 0..255.
    """
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PPM", "PNG")):
        return Image.fromarray((np.asarray(image) // 257).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        low, high = np.nanmin(np.asarray(image)), np.nanmax(np.asarray(image))
        if low < 0 or high > 255 or (image.mode == "F" and 0 < high <= 1):
            raise ValueError(f"32-bit pixels from {low:g} to {high:g}, whose white is not known: save 8 or 16 bits")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


def upright(image: Image.Image) -> Image.Image:
    """Convert a loaded image file to RGB, turned and mirrored as its EXIF orientation says (cameras, phones)."""
    found = to_rgb(image)
    try:
        turn = TURNS.get(image.getexif().get(ORIENTATION))  # type: ignore[arg-type]
    except Exception:  # damaged EXIF data, which raise anything, make no picture unreadable
        turn = None
    return found if turn is None else found.transpose(turn)


def read_picture(source: str | os.PathLike | bytes) -> Image.Image:
    """Read an image file, or its bytes, as RGB, upright.

    Raises:
        ImageError: no regular file, no image, a damaged one, or one of more than `MAX_PIXELS`.
        TroubleError: the machine or its storage fails.
    """
    with reading("an image" if isinstance(source, bytes) else source, ImageError):
        data = source if isinstance(source, bytes) else bytes_of(source)
        with opened(data) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"{image.width} x {image.height} pixels; {MAX_PIXELS} pixels are the most")
            return upright(image)


def opened(data: bytes) -> Image.Image:
    """Open the bytes of an image file.

    Raises:
        ImageError: Pillow knows no such file; with what it is, by its first bytes.
    """
    try:
        return Image.open(io.BytesIO(data))
    except UnidentifiedImageError:
        kind = next((name for at, mark, name in OTHERS if data[at:].startswith(mark)), "")
        what = f"{kind}, which is not read: save it as PNG or JPEG" if kind else f"it begins with {data[:12]!r}"
        raise ImageError(f"no image: {what if data else 'an empty file'}") from None


def bytes_of(path: str | os.PathLike) -> bytes:
    """Return the bytes of a regular file of moderate size, wherever it is (`stores.open_file`).

    Raises:
        ValueError: something else, or a larger one.
    """
    with stores.open_file(path) as file:
        size = file.seek(0, os.SEEK_END)
        if size > MAX_BYTES:
            raise ValueError(f"{size} bytes; {MAX_BYTES} are the most for an image")
        file.seek(0)
        return file.read()


def to_array(picture: Image.Image) -> np.ndarray:
    """Convert a picture to an array (3, H, W) u8."""
    return np.asarray(picture).transpose(2, 0, 1).copy()


def center_crop(picture: Image.Image, size: int) -> Image.Image:
    """Resize the short side (bicubic) to `size` and cut out the center."""
    w, h = picture.size
    short = min(w, h)
    w, h = int(size * w / short), int(size * h / short)  # as torchvision: the long side rounded down
    if (w, h) != picture.size:
        picture = picture.resize((w, h), Image.Resampling.BICUBIC)
    left, top = round((w - size) / 2), round((h - size) / 2)
    return picture.crop((left, top, left + size, top + size))


def crop_shape(
    width: int, height: int, area: Sequence[float], ratio: Sequence[float], rng: np.random.Generator
) -> tuple[int, int, bool]:
    """Draw width and height of a box whose share of the area lies in `area`, and whose shape log-uniformly in `ratio`.

    After ten boxes that do not fit, it is the largest of an allowed shape, and the third value is False.
    """
    for _ in range(10):
        size = width * height * rng.uniform(area[0], area[1])
        shape = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(size * shape)), round(math.sqrt(size / shape))
        if 0 < w <= width and 0 < h <= height:
            return w, h, True
    return min(width, round(height * ratio[1])), min(height, round(width / ratio[0])), False


def crop_box(
    width: int,
    height: int,
    scale: Sequence[float],
    rng: np.random.Generator,
    ratio: Sequence[float] = (3 / 4, 4 / 3),
) -> tuple[int, int, int, int]:
    """Draw a box (left, top, right, bottom), see `crop_shape`; one that was not drawn lies in the middle."""
    w, h, drawn = crop_shape(width, height, scale, ratio, rng)
    left, top = (width - w) // 2, (height - h) // 2
    if drawn:
        left, top = int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1))
    return left, top, left + w, top + h


def random_crop(
    picture: Image.Image,
    size: int,
    rng: np.random.Generator,
    scale: Sequence[float] = (0.08, 1.0),
    flip: bool = True,
    ratio: Sequence[float] = (3 / 4, 4 / 3),
) -> Image.Image:
    """Cut a random part out of a picture, squeeze it (bicubic) into a square, and mirror it at even odds.

    Args:
        picture: of any size.
        size: side of the square, pixels.
        rng: gives the draws.
        scale: smallest and largest share of the area.
        flip: False never mirrors (captions that say left and right do not survive it).
        ratio: narrowest and widest shape.
    """
    box = crop_box(*picture.size, scale, rng, ratio)
    view = picture.resize((size, size), Image.Resampling.BICUBIC, box=box)
    return view.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip and rng.random() < 0.5 else view


class Folder:
    """Read files below a folder, some of them inside zip archives: `a.png`, or `archive.zip@inner/a.png`."""

    def __init__(self, root: str | Path):
        self.root = Path(root)
        self.archives: dict[str, zipfile.ZipFile] = {}
        self.lock = threading.Lock()

    def __reduce__(self) -> tuple:
        return Folder, (self.root,)  # workers open the archives themselves

    def read(self, path: str) -> bytes:
        """Return the bytes of a file.

        Raises:
            ImageError: it cannot be read.
        """
        with reading(path, ImageError):
            archive, at, inner = path.rpartition("@")
            if not at or not archive.lower().endswith(".zip"):
                return bytes_of(self.root / path)
            with self.lock:
                if archive not in self.archives:
                    self.archives[archive] = zipfile.ZipFile(self.root / archive)
            if self.archives[archive].getinfo(inner).file_size > MAX_BYTES:
                raise ValueError(f"{inner} is larger than {MAX_BYTES} bytes")
            return self.archives[archive].read(inner)
