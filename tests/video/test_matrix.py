"""Frames against the `ffmpeg` command: a few kinds of files always, all of them in the slow tests (see `matrix.py`)."""

import shutil
import subprocess
import sys

import numpy as np
import pytest

from tests.video import matrix
from tests.video.matrix import Cell, Films, cells, ffmpeg, shown, verdict
from video.decode import VideoFile

pytestmark = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs the ffmpeg command")


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    return Films(tmp_path_factory.mktemp("matrix"))


FEW = [
    Cell("mp4", "h264", 12, 3, "key frame", "variable"),
    Cell("mp4", "h264", 250, 3, "trimmed by copy", "constant"),
    Cell("mp4", "h264-interlaced", 12, 0, "key frame", "constant"),
    Cell("mkv", "h264", 12, 3, "mid-GOP", "constant"),
    Cell("avi", "h264", 12, 3, "missing times", "variable"),
    Cell("avi", "h264", 12, 3, "key frame", "constant"),
    Cell("avi", "mpeg4", 250, 3, "trimmed by copy", "constant"),
    Cell("ts", "h264", 12, 3, "mid-GOP", "constant"),
    Cell("m2ts", "mpeg2", 12, 3, "negative times", "constant"),
    Cell("mpg", "mpeg1", 12, 3, "key frame", "constant"),
    Cell("wmv", "wmv2", 12, 0, "mid-GOP", "constant"),
    Cell("flv", "h264", 12, 3, "key frame", "variable"),
    Cell("vob", "mpeg2", 12, 3, "key frame", "constant"),
    Cell("ogv", "theora", 12, 0, "key frame", "constant"),
    Cell("gif", "gif", 1, 0, "key frame", "constant"),
    Cell("mxf", "mpeg2", 12, 3, "key frame", "constant"),
    Cell("3gp", "h263", 12, 0, "key frame", "constant"),
]


@pytest.mark.parametrize("cell", FEW, ids=lambda c: f"{c.container}-{c.codec}-{c.start}-{c.rate}")
def test_the_frame_asked_is_the_frame_that_ffmpeg_shows(films, cell):
    try:
        path = films.film(cell)
    except RuntimeError as error:
        pytest.skip(f"this ffmpeg cannot encode it: {error}")
    assert path is not None
    assert verdict(path)[0] == "exact", verdict(path)


def test_the_judge_can_say_no(films, monkeypatch):
    path = films.film(FEW[0])
    truth = shown(path)
    assert truth == list(range(260))
    monkeypatch.setattr(matrix, "shown", lambda path: [*truth[:100], *truth[101:], 260])
    assert verdict(path)[0] == "WRONG"
    monkeypatch.setattr(matrix, "shown", lambda path: truth[:-1])
    assert verdict(path) == ("WRONG", "260 frames by keyframes, ffmpeg shows 259")


def test_pictures_of_vp8_that_are_not_shown_do_not_count(tmp_path):
    source = ("-f", "lavfi", "-i", "testsrc=s=128x96:d=8:r=25", "-c:v", "libvpx", "-b:v", "200k", "-auto-alt-ref", 1)
    command = (*source, "-lag-in-frames", 25, "-deadline", "good", "-cpu-used", 2, "-g", 250)
    for number in (1, 2):
        target = ("-f", "null", "-") if number == 1 else (tmp_path / "film.webm",)
        done = ffmpeg(*command, "-pass", number, "-passlogfile", tmp_path / "log", *target)
        if done.returncode:
            pytest.skip("this ffmpeg cannot encode VP8")
    raw = ffmpeg(
        "-i", tmp_path / "film.webm", "-vsync", "passthrough", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"
    ).stdout
    truth = np.frombuffer(raw, np.uint8).reshape(-1, 96, 128, 3)
    with VideoFile(tmp_path / "film.webm") as video:
        assert (video.num_frames, video.why_in_sequence) == (len(truth), "hidden frames")
        found = video.read([0, 57, 150, 199])
    assert np.abs(found.astype(int) - truth[[0, 57, 150, 199]]).mean() < 2


def test_every_container_codec_and_start_has_cells():
    kinds = {(c.container, c.codec, c.start, c.rate) for c in cells()}
    assert len({c.container for c in cells()}) == 15
    assert len(kinds) == sum(map(len, matrix.CONTAINERS.values())) * len(matrix.STARTS) * 2
    assert len(set(cells())) == len(cells()) > 2000


@pytest.mark.slow
@pytest.mark.timeout(5400)
def test_the_whole_matrix():
    done = subprocess.run([sys.executable, "-m", "tests.video.matrix"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
