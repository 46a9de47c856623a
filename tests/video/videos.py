"""Videos made at test time, the number of each frame written into its pixels."""

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

ROWS, COLUMNS = 3, 4  # cells of the 12-bit frame number


def picture(number: int, height: int, width: int) -> np.ndarray:
    """A frame (H, W, 3) uint8 that carries `number` in black and white cells, tinted so that channels differ."""
    bits = [(number >> i) & 1 for i in range(ROWS * COLUMNS)]
    cells = np.array(bits, np.float32).reshape(ROWS, COLUMNS) * 170 + 40
    rows = np.arange(height) * ROWS // height
    columns = np.arange(width) * COLUMNS // width
    gray = cells[rows][:, columns]  # (H, W)
    return (gray[..., None] * np.array([1.0, 0.9, 0.8])).astype(np.uint8)


def number_of(frame: np.ndarray) -> int:
    """The number that `picture` wrote, read from the middle of each cell."""
    height, width = frame.shape[:2]
    rows = ((np.arange(ROWS) + 0.5) * height / ROWS).astype(int)
    columns = ((np.arange(COLUMNS) + 0.5) * width / COLUMNS).astype(int)
    bits = frame[rows][:, columns, 0].reshape(-1) > 115
    return int(sum(1 << i for i, bit in enumerate(bits) if bit))


def numbers_of(frames: np.ndarray) -> list[int]:
    """`number_of` for each frame of (T, H, W, 3)."""
    return [number_of(frame) for frame in frames]


def write_video(
    path: Path,
    frames: int = 60,
    size: tuple[int, int] = (96, 128),
    codec: str = "libx264",
    gop: int = 12,
    pix_fmt: str = "yuv420p",
    times: list[int] | None = None,
    options: dict[str, str] | None = None,
    grain: int = 0,
) -> Path:
    """Write a video of numbered frames; `times` (in 1/25 s) makes its frame rate vary, `grain` its packets large."""
    noise = np.random.default_rng(0)
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=25)
        stream.height, stream.width, stream.pix_fmt = size[0], size[1], pix_fmt
        stream.codec_context.time_base = Fraction(1, 25)
        stream.gop_size = gop
        fast = {"libx264": {"preset": "veryfast"}, "libvpx-vp9": {"cpu-used": "8", "deadline": "realtime"}}
        stream.options = {**fast.get(codec, {}), **(options or {})}
        for number in range(frames):
            image = picture(number, *size) + noise.integers(0, grain + 1, (*size, 1), np.uint8)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts = times[number] if times else number
            frame.time_base = Fraction(1, 25)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return path


def write_audio(path: Path) -> Path:
    """Write a sound without a picture."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8192), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return path


def trim_by_copy(source: Path, path: Path, first: int) -> Path:
    """Cut a video at frame `first` as `ffmpeg -ss -c copy` does: the frames since the key frame are hidden."""
    with av.open(str(source)) as video, av.open(str(path), "w") as out:
        stream = video.streams.video[0]
        copy = out.add_stream_from_template(stream)
        step = int(1 / (stream.average_rate * stream.time_base))
        video.seek(first * step, stream=stream, backward=True)
        for packet in video.demux(stream):
            if packet.dts is None:
                continue
            packet.pts -= first * step
            packet.dts -= first * step
            packet.stream = copy
            out.mux(packet)
    return path


def cut_edit_list(source: Path, path: Path, start: int, length: int, rate: int = 25) -> Path:
    """Rewrite the edit list of an MP4 so that only `length` frames from `start` on are shown."""
    data = bytearray(source.read_bytes())
    timescale = struct.unpack_from(">I", data, data.index(b"mvhd") + 16)[0]
    media = struct.unpack_from(">I", data, data.index(b"mdhd") + 16)[0]
    elst = data.index(b"elst") + 4
    version, entries = data[elst], struct.unpack_from(">I", data, elst + 4)[0]
    assert (version, entries) == (0, 1), "this helper knows the edit list that FFmpeg writes"
    delay = struct.unpack_from(">i", data, elst + 12)[0]
    struct.pack_into(">I", data, elst + 8, length * timescale // rate)
    struct.pack_into(">i", data, elst + 12, delay + start * media // rate)
    path.write_bytes(data)
    return path


def rotate_by_matrix(source: Path, path: Path, quarter_turns: int) -> Path:
    """Rewrite the display matrix of an MP4: show it turned clockwise by quarters, as phones do."""
    data = bytearray(source.read_bytes())
    cos, sin = [(1, 0), (0, 1), (-1, 0), (0, -1)][quarter_turns % 4]
    matrix = [cos << 16, sin << 16, 0, -sin << 16, cos << 16, 0, 0, 0, 1 << 30]
    struct.pack_into(">9i", data, data.index(b"tkhd") + 44, *matrix)
    path.write_bytes(data)
    return path
