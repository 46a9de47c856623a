"""What is no film, too large, or changes in its middle; and trouble of the disk while a film is read."""

import contextlib
import errno
import os
import resource
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from tests.video import videos
from video import decode, sequential
from video.datasets import VideoDataset, read_views
from video.decode import VideoError, VideoFile
from video.sampling import UniformSampling
from video.sequential import Sequential, film_of
from video.transforms import TestCrops
from xmodal.data import trouble
from xmodal.data.trouble import TroubleError

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    return videos.write_video(tmp_path_factory.mktemp("film") / "film.mp4")


def test_what_is_no_regular_file_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    os.symlink(tmp_path / "pipe.mp4", tmp_path / "link.mp4")
    for path, reason in (("pipe.mp4", "is a fifo"), ("link.mp4", "is a fifo"), ("/dev/zero", "is a device")):
        with pytest.raises(VideoError, match=reason):
            VideoFile(tmp_path / path)


def write_pictures(path, sizes, cover=False):
    """One second of film for each size, in a transport stream; or a film with a still picture as its first stream."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=25)
        stream.height, stream.width = sizes[0]
        stream.pix_fmt, stream.gop_size = "yuv420p", 5
        for number in range(10):
            frame = av.VideoFrame.from_ndarray(videos.picture(number, *sizes[0]), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return path


def test_a_size_that_changes_in_mid_film(tmp_path):
    """Later frames are scaled to the first one's size, as the ffmpeg command does."""
    parts = [write_pictures(tmp_path / f"{size[0]}.ts", [size]) for size in ((64, 96), (96, 128), (48, 64))]
    joined = tmp_path / "joined.ts"
    joined.write_bytes(b"".join(part.read_bytes() for part in parts))
    with VideoFile(joined) as video:
        assert video.num_frames == 30
        frames = video.read([29, 3, 14, 25])
    assert frames.shape == (4, 64, 96, 3)
    assert videos.numbers_of(frames) == [9, 3, 4, 5]


class Stream:
    """As PyAV describes one."""

    class Flags(int):
        default, attached_pic = 1, 1024

    def __init__(self, width, height, flags=0, frames=0):
        self.codec_context = type("Context", (), {"width": width, "height": height})
        self.disposition, self.frames = Stream.Flags(flags), frames


def container_of(*streams):
    return type("Container", (), {"streams": type("Streams", (), {"video": streams})})


@pytest.mark.parametrize(
    ("streams", "film"),
    [
        ([Stream(200, 200, 1024), Stream(96, 64)], 1),  # a cover
        ([Stream(200, 200, 0, 1), Stream(96, 64, 1, 50)], 1),  # a still; the film is the default
        ([Stream(4000, 3000, 1, 1), Stream(96, 64, 0, 50)], 1),  # a still is no film while there is another
        ([Stream(96, 64), Stream(192, 128)], 1),  # the larger
        ([Stream(96, 64, 1), Stream(192, 128)], 0),  # the default
        ([Stream(96, 64, 1), Stream(96, 64, 1)], 0),  # the first
        ([Stream(96, 64, 0, 1)], 0),  # the only one
    ],
)
def test_which_stream_is_the_film(streams, film):
    assert film_of(container_of(*streams)) is streams[film]


def test_a_codec_that_nobody_decodes_is_named():
    unknown = Stream(96, 64)
    unknown.codec_context = None
    with pytest.raises(ValueError, match="no decoder"):
        film_of(container_of(unknown))


def test_a_cover_alone_is_no_film():
    with pytest.raises(ValueError, match="only a cover"):
        film_of(container_of(Stream(200, 200, 1024)))


# ---------------------------------------------------------------- sizes


