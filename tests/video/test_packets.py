"""Which packets decoding can begin with, read from their bytes; and whole films that containers describe wrongly."""

import av
import pytest

from tests.video import videos
from video.decode import VideoFile
from video.packets import begins, is_hidden, length_size
from video.sequential import scan

AVCC, HVCC = bytes([1, 100, 0, 10, 0xFF]), bytes([1, *[0] * 20, 0xF3])


def unit(*data, size=4):
    return len(data).to_bytes(size, "big") + bytes(data)


def obu(kind, *data):
    return bytes([kind << 3 | 2, len(data), *data])


HEADER = obu(1, 0, 0, 0)


@pytest.mark.parametrize(
    ("codec", "packet", "header", "key"),
    [
        ("h264", unit(0x65, 1), AVCC, True),  # an IDR picture
        ("h264", unit(0x09, 0xF0) + unit(0x67, 1) + unit(0x68) + unit(0x25), AVCC, True),  # behind its parameters
        ("h264", unit(0x41, 0x65), AVCC, False),
        ("h264", unit(0x06, 6, 1) + unit(0x61, 1), AVCC, False),  # a recovery point
        ("h264", b"\0\0\0\1\x65", None, False),  # start codes, where lengths belong
        ("h264", unit(0x65, size=2), bytes([1, 100, 0, 10, 0xFD]), True),
        ("h264", b"", AVCC, False),
        ("hevc", unit(0x26, 1), HVCC, True),  # IDR_W_RADL
        ("hevc", unit(0x40, 1) + unit(0x2A, 1), HVCC, True),  # CRA behind its parameters
        ("hevc", unit(0x02, 1), HVCC, False),
        ("vp8", bytes([0x10, 0, 0]), None, True),
        ("vp8", bytes([0x11, 0, 0]), None, False),
        ("vp9", bytes([0b10000010]), None, True),
        ("vp9", bytes([0b10000110]), None, False),
        ("vp9", bytes([0b10001000]), None, False),  # shows an earlier frame
        ("av1", HEADER + obu(6, 0x10), None, True),
        ("av1", obu(2) + HEADER + obu(3, 0x10), None, True),
        ("av1", HEADER + obu(6, 0x30), None, False),  # an inter frame
        ("av1", HEADER + obu(3, 0x80), None, False),  # shows an earlier frame
        ("av1", obu(6, 0x10), None, False),  # no sequence header
        ("av1", b"", None, False),
    ],
)
def test_where_decoding_can_begin(codec, packet, header, key):
    assert begins(codec, packet, header) == key


def test_lengths_of_units():
    assert length_size("h264", AVCC) == 4
    assert length_size("hevc", HVCC) == 4
    assert length_size("h264", b"\0\0\0\1\x67") == length_size("hevc", AVCC) == length_size("h264", None) == 0


@pytest.mark.parametrize(
    ("codec", "packet", "hidden"),
    [
        ("vp8", bytes([0x10]), False),
        ("vp8", bytes([0x01]), True),
        ("vp9", bytes([0b10000110, 1]), False),
        ("vp9", bytes([0b10000100, 1]), True),
        ("vp9", bytes([0b10001000]), False),
        ("vp9", bytes([0b10000100, 7, 0xC0]), False),  # a superframe: hidden and shown
        ("h264", bytes([0]), False),
        ("vp8", b"", False),
    ],
)
def test_packets_without_a_picture_to_show(codec, packet, hidden):
    assert is_hidden(codec, packet) == hidden


# ---------------------------------------------------------------- films


def remux(source, path, change):
    """Copy the packets; `change(number, packet)` may alter one, or return False to drop it."""
    with av.open(str(source)) as video, av.open(str(path), "w") as out:
        stream = video.streams.video[0]
        copy = out.add_stream_from_template(stream)
        for number, packet in enumerate(p for p in video.demux(stream) if p.size):
            if change(number, packet) is not False:
                packet.stream = copy
                out.mux(packet)
    return path


def everything(path):
    with VideoFile(path) as video:
        return video.backend, videos.numbers_of(video.read(range(video.num_frames)))


