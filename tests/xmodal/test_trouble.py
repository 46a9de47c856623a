"""Damage of a file counts against the file; trouble of the machine is waited for, and stops the run by its own name."""

import errno
import os
import socket
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from xmodal.data import trouble
from xmodal.data.broken import FileDataset
from xmodal.data.images import ImageDataset, read_image
from xmodal.data.pictures import MAX_PIXELS, Folder, ImageError, read_picture
from xmodal.data.trouble import NotAFileError, TroubleError, reading, regular_file, retried, trouble_of


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(trouble, "WAITS", (0, 0, 0))


def test_only_regular_files_are_opened(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    os.symlink(tmp_path / "file", tmp_path / "link")
    assert regular_file(tmp_path / "link").st_size == 3
    os.mkfifo(tmp_path / "pipe")
    os.symlink(tmp_path / "pipe", tmp_path / "link to a pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "sock"))
    kinds = {"pipe": "FIFO", "link to a pipe": "FIFO", ".": "folder", "sock": "socket", "/dev/zero": "device"}
    for name, kind in kinds.items():
        with pytest.raises(NotAFileError, match=f"is a {kind}"):
            regular_file(tmp_path / name)


def os_error(number):
    return OSError(number, os.strerror(number))


class FFmpegsError(OSError):
    """As PyAV names a torn file."""


FFmpegsError.__module__ = "av.error"


@pytest.mark.parametrize(
    ("error", "is_trouble"),
    [
        (os_error(errno.EIO), True),
        (os_error(errno.EMFILE), True),
        (os_error(errno.ENFILE), True),
        (os_error(errno.ESTALE), True),
        (os_error(errno.ENOENT), False),
        (os_error(errno.EACCES), False),
        (FFmpegsError(errno.EIO, "Input/output error"), False),
        (OSError("image file is truncated"), False),
        (ValueError("no frames"), False),
        (MemoryError(), False),  # this process has room: the file asked for too much
    ],
)
def test_what_is_the_machines_fault(error, is_trouble):
    assert bool(trouble_of(error)) == is_trouble
    wrapped = ValueError("cannot be read")
    wrapped.__cause__ = error
    assert bool(trouble_of(wrapped)) == is_trouble  # a reader's own error around it hides nothing
    with pytest.raises(TroubleError if is_trouble else ImageError), reading("a file", ImageError):
        raise error


def test_a_process_without_memory_is_not_a_files_fault(monkeypatch):
    monkeypatch.setattr(trouble, "_room", lambda: False)
    for error in (MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), os_error(12)):
        assert "out of memory" in trouble_of(error)


def test_trouble_is_waited_for(monkeypatch):
    waits, calls = [], []
    monkeypatch.setattr(trouble, "WAITS", (0.1, 0.5, 2))
    monkeypatch.setattr(trouble.time, "sleep", waits.append)

    def call(good_at):
        calls.append(0)
        if len(calls) < good_at:
            raise TroubleError("EIO")
        return "read"

    assert retried(lambda: call(3)) == "read"
    assert waits == [0.1, 0.5]
    calls.clear()
    with pytest.raises(TroubleError):
        retried(lambda: call(9))
    assert len(calls) == 4


class Files(FileDataset):
    """Files that raise what they are told to, as often as they are told to."""

    damage = ImageError

    def __init__(self, errors, test_mode, folder="/proc/self"):
        super().__init__([f"{folder}/{i}" for i in range(30)], "a list", test_mode, 0, 0.01)
        self.errors = errors

    def train_item(self, index, rng):
        if self.errors.get(index):
            raise self.errors[index].pop()
        return {"sample_id": str(index)}

    def test_item(self, index):
        return self.train_item(index, None)


@pytest.mark.parametrize("test_mode", [False, True])
@pytest.mark.parametrize("number", [errno.EIO, errno.EMFILE, errno.ENFILE])
def test_trouble_never_marks_a_good_file(test_mode, number):
    passing = Files({3: [os_error(number)] * 3}, test_mode)
    assert passing[3] == {"sample_id": "3"}
    assert passing.broken == []
    lasting = Files({3: [os_error(number)] * 9}, test_mode)
    with pytest.raises(TroubleError, match=errno.errorcode[number]):
        lasting[3]
    assert lasting.broken == []


def test_damage_and_what_needs_too_much_memory_count_against_the_file():
    files = Files({0: [ImageError("torn")], 1: [MemoryError()]}, test_mode=True)
    assert files[0] == {"skipped": "/proc/self/0", "reason": "torn"}
    assert files[1]["reason"] == "needs more memory than there is"
    assert len(files.broken) == 2
    with pytest.raises(KeyError):  # a mistake in the code is neither
        Files({0: [KeyError("x")]}, test_mode=True)[0]


def test_a_share_that_is_away_is_not_the_files_fault(tmp_path):
    home = tmp_path / "share"
    home.mkdir()
    Image.new("RGB", (8, 8)).save(home / "a.png")
    Image.new("RGB", (8, 8)).save(home / "b.png")
    (tmp_path / "list.txt").write_text("a.png 0\nb.png 1\n")
    data = ImageDataset(tmp_path / "list.txt", root=home, test_mode=True)
    home.rename(tmp_path / "away")
    with pytest.raises(TroubleError, match="away or empty"):
        data[0]
    home.mkdir()  # an empty mount point
    with pytest.raises(TroubleError, match="away or empty"):
        data[0]
    home.rmdir()
    (tmp_path / "away").rename(home)
    assert data[0]["label"] == 0
    (home / "a.png").unlink()  # this one alone is the file's
    assert "skipped" in data[0]


# ---------------------------------------------------------------- images


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of(width, height):
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(13000, 13000), (2**27 + 1, 1), (60000, 60000)])
def test_images_too_large_are_refused_by_their_header(tmp_path, size):
    assert size[0] * size[1] > MAX_PIXELS
    (tmp_path / "bomb.png").write_bytes(png_of(*size))
    with pytest.raises(ImageError, match="pixels"):
        read_picture(tmp_path / "bomb.png")
    with pytest.raises(ImageError, match="pixels"):
        read_image(tmp_path / "bomb.png")