def huge(path, side, frames=9):
    """Black frames of side x side pixels; the same key picture again and again."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=12, options={"preset": "ultrafast", "threads": "1"})
        stream.width = stream.height = side
        stream.pix_fmt = "yuv420p"
        frame = av.VideoFrame(side, side, "yuv420p")
        for plane in frame.planes:
            plane.update(bytes(plane.buffer_size))
        frame.pts, frame.time_base = 0, Fraction(1, 12)
        key = bytes((list(stream.encode(frame)) + list(stream.encode()))[0])
        for number in range(frames):
            packet = av.Packet(key)
            packet.stream, packet.time_base, packet.is_keyframe = stream, Fraction(1, 12), True
            packet.pts = packet.dts = number
            out.mux(packet)
    return path


@pytest.mark.slow
def test_views_of_huge_frames_need_little_memory(tmp_path):
    huge(tmp_path / "huge.mp4", 8192)
    script = f"""
import resource
from video.datasets import read_views
from video.sampling import UniformSampling
from video.transforms import TestCrops
views = read_views({str(tmp_path / "huge.mp4")!r}, UniformSampling(num_frames=8), TestCrops(size=48))
assert views.shape == (1, 8, 3, 48, 48)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 2500


def test_frames_above_the_limit_are_refused_before_they_are_decoded(film, monkeypatch):
    monkeypatch.setattr(sequential, "MAX_PIXELS", 96 * 128 - 1)
    with pytest.raises(VideoError, match="frames of 128 x 96 pixels"):
        VideoFile(film)


def test_clips_above_the_limit_ask_for_short_side(film, monkeypatch):
    frame = 96 * 128 * 3
    monkeypatch.setattr(decode, "MAX_CLIP", 5 * frame)
    with VideoFile(film) as video:
        assert video.read(range(5)).shape == (5, 96, 128, 3)
        with pytest.raises(VideoError, match=r"6 frames of 96 x 128 x 3 need more than .* use short_side"):
            video.read(range(6))
        assert video.read(range(20), short_side=48).shape == (20, 48, 64, 3)
        assert video.backend == "keyframes"  # it is no reason to read in sequence
    data_list = film.parent / "list.txt"
    data_list.write_text(f"{film} 0\n")
    data = VideoDataset(data_list, num_frames=6, sampling={"type": "uniform"}, test_mode=True, size=32)
    assert data[0]["clips"].shape == (1, 6, 3, 32, 32)  # views are shrunk frame by frame


def test_views_are_the_same_as_of_whole_frames(film):
    import torch

    crops, sampling = TestCrops(size=40, crops=3), UniformSampling(num_frames=5)
    with VideoFile(film) as video:
        views = sampling.test(video.num_frames, 2)
        frames = torch.from_numpy(video.read(views.reshape(-1))).permute(0, 3, 1, 2)
    want = crops(frames, np.arange(10).reshape(2, 5))
    assert torch.equal(read_views(film, sampling, crops, 2), want)


def test_films_without_end_are_refused(film, monkeypatch):
    monkeypatch.setattr(sequential, "MAX_FRAMES", 40)
    with pytest.raises(VideoError, match="more than 40 packets"):
        VideoFile(film)
    with pytest.raises(ValueError, match="more than 40 frames"):
        Sequential(film.read_bytes(), sequential.PacketScan(0, 25, "h264"))


# ---------------------------------------------------------------- counting


def test_a_film_read_in_sequence_is_counted_once_while_it_stays_the_same(tmp_path, monkeypatch):
    path, counted = videos.write_video(tmp_path / "film.ts", frames=30), []
    count = Sequential._count
    monkeypatch.setattr(Sequential, "_count", lambda self: counted.append(1) or count(self))
    for _ in range(3):
        assert VideoFile(path).num_frames == 30
    assert len(counted) == 1
    videos.write_video(path, frames=20)
    assert VideoFile(path).num_frames == 20
    assert len(counted) == 2
    monkeypatch.setattr(sequential, "_REMEMBERED", 1)
    assert VideoFile(videos.write_video(tmp_path / "other.ts", frames=10)).num_frames == 10
    assert len(sequential._counts) == 1


