import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.video.videos import numbers_of, write_video
from video.datasets import VideoDataset
from video.decode import VideoFile
from video.libraries import LIBRARIES, check_decoder


def usable(name):
    try:
        return bool(check_decoder(name))
    except ValueError:
        return False


INSTALLED = [pytest.param(n, marks=pytest.mark.skipif(not usable(n), reason=f"cannot use {n}")) for n in LIBRARIES]


@pytest.mark.parametrize("decoder", INSTALLED)
@pytest.mark.parametrize("codec", ["libx264", "libvpx-vp9"])
def test_same_pixels_as_our_reader(tmp_path: Path, decoder: str, codec: str):
    path = write_video(tmp_path / ("a.mp4" if codec == "libx264" else "a.webm"), codec=codec, grain=20)
    asked = [57, 3, 3, 31, 12, 0, 59]
    ours = VideoFile(path).read(asked)
    for source in (path, path.read_bytes()):
        with VideoFile(source, "a film", decoder) as video:
            frames = video.read(asked)
            assert (video.backend, video.why_in_sequence) == (decoder, "")
        assert numbers_of(frames) == asked
        assert np.abs(frames.astype(int) - ours).max() <= (8 if decoder == "torchcodec-cuda" else 0)


@pytest.mark.parametrize("decoder", INSTALLED)
def test_films_that_libraries_misread_stay_with_us(tmp_path: Path, decoder: str):
    path = write_video(tmp_path / "a.ts")  # no container for exact seeks
    with VideoFile(path, decoder=decoder) as video:
        assert video.backend == "pyav"
        assert numbers_of(video.read([15, 46])) == [15, 46]


@pytest.mark.parametrize("decoder", INSTALLED)
@pytest.mark.parametrize("options", [{"x264-params": "intra-refresh=1"}, {"x264-params": "open-gop=1:bframes=3"}])
def test_films_whose_key_frames_are_none_stay_with_us(tmp_path: Path, decoder: str, options: dict):
    path = write_video(tmp_path / "a.mp4", frames=120, options=options)
    asked = [48, 16, 113, 81]
    with VideoFile(path, decoder=decoder) as video:
        assert video.backend in ("keyframes", "pyav")
        assert numbers_of(video.read(asked)) == asked


def test_a_library_that_counts_other_frames_is_not_used(tmp_path: Path, monkeypatch):
    class Miscounting:
        def __init__(self, source, found):
            self.num_frames = found.num_frames + 1

    monkeypatch.setitem(LIBRARIES, "decord", Miscounting)
    monkeypatch.setattr("video.decode.check_decoder", lambda name: name)
    with VideoFile(write_video(tmp_path / "a.mp4"), decoder="decord") as video:
        assert video.backend == "keyframes"
        assert numbers_of(video.read([41])) == [41]


def test_unknown_or_missing_decoders_are_refused_at_the_start(tmp_path: Path, monkeypatch):
    (tmp_path / "list.txt").write_text(f"{write_video(tmp_path / 'a.mp4').name} 0\n")
    with pytest.raises(ValueError, match=r"unknown decoder 'decrod'; did you mean 'decord'\?"):
        VideoDataset(tmp_path / "list.txt", decoder="decrod")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"decoder='torchcodec' needs a package: pip install torchcodec"):
        VideoDataset(tmp_path / "list.txt", decoder="torchcodec")


@pytest.mark.parametrize("decoder", INSTALLED)
def test_data_set_reads_with_the_chosen_library(tmp_path: Path, decoder: str):
    write_video(tmp_path / "a.mp4")
    (tmp_path / "list.txt").write_text("a.mp4 0\n")
    items = []
    for name in ("own", decoder):
        data = VideoDataset(tmp_path / "list.txt", test_mode=True, size=32, decoder=name)
        assert data.decoder == name
        items.append(data[0]["clips"])
    assert (items[0] - items[1]).abs().max() <= (8 if decoder == "torchcodec-cuda" else 0)


@pytest.mark.skipif(not usable("torchcodec"), reason="cannot use torchcodec")
def test_frames_decoded_a_few_at_a_time_are_the_same(tmp_path: Path, monkeypatch):
    path = write_video(tmp_path / "a.mp4")
    asked, seen = [57, 3, 31, 12, 0], []
    with VideoFile(path) as video:
        size, want = video.size, video.read(asked)
    monkeypatch.setattr("video.libraries.AT_ONCE", 2 * 3 * size[0] * size[1])
    with VideoFile(path, decoder="torchcodec") as video:
        reader = video._backend._reader
        video._backend._reader = SimpleNamespace(get_frames_at=lambda x: seen.append(x) or reader.get_frames_at(x))
        np.testing.assert_array_equal(video.read(asked), want)
    assert seen == [[0, 3], [12, 31], [57]]


def test_decoding_on_a_gpu_needs_one_and_asks_torchcodec_for_it(tmp_path: Path, monkeypatch):
    path = write_video(tmp_path / "a.mp4")
    truth, asked = VideoFile(path).read(range(60)), {}

    class VideoDecoder:
        def __init__(self, source, **options):
            asked.update(options)

        def __len__(self):
            return 60

        def get_frames_at(self, indices):
            return SimpleNamespace(data=torch.from_numpy(truth[indices]))

    module = SimpleNamespace(VideoDecoder=VideoDecoder)
    monkeypatch.setitem(sys.modules, "torchcodec", SimpleNamespace(decoders=module, __spec__=object()))
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", module)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="'torchcodec-cuda' needs a GPU; use 'own'"):
        VideoFile(path, decoder="torchcodec-cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with VideoFile(path, decoder="torchcodec-cuda") as video:
        assert numbers_of(video.read([31, 7])) == [31, 7]
        assert (video.backend, asked["device"]) == ("torchcodec-cuda", "cuda")
    monkeypatch.setattr(torch.cuda, "_is_in_bad_fork", lambda: True)
    with pytest.raises(ValueError, match="multiprocessing_context='spawn'"):
        VideoFile(path, decoder="torchcodec-cuda")