def mark_all(number, packet):
    packet.is_keyframe = True


@pytest.mark.parametrize("codec", ["libx264", "libx265", "libvpx-vp9"])
def test_containers_that_call_every_packet_a_key_frame(tmp_path, codec):
    options = {"x265-params": "log-level=none"} if codec == "libx265" else {}
    whole = videos.write_video(tmp_path / "whole.mkv", codec=codec, gop=20, options=options)
    marked = remux(whole, tmp_path / "marked.mkv", mark_all)
    assert len(scan(str(marked)).keys) == len(scan(str(whole)).keys) <= 6
    for asked in ([7], [33], [59], [21, 22, 58]):
        with VideoFile(marked) as video:
            assert videos.numbers_of(video.read(asked)) == asked
            assert video.backend == "keyframes"


def test_recovery_points_of_intra_refresh_are_no_key_frames(tmp_path):
    options = {"x264-params": "intra-refresh=1:keyint=12:bframes=0"}
    path = videos.write_video(tmp_path / "refresh.mkv", options=options)
    assert len(scan(str(path)).keys) == 1
    with VideoFile(path) as video:
        assert videos.numbers_of(video.read([11, 13, 30, 59])) == [11, 13, 30, 59]


def test_time_stamps_in_the_order_of_decoding(tmp_path):
    """As careless programs write them: the decoder gives frames in another order than their times say."""
    whole = videos.write_video(tmp_path / "whole.mp4", gop=20, options={"bf": "3", "b_strategy": "0"})

    def flatten(number, packet):
        packet.pts = packet.dts

    path = remux(whole, tmp_path / "flat.mkv", flatten)
    assert scan(str(path)).why_in_sequence == "time stamps in the order of decoding"
    assert everything(path) == ("pyav", list(range(60)))


def test_a_few_wrong_time_stamps_are_noticed_while_reading(tmp_path):
    whole = videos.write_video(tmp_path / "whole.mp4", gop=20, options={"bf": "0"})
    times = {}

    def swap(number, packet):
        times[number] = packet.pts
        if number == 7:
            packet.pts = times[6] + 3 * (packet.pts - times[6])

    path = remux(whole, tmp_path / "swapped.mkv", swap)
    assert scan(str(path)).why_in_sequence in ("", "frames that share a time stamp")
    assert everything(path) == ("pyav", list(range(60)))


@pytest.mark.parametrize("codec", ["libx264", "libvpx-vp9"])
@pytest.mark.parametrize("ending", ["mkv", "mp4"])
def test_films_that_begin_within_a_group(tmp_path, codec, ending):
    """What cannot be decoded before the first key frame is no frame."""
    whole = videos.write_video(
        tmp_path / f"whole.{ending}", codec=codec, gop=20, options={"bf": "0"} if codec == "libx264" else {}
    )
    cut = remux(whole, tmp_path / f"cut.{ending}", lambda number, packet: number >= 5)
    backend, numbers = everything(cut)
    assert backend == "pyav"
    assert numbers == list(range(numbers[0], 60))
    assert numbers[0] % 20 == 0
    assert VideoFile(cut).why_in_sequence == "does not begin with a key frame"


def test_hevc_that_begins_within_an_open_group(tmp_path):
    """Cut at a key frame whose leading pictures refer to what is gone: they are no frames."""
    options = {"preset": "ultrafast", "x265-params": "log-level=none:open-gop=1:keyint=12:min-keyint=12:bframes=3"}
    whole = videos.write_video(tmp_path / "whole.mp4", codec="libx265", options=options)
    assert everything(whole) == ("keyframes", list(range(60)))
    with av.open(str(whole)) as video:
        packets = [(p.is_keyframe, p.pts) for p in video.demux(video=0) if p.size]
    key = [i for i, (is_key, _) in enumerate(packets) if is_key][1]
    assert any(pts < packets[key][1] for _, pts in packets[key + 1 :])
    cut = remux(whole, tmp_path / "cut.mkv", lambda number, packet: number >= key)
    assert scan(str(cut)).broken_start
    assert everything(cut) == ("pyav", list(range(12, 60)))
