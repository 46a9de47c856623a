"""Windows of long videos: which frames they show, what is said of them, and the page."""

import csv
import io
import json

import numpy as np
import pytest
import torch

from tests.browser import Browser, find
from tests.tools.test_train_tools import tool
from tests.video.videos import number_of, write_video
from video.datasets import VideoDataset
from video.decode import VideoFile
from video.windows import Windows, seconds_of, spans_of
from xmodal.use.timeline import segments_of


def test_spans_by_hand():
    assert spans_of(100, 10, 4, 2) == [(0, 40), (20, 60), (40, 80), (60, 100)]
    assert spans_of(101, 10, 4, 2) == [(0, 40), (20, 60), (40, 80), (60, 100), (61, 101)]  # the last ends with the film
    assert spans_of(30, 10, 4, 2) == [(0, 30)]
    assert spans_of(40, 10, 4, 2) == [(0, 40)]
    assert spans_of(5, 10, 0.01, 0.01) == [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5)]
    assert [a for a, _ in spans_of(75, 29.97, 1, 0.5)] == [0, 15, 30, 45]


@pytest.mark.parametrize(("text", "seconds"), [("2s", 2), ("2", 2), ("500ms", 0.5), ("1.5min", 90), (" .5 s", 0.5)])
def test_lengths_of_time(text, seconds):
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["0s", "two", "-1s", "2h", "", "1e3"])
def test_no_lengths_of_time(text):
    with pytest.raises(ValueError, match="--window takes a length of time"):
        seconds_of(text)


@pytest.mark.parametrize(("ending", "codec", "in_sequence"), [("mp4", "libx264", False), ("ts", "libx264", True)])
def test_windows_show_their_frames(tmp_path, ending, codec, in_sequence, monkeypatch):
    """Frames carry their numbers; each window's clip is the middle of its four quarters."""
    film = write_video(tmp_path / f"film.{ending}", frames=120, size=(48, 64), codec=codec)
    (tmp_path / "list.txt").write_text(f"{film} 0\n")
    monkeypatch.setattr("video.windows.ROOM", 4 * 3 * 48**2 * 4 * 2 * 3)  # three windows at once
    data = VideoDataset(tmp_path / "list.txt", num_frames=4, sampling=dict(type="uniform"), size=48, test_mode=True)
    windows = Windows(data, str(film), 2.0, 0.8)
    assert (windows.fps, windows.seconds) == (25, 4.8)
    assert windows.spans == [(0, 50), (20, 70), (40, 90), (60, 110), (70, 120)]
    assert [len(part) for part in windows.parts()] == ([3, 2] if in_sequence else [5])
    clips = torch.cat([windows.read(part) for part in windows.parts()])
    assert clips.shape == (5, 1, 4, 3, 48, 48)
    expected = [
        [start + (b - a) // 2 + a for a, b in ((0, 12), (12, 24), (24, 37), (37, 49))] for start, _ in windows.spans
    ]
    with VideoFile(film) as video:
        for clip, numbers in zip(clips, expected, strict=True):
            frames = video.read(numbers)
            assert [number_of(frame) for frame in frames] == numbers
            np.testing.assert_allclose(clip[0].permute(0, 2, 3, 1), frames[:, :, 8:56], atol=1)


def test_segments_by_hand():
    windows = [
        {"start": 0, "end": 2, "label": 3, "name": "a", "score": 0.5},
        {"start": 1, "end": 3, "label": 3, "name": "a", "score": 0.7},
        {"start": 2, "end": 4, "label": 1, "name": "b", "score": 0.9},
        {"start": 2.5, "end": 4.5, "label": 3, "name": "a", "score": 0.4},
    ]
    assert segments_of(windows, 4.5) == [
        {"start": 0.0, "end": 2.5, "label": 3, "name": "a", "score": 0.6},
        {"start": 2.5, "end": 3.25, "label": 1, "name": "b", "score": 0.9},
        {"start": 3.25, "end": 4.5, "label": 3, "name": "a", "score": 0.4},
    ]


@pytest.fixture(scope="module")
def timeline(video_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("timeline")
    film = write_video(folder / "film < b.mp4", frames=130, size=(48, 64))
    (folder / "torn.mp4").write_bytes(film.read_bytes()[:900])
    words = [str(video_run), str(film), str(folder / "torn.mp4"), "lost.mp4", "--window", "2s", "--stride", "1s"]
    assert tool("predict")([*words, "--out", str(folder / "out"), "--write", str(folder / "rows.json")]) == 0
    return folder, words


def test_the_rows_of_a_timeline(timeline, capsys):
    folder, words = timeline
    row, *bad = json.loads((folder / "rows.json").read_text())
    assert ["error" in b for b in bad] == [True, True]
    assert (row["seconds"], row["fps"]) == (5.2, 25)
    assert [(w["start"], w["end"]) for w in row["windows"]] == [(0, 2), (1, 3), (2, 4), (3, 5), (3.2, 5.2)]
    assert (row["segments"][0]["start"], row["segments"][-1]["end"]) == (0, 5.2)
    assert len(row["scores"]) == 8
    assert tool("predict")([*words[:2], *words[4:], "--out", str(folder / "other"), "--format", "csv"]) == 0
    table = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [float(line["start"]) for line in table] == [0, 1, 2, 3, 3.2]
    assert [line["name"] for line in table] == [w["name"] for w in row["windows"]]


@pytest.mark.slow
@pytest.mark.skipif(not find(), reason="needs chromium")
def test_the_page_plays_and_seeks(timeline):
    folder, _ = timeline
    row = json.loads((folder / "rows.json").read_text())[0]
    with Browser() as browser:
        browser.open(row["page"])
        browser.wait("document.querySelector('video').readyState >= 2")
        browser.wait("document.querySelector('video').currentTime > 0.2")
        browser.run("document.querySelector('video').pause()")
        browser.run("document.querySelector('video').currentTime = 1")
        browser.key("ArrowRight")
        browser.wait("Math.abs(document.querySelector('video').currentTime - 2) < 0.1")
        browser.wait("document.getElementById('said').textContent.startsWith('2.0 s: ')")
        assert float(browser.run("document.getElementById('now').getAttribute('x1')")) == pytest.approx(
            2000 / 5.2, abs=5
        )
        browser.key("t")
        assert browser.run("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 28)"
        assert [r for r in browser.requests if not r.startswith(("file:", "data:"))] == []
        assert browser.errors == []