def test_the_end_of_a_torn_film_is_left_out_and_a_torn_middle_refused(tmp_path):
    """As the ffmpeg command does with a file that ends in the middle of a picture."""
    whole = videos.write_video(tmp_path / "film.avi", codec="mpeg4", frames=40).read_bytes()
    end = whole.rindex(b"00dc", 0, whole.index(b"idx1"))
    (tmp_path / "torn.avi").write_bytes(whole[: end + 8] + bytes(20))
    with VideoFile(tmp_path / "torn.avi") as video:
        assert video.num_frames in (39, 40)
        assert videos.numbers_of(video.read(range(38))) == list(range(38))
    places = [i for i in range(len(whole)) if whole.startswith(b"00dc", i)]
    middle = bytearray(whole)
    middle[places[20] + 8 : places[20] + 40] = bytes(32)
    (tmp_path / "middle.avi").write_bytes(middle)
    with pytest.raises(VideoError, match="Invalid data"):
        VideoFile(tmp_path / "middle.avi")


# ---------------------------------------------------------------- trouble


class Failing:
    """A file whose reads fail at some place."""

    def __init__(self, path, error, after):
        self.file = open(path, "rb", buffering=0)  # noqa: SIM115 - closed in __exit__
        self.error, self.after, self.name = error, after, str(path)

    def read(self, size=-1):
        if self.file.tell() >= self.after:
            raise self.error
        return self.file.read(min(size, self.after - self.file.tell()))

    def seek(self, *args):
        return self.file.seek(*args)

    def tell(self):
        return self.file.tell()

    def seekable(self):
        return True

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()


@pytest.mark.parametrize("ending", ["mp4", "mkv", "ts", "avi", "mpg", "flv", "wmv"])
@pytest.mark.parametrize("share", [0, 0.5, 0.9])
def test_an_error_of_the_disk_is_neither_the_end_of_a_film_nor_its_fault(tmp_path, monkeypatch, ending, share):
    codec = {"mpg": "mpeg2video", "wmv": "wmv2"}.get(ending, "libx264")
    path = videos.write_video(
        tmp_path / f"film.{ending}", codec=codec, grain=60, options={"bf": "0"} if codec == "libx264" else {}
    )
    after = int(share * path.stat().st_size)
    error = OSError(errno.EIO, os.strerror(errno.EIO))
    monkeypatch.setattr(sequential, "_bytes_of", lambda source: Failing(source, error, after))
    sequential._counts.clear()
    with pytest.raises(TroubleError, match="EIO"):
        VideoFile(path).read(range(60))
    monkeypatch.undo()
    assert VideoFile(path).num_frames == 60


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.EIO, errno.ESTALE])
def test_trouble_while_training_marks_no_film(film, monkeypatch, number):
    monkeypatch.setattr(trouble, "WAITS", (0, 0))
    (film.parent / "list.txt").write_text(f"{film} 0\n")
    data = VideoDataset(film.parent / "list.txt", num_frames=4, sampling={"type": "uniform"})
    whole, failures = sequential._bytes_of, [OSError(number, os.strerror(number))] * 2

    def opened(source):
        if failures:
            raise failures.pop()
        return whole(source)

    monkeypatch.setattr(sequential, "_bytes_of", opened)
    assert data[0, 0]["clips"].shape[1] == 4
    assert data.broken == []
    failures += [OSError(number, os.strerror(number))] * 9
    with pytest.raises(TroubleError):
        data[0, 0]
    assert data.broken == []


def test_no_file_descriptors_left(film, tmp_path, monkeypatch):
    """The real thing: the process may open no more files."""
    monkeypatch.setattr(trouble, "WAITS", ())
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    VideoFile(film).read([0])
    taken = max(map(int, os.listdir("/proc/self/fd")))
    resource.setrlimit(resource.RLIMIT_NOFILE, (taken + 1, hard))
    held = []
    try:
        with contextlib.suppress(OSError):
            while True:
                held.append(film.open("rb"))
        with pytest.raises(TroubleError, match="EMFILE"):
            VideoFile(film)
    finally:
        for file in held:
            file.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_relative_names_that_look_like_addresses(film, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("http:x.mp4", "12:30.mp4", "concat:a|b.mp4", "100%d.mp4", "-i.mp4"):
        Path(name).write_bytes(film.read_bytes())
        assert VideoFile(name).num_frames == 60
