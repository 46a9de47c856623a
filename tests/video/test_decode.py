"""The index asked is the frame returned, whatever the file; and what cannot be read says why."""

import dataclasses
import functools
import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from tests.video import videos
from video.decode import VideoError, VideoFile, resize_short_side
from video.sequential import PacketScan, Sequential, scan, shown_frames

X265 = {"preset": "ultrafast", "x265-params": "log-level=none"}
MAKERS = {
    "gop12": ("mp4", {}),
    "gop250": ("mp4", {"gop": 250, "frames": 300}),
    "b_frames": ("mp4", {"gop": 20, "options": {"bf": "4", "b_strategy": "0"}}),
    "varying_rate": ("mp4", {"times": [n + n * n // 7 for n in range(60)]}),
    "vp9": ("webm", {"codec": "libvpx-vp9"}),
    "vp9_odd": ("webm", {"codec": "libvpx-vp9", "size": (97, 131)}),
    "av1": ("mp4", {"codec": "libsvtav1", "frames": 30, "options": {"preset": "12"}}),
    "odd_444": ("mp4", {"size": (97, 131), "pix_fmt": "yuv444p"}),
    "ten_bit": ("mp4", {"pix_fmt": "yuv420p10le"}),
    "one_frame": ("mp4", {"frames": 1}),
    "width_48": ("mp4", {"size": (48, 48)}),
    "width_72": ("mp4", {"size": (64, 72)}),
    "open_gop_h264": ("mp4", {"options": {"x264-params": "open-gop=1:bframes=3:b-adapt=0"}}),
    "open_gop_hevc": ("mp4", {"codec": "libx265", "options": X265}),
    "open_gop_mpeg2": ("mpg", {"codec": "mpeg2video", "options": {"bf": "2"}}),
    "mpeg4_avi": ("avi", {"codec": "mpeg4", "options": {"bf": "2"}}),
    "matroska": ("mkv", {}),
    "transport_stream": ("ts", {}),
}


@pytest.fixture(scope="session")
def video(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")

    @functools.cache
    def make(name: str) -> Path:
        ending, options = MAKERS[name]
        codec = options.get("codec", "libx264")
        try:
            av.Codec(codec, "w")
        except Exception:
            pytest.skip(f"this PyAV cannot write {codec}")
        return videos.write_video(folder / f"{name}.{ending}", **options)

    return make


@pytest.mark.parametrize("name", MAKERS)
def test_index_asked_is_frame_returned(video, name):
    count = MAKERS[name][1].get("frames", 60)
    with VideoFile(video(name)) as source:
        assert source.num_frames == count
        assert source.size == MAKERS[name][1].get("size", (96, 128))
        asked = np.random.default_rng(0).integers(0, count, 12).tolist()
        frames = source.read(asked)
        assert frames.shape == (12, *source.size, 3)
        assert frames.dtype == np.uint8
        assert videos.numbers_of(frames) == asked
        for index in (count - 1, 0, count // 2):
            assert videos.numbers_of(source.read([index])) == [index]
        assert videos.numbers_of(source.read(range(count))) == list(range(count))


@pytest.mark.parametrize("name", ["gop12", "gop250", "b_frames", "varying_rate", "vp9", "odd_444"])
def test_ordinary_files_are_read_at_random(video, name):
    with VideoFile(video(name)) as source:
        source.read([3])
        assert source.backend == "keyframes"
        assert source.why_in_sequence == ""
        np.testing.assert_array_equal(source.read([17, 40]), Sequential(str(video(name))).frames(np.array([17, 40])))


def test_reading_in_sequence_refuses_frames_that_do_not_come(video):
    """Rather than hand out memory that nothing was written to."""
    source = Sequential(str(video("gop12")))
    source.num_frames = 70
    assert videos.numbers_of(source.frames(np.array([3, 59]))) == [3, 59]
    with pytest.raises(ValueError, match="frame 65 of 70 cannot be decoded, only 60 can"):
        source.frames(np.array([3, 65]))


def test_times_of_frames_begin_at_zero(tmp_path):
    path = videos.write_video(tmp_path / "late.mkv", frames=6, times=[50, 51, 53, 56, 60, 65])
    assert scan(str(path)).times[0] > 0
    times = [time for _, time, _ in shown_frames(str(path))]
    assert times == pytest.approx([0, 0.04, 0.12, 0.24, 0.4, 0.6], abs=2e-3)


@pytest.mark.parametrize("name", ["gop12", "vp9"])
def test_a_read_at_random_that_fails_is_made_in_sequence(video, monkeypatch, name):
    source = VideoFile(video(name))
    monkeypatch.setattr(source._backend, "_found", dataclasses.replace(source._scan, keys={0: 0}))
    monkeypatch.setattr(source._backend, "_group", lambda *_: iter(()))  # a seek that finds nothing
    assert videos.numbers_of(source.read([3, 17, 40])) == [3, 17, 40]
    assert (source.backend, source.why_in_sequence) == ("pyav", "reading at random failed")  # and is not tried again


@pytest.mark.parametrize("off", [-1, 1, 7])
def test_packets_that_miscount_the_frames_are_not_trusted(video, monkeypatch, off):
    """A video read in sequence in the end must have as many frames as were promised at first."""
    source = VideoFile(video("gop12"))
    monkeypatch.setattr(source._backend, "_group", lambda *_: iter(()))
    source._backend.num_frames += off
    with pytest.raises(VideoError, match=f"60 frames can be decoded, the packets say {60 + off}"):
        source.read([3])


@pytest.mark.parametrize(("name", "times", "rate"), [("gop12", None, 25), ("slow", 2, 12.5), ("fast.webm", None, 25)])
def test_frame_rates(tmp_path, name, times, rate):
    codec = "libvpx-vp9" if name.endswith("webm") else "libx264"
    path = tmp_path / (name if "." in name else f"{name}.mp4")
    videos.write_video(path, frames=50, codec=codec, times=[times * n for n in range(50)] if times else None)
    assert VideoFile(path).fps == pytest.approx(rate, rel=0.03)
    assert Sequential(str(path)).fps == pytest.approx(rate, rel=0.03)
    assert VideoFile(path).codec == ("vp9" if codec == "libvpx-vp9" else "h264")


def test_what_the_packets_say(video, tmp_path):
    plain = scan(str(video("gop12")))
    assert (plain.num_frames, plain.hidden, plain.leading, plain.broken_start) == (60, 0, False, False)
    assert plain.why_in_sequence == ""
    assert len(plain.keys) == 5  # every twelfth frame
    assert np.unique(np.diff(plain.times)).size == 1
    hidden = scan(str(videos.trim_by_copy(video("gop250"), tmp_path / "trim.mp4", first=45)))
    assert (hidden.num_frames, hidden.hidden, hidden.why_in_sequence) == (255, 45, "hidden frames")
    opened = scan(str(video("open_gop_hevc")))
    assert (opened.num_frames, opened.leading, opened.why_in_sequence) == (60, True, "")
    others = scan(str(video("transport_stream")))
    assert (others.num_frames, others.why_in_sequence) == (0, "seeking is not exact in mpegts")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({}, ""),
        ({"codec": "hevc"}, ""),
        ({"codec": "mpeg4"}, "packets of mpeg4"),
        ({"container": "avi"}, "not exact in avi"),
        ({"leading": True}, "open groups"),
        ({"leading": True, "codec": "hevc"}, ""),
        ({"broken_start": True}, "does not begin"),
        ({"first_is_key": False}, "does not begin"),
        ({"hidden": 1}, "hidden"),
        ({"times": np.array([0, 1, 1, 3])}, "share a time"),
        ({"times": np.array([-1, 1, 2, 3])}, "before the first key frame"),
        ({"times": np.zeros(0, np.int64)}, "missing time stamps"),
        ({"keys": {}}, "does not begin"),
        ({"keys": {2: 2, 0: 0}}, "out of order"),
        ({"interlaced": True}, "interlaced"),
    ],
)
def test_which_films_are_read_from_their_key_frames(change, why):
    found = PacketScan(4, 25.0, "h264", 0, False, False, "matroska,webm", np.arange(4), {0: 0, 2: 2})
    said = dataclasses.replace(found, **change).why_in_sequence
    assert why in said
    assert bool(why) == bool(said)


@pytest.mark.parametrize(
    "name", ["gop12", "b_frames", "varying_rate", "matroska", "ten_bit", "one_frame", "vp9", "av1", "open_gop_hevc"]
)
def test_skipping_pictures_changes_no_pixel(video, name):
    source = VideoFile(video(name))
    assert source.backend == "keyframes"
    every = np.stack(Sequential(str(video(name))).frames(np.arange(source.num_frames)))
    random = np.random.default_rng(0)
    for size in (1, 1, 2, 5, 8):
        asked = random.integers(0, source.num_frames, size)
        np.testing.assert_array_equal(source.read(asked), every[asked])
    assert source.backend == "keyframes"


@pytest.mark.parametrize("name", ["open_gop_mpeg2", "mpeg4_avi", "transport_stream"])
def test_what_cannot_be_sought_exactly_is_read_in_sequence(video, name):
    source = VideoFile(video(name))
    assert source.backend == "pyav"
    assert source.why_in_sequence


def test_hidden_frames_of_trims_do_not_count(video, tmp_path):
    trimmed = videos.trim_by_copy(video("gop250"), tmp_path / "trim.mp4", first=45)
    with VideoFile(trimmed) as source:
        assert source.num_frames == 255
        assert videos.numbers_of(source.read([0, 100, 254])) == [45, 145, 299]
        assert source.backend == "pyav"


def test_a_video_that_begins_within_an_open_group_has_the_frames_that_can_be_decoded(video, tmp_path):
    """Cut at a key frame by copying: the frames shown before it refer to what is gone."""
    path = tmp_path / "cut.mkv"
    with av.open(str(video("open_gop_h264"))) as source, av.open(str(path), "w") as out:
        stream = source.streams.video[0]
        copy = out.add_stream_from_template(stream)
        packets = [p for p in source.demux(stream) if p.size]
        start = [i for i, p in enumerate(packets) if p.is_keyframe][1]
        early = sum(p.pts < packets[start].pts for p in packets[start:])
        first = round(packets[start].pts * float(stream.time_base) * 25)
        for packet in packets[start:]:
            packet.stream = copy
            out.mux(packet)
    assert early > 0
    assert scan(str(path)).why_in_sequence == "does not begin with a key frame"  # a recovery point is none
    with VideoFile(path) as cut:
        shown = videos.numbers_of(cut.read(range(cut.num_frames)))
        assert 0 < first < 60
        assert shown[-1] == 59
        assert cut.num_frames == len(shown)
        assert set(range(first, 60)) <= set(shown)
        assert cut.backend == "pyav"


@pytest.mark.parametrize(("start", "length"), [(17, 30), (0, 30), (12, 48), (5, 1)])
def test_edit_lists_are_honoured(video, tmp_path, start, length):
    edited = videos.cut_edit_list(video("gop12"), tmp_path / "edit.mp4", start, length)
    with VideoFile(edited) as source:
        assert source.num_frames == length
        assert videos.numbers_of(source.read(range(length))) == list(range(start, start + length))


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_rotation_is_honoured_by_both_readers(video, tmp_path, turns):
    rotated = videos.rotate_by_matrix(video("gop12"), tmp_path / "rotated.mp4", turns)
    with VideoFile(rotated) as source:
        frames = source.read([5, 44])
        assert source.size == ((96, 128) if turns == 2 else (128, 96))
    assert videos.numbers_of(np.stack([np.rot90(f, turns) for f in frames])) == [5, 44]
    np.testing.assert_array_equal(Sequential(str(rotated)).frames(np.array([5, 44])), frames)


def broken_files(video, folder: Path) -> dict[str, Path]:
    whole = video("gop12").read_bytes()
    contents = {
        "truncated.mp4": whole[: len(whole) // 2],
        "empty.mp4": b"",
        "text.mp4": b"this is not a video\n" * 50,
        "noise.mp4": np.random.default_rng(0).bytes(4000),
    }
    paths = {name: folder / name for name in contents}
    for name, content in contents.items():
        paths[name].write_bytes(content)
    paths["sound.mp4"] = videos.write_audio(folder / "sound.mp4")
    paths["missing.mp4"] = folder / "missing.mp4"
    paths["folder.mp4"] = folder / "folder.mp4"
    paths["folder.mp4"].mkdir()
    return paths


REASONS = {
    "truncated.mp4": "invalid data",
    "empty.mp4": "empty",
    "text.mp4": "invalid data",
    "noise.mp4": "invalid data",
    "sound.mp4": "no video stream",
    "missing.mp4": "no such file",
    "folder.mp4": "is a folder",
}


@pytest.mark.parametrize("name", REASONS)
def test_what_cannot_be_read_says_why(video, tmp_path, capfd, name):
    path = broken_files(video, tmp_path)[name]
    capfd.readouterr()
    with pytest.raises(VideoError) as caught:
        VideoFile(path)
    assert REASONS[name] in caught.value.reason.lower()
    assert caught.value.path == str(path)
    assert str(path) in str(caught.value)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    assert capfd.readouterr().err == ""


def test_truncated_stream_gives_what_is_there(video, tmp_path):
    whole = video("vp9").read_bytes()
    (tmp_path / "half.webm").write_bytes(whole[: len(whole) // 2])
    with VideoFile(tmp_path / "half.webm") as source:
        assert 5 < source.num_frames < 60
        last = source.num_frames - 2
        assert videos.numbers_of(source.read([0, last])) == [0, last]


def test_unreadable_frame_is_an_error_and_not_a_neighbor(video, tmp_path, capfd):
    """Packets at the end lost: their frames must not come back as copies of the last good one."""
    data = bytearray(video("gop12").read_bytes())
    start = data.index(b"mdat") + 4
    end = data.index(b"moov") - 4
    data[start + (end - start) * 2 // 3 : end] = bytes(end - start - (end - start) * 2 // 3)
    (tmp_path / "holes.mp4").write_bytes(data)
    with VideoFile(tmp_path / "holes.mp4") as source:
        assert videos.numbers_of(source.read([2, 9])) == [2, 9]
        with pytest.raises(VideoError):
            source.read([59])


def test_features_of_damaged_files_are_reproducible(tmp_path):
    """At bit rates of real videos; where a packet is a few bytes, most damage makes a file unreadable."""
    source = videos.write_video(tmp_path / "grainy.mp4", grain=40, options={"crf": "12"})
    whole, asked = source.read_bytes(), [4, 25, 40, 52]
    start, end = whole.index(b"mdat") + 4, whole.index(b"moov") - 4
    sound, concealed = VideoFile(source).read(asked), 0
    for seed in range(6):
        data = bytearray(whole)
        for position in np.random.default_rng(seed).integers(start, end, 5):
            data[position] ^= 0x5A
        (tmp_path / "damaged.mp4").write_bytes(data)
        found = VideoFile(tmp_path / "damaged.mp4").read(asked)
        concealed += (found != sound).any()
        for _ in range(3):
            np.testing.assert_array_equal(VideoFile(tmp_path / "damaged.mp4").read(asked), found)
    assert concealed > 2


def test_bytes_are_read_like_files(video, tmp_path):
    data = video("gop12").read_bytes()
    np.testing.assert_array_equal(VideoFile(data).read([1, 30]), VideoFile(video("gop12")).read([1, 30]))
    with pytest.raises(VideoError, match="clip 7"):
        VideoFile(b"nonsense", name="clip 7")
    edited = videos.cut_edit_list(video("gop12"), tmp_path / "edit.mp4", 17, 30)
    assert videos.numbers_of(VideoFile(edited.read_bytes()).read([0, 29])) == [17, 46]


def test_indices_outside_and_closed_files(video):
    source = VideoFile(video("gop12"))
    for wrong in ([60], [-1], [0, 1000]):
        with pytest.raises(IndexError, match="0 to 59"):
            source.read(wrong)
    with pytest.raises(ValueError, match="at least one"):
        source.read([])
    source.close()
    with pytest.raises(ValueError, match="closed"):
        source.read([0])


@pytest.mark.parametrize(("side", "size"), [(48, (48, 64)), (64, (64, 85)), (192, (192, 256))])
def test_short_side(video, side, size):
    frames = VideoFile(video("gop12")).read([3, 21], short_side=side)
    assert frames.shape == (2, *size, 3)
    assert videos.numbers_of(frames) == [3, 21]
    whole = torch.from_numpy(VideoFile(video("gop12")).read([3])).permute(0, 3, 1, 2).float()
    exact = torch.nn.functional.interpolate(whole, size, mode="bilinear", antialias=True).permute(0, 2, 3, 1)
    assert np.abs(exact[0].numpy() - frames[0]).max() < 1.01
    assert resize_short_side(frames, side) is frames


def test_reading_leaves_nothing_behind(video, tmp_path):
    def handles() -> tuple[int, int]:
        return len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))

    def resident() -> float:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

    bad = broken_files(video, tmp_path)
    trimmed = videos.trim_by_copy(video("gop250"), tmp_path / "trim.mp4", first=45)

    def rounds(count: int) -> None:
        for number in range(count):
            for path in (video("gop12"), video("vp9"), trimmed):
                with VideoFile(path) as source:
                    source.read([number % 60, 3])
            for path in bad.values():
                with pytest.raises(VideoError):
                    VideoFile(path)

    rounds(8)
    before, memory = handles(), resident()
    rounds(30)
    assert all(now <= then for now, then in zip(handles(), before, strict=True))
    assert threading.active_count() < 10
    assert resident() - memory < 25


def test_importing_is_cheap(video):
    script = f"""
import os, sys, torch
def resident(): return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
before = resident()
import video.decode
video.decode.VideoFile({str(video("vp9"))!r}).read([0])
print(resident() - before)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 150