def test_image_readers_refuse_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ImageError, match="FIFO"):
        read_image(tmp_path / "pipe.png")
    with pytest.raises(ImageError, match="FIFO"):
        Folder(tmp_path).read("pipe.png")
    with pytest.raises(ImageError, match=r"KeyError|no item"):
        Folder(tmp_path).read(str(zip_of(tmp_path)) + "@lost.png")


def zip_of(folder):
    import zipfile

    with zipfile.ZipFile(folder / "some.zip", "w") as file:
        file.writestr("there.png", png_of(4, 4))
    return "some.zip"


@pytest.mark.parametrize(
    "error", [RuntimeError("Failed to decode image"), MemoryError(), IndexError("x"), struct.error()]
)
def test_any_error_of_an_image_library_is_the_files(tmp_path, monkeypatch, error):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "b.png")
    (tmp_path / "list.txt").write_text("a.png 0\nb.png 1\n")
    load, bad = Image.open, (tmp_path / "a.png").read_bytes() + b"!"
    (tmp_path / "a.png").write_bytes(bad)

    def opened(file, *args):
        if file.read() == bad:
            raise error
        file.seek(0)
        return load(file, *args)

    monkeypatch.setattr(Image, "open", opened)
    data = ImageDataset(tmp_path / "list.txt")
    assert data[0, 0]["sample_id"] == "b.png"
    assert data.broken == [str(tmp_path / "a.png")]


def test_real_trouble_while_an_image_is_read(tmp_path, monkeypatch):
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "list.txt").write_text("a.png 0\n")
    data, errors = ImageDataset(tmp_path / "list.txt", test_mode=True), [os_error(errno.EIO)] * 2
    load = Image.open
    monkeypatch.setattr(Image, "open", lambda *a: (_ for _ in ()).throw(errors.pop()) if errors else load(*a))
    assert data[0]["sample_id"] == "a.png"
    assert data.broken == []
