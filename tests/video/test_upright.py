"""Pixels are those that the `ffmpeg` command shows: of every color format, interlaced, turned and mirrored."""

import shutil
import struct
import subprocess
from concurrent.futures import ThreadPoolExecutor

import av
import numpy as np
import pytest

import video.upright as upright_module
from video.decode import VideoFile
from video.libraries import LIBRARIES
from video.sequential import Sequential
from video.upright import graph_of, upright

pytestmark = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="the ffmpeg command is the truth here")
X264 = ("-c:v", "libx264", "-preset", "veryfast")
KINDS = {
    "8 bit": ("mp4", *X264, "-pix_fmt", "yuv420p"),
    "10 bit": ("mp4", *X264, "-pix_fmt", "yuv420p10le"),
    "HDR": ("mp4", *X264, "-pix_fmt", "yuv420p10le", "-color_primaries", "bt2020", "-color_trc", "smpte2084",
            "-colorspace", "bt2020nc"),
    "4:2:2": ("mkv", "-c:v", "ffv1", "-pix_fmt", "yuv422p12le"),
    "4:1:0": ("mov", "-c:v", "svq1"),
    "interlaced": ("mp4", *X264, "-pix_fmt", "yuv420p", "-flags", "+ildct+ilme", "-x264-params", "tff=1"),
}  # fmt: skip
COS, SIN = 0.99863, 0.05234  # of 3 degrees
MATRICES = {
    "mirrored": (-1, 0, 0, 1),
    "upside down in a mirror": (1, 0, 0, -1),
    "transposed": (0, 1, 1, 0),
    "transposed the other way": (0, -1, -1, 0),
    "clockwise": (0, 1, -1, 0),
    "counter-clockwise": (0, -1, 1, 0),
    "half a turn": (-1, 0, 0, -1),
    "three degrees": (COS, SIN, -SIN, COS),
}


def write(path, *arguments):
    source = ("-f", "lavfi", "-i", "testsrc2=s=144x96:d=0.5:r=10")
    subprocess.run(["ffmpeg", "-v", "error", *source, *arguments, str(path)], check=True)
    return path


def shown(path, shape):
    command = ["ffmpeg", "-v", "error", "-i", str(path), "-vsync", "passthrough", "-f", "rawvideo", "-pix_fmt", "rgb24"]
    found = subprocess.run([*command, "-"], capture_output=True, check=True).stdout
    return np.frombuffer(found, np.uint8).reshape(-1, *shape)


def with_matrix(path, target, a, b, c, d):
    data = bytearray(path.read_bytes())
    whole = [round(x * 65536) for x in (a, b)] + [0] + [round(x * 65536) for x in (c, d)] + [0, 0, 0, 1 << 30]
    struct.pack_into(">9i", data, data.index(b"tkhd") + 44, *whole)
    target.write_bytes(data)
    return target


@pytest.mark.parametrize("kind", KINDS)
def test_colors_are_those_of_the_command(tmp_path, kind):
    ending, *arguments = KINDS[kind]
    path = write(tmp_path / f"a.{ending}", *arguments)
    with VideoFile(path) as video:
        frames = video.read(range(video.num_frames))
    np.testing.assert_array_equal(frames, shown(path, (96, 144, 3)))


@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize("kind", ["8 bit", "10 bit"])
def test_display_matrices_are_those_of_the_command(tmp_path, kind, matrix):
    ending, *arguments = KINDS[kind]
    path = with_matrix(write(tmp_path / f"a.{ending}", *arguments), tmp_path / "b.mp4", *MATRICES[matrix])
    size = (144, 96) if MATRICES[matrix][0] == 0 else (96, 144)
    truth = shown(path, (*size, 3))
    with VideoFile(path) as video:
        assert video.size == size
        np.testing.assert_array_equal(video.read(range(video.num_frames)), truth)
    reader = Sequential(str(path))
    assert reader.size == size
    np.testing.assert_array_equal(reader.frames(np.array([1, 3])), truth[[1, 3]])


@pytest.mark.parametrize("decoder", ["decord", "torchcodec"])
@pytest.mark.parametrize("matrix", ["mirrored", "upside down in a mirror", "three degrees"])
def test_libraries_do_not_read_what_they_would_not_mirror(tmp_path, decoder, matrix):
    pytest.importorskip(LIBRARIES[decoder].package)
    path = with_matrix(write(tmp_path / "a.mp4", *KINDS["8 bit"][1:]), tmp_path / "b.mp4", *MATRICES[matrix])
    with VideoFile(path, decoder=decoder) as video:
        np.testing.assert_array_equal(video.read(range(video.num_frames)), shown(path, (96, 144, 3)))


def test_two_videos_frame_by_frame_in_several_threads(tmp_path):
    films = []
    for name, kind, matrix in (
        ("a", "10 bit", "mirrored"),
        ("b", "10 bit", "clockwise"),
        ("c", "interlaced", "three degrees"),
    ):
        path = with_matrix(
            write(tmp_path / f"{name}0.mp4", *KINDS[kind][1:]), tmp_path / f"{name}.mp4", *MATRICES[matrix]
        )
        with av.open(str(path)) as opened:
            films.append(
                (list(opened.decode(video=0)), shown(path, (144, 96, 3) if matrix == "clockwise" else (96, 144, 3)))
            )

    def check(_):
        for i in range(5):
            for frames, truth in films:
                np.testing.assert_array_equal(upright(frames[i]), truth[i])
        return True

    with ThreadPoolExecutor(3) as pool:
        assert all(pool.map(check, range(6)))


def test_frames_of_one_kind_share_their_filters(monkeypatch, tmp_path):
    made = []
    monkeypatch.setattr(upright_module, "graph_of", lambda *a, make=graph_of: made.append(a) or make(*a))
    path = write(tmp_path / "a.mkv", *KINDS["4:2:2"][1:])
    with VideoFile(path) as video:
        frames = video.read(range(video.num_frames))
    np.testing.assert_array_equal(frames, shown(path, (96, 144, 3)))
    assert len(made) == 1
