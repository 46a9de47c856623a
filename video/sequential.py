"""Open videos with PyAV, scan their packets without decoding, and decode them in sequence from the start."""

import io
import os
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

import numpy as np

from video.packets import CODECS, begins, is_hidden
from video.upright import size_of, upright
from xmodal.data.stores import identity, open_file
from xmodal.data.trouble import NotAFileError

MAX_PIXELS = 2**26  # of a frame: 8192 x 8192
MAX_FRAMES = 2**22  # of a video: 38 hours at 30 frames a second
CONTAINERS = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")  # one packet is one frame, and seeking is exact
_OPTIONS = {"max_pixels": str(MAX_PIXELS + MAX_PIXELS // 8), "protocol_whitelist": "file"}  # coded sizes are rounded up
_OUTPUT_CORRUPT = 1 << 3  # FFmpeg's AV_CODEC_FLAG_OUTPUT_CORRUPT
_REMEMBERED = 4096  # videos whose frames have been counted
_counts: dict[tuple, tuple[int, tuple[int, int]]] = {}


@dataclass(frozen=True)
class PacketScan:
    """Facts of a video from its packets, without decoding.

    Args:
        num_frames: packets that hold a frame to show; 0 where they were not read.
        fps: average rate.
        codec: FFmpeg's name of it.
        hidden: packets that an edit list hides, or that hold no picture to show.
        leading: frames shown before the key frame that they follow in the file (open groups of pictures, common in
            HEVC).
        broken_start: the first key frame has such frames, which nobody can decode.
        container: FFmpeg's name of the format.
        times: presentation times of the frames in order, in the stream's own unit; empty where some are unknown.
        keys: presentation time of each key frame and the decoding time to seek to, in the order of the file.
        places: for each of `times`, the number of its packet in the file.
        first_is_key: decoding can begin with the first packet.
        interlaced: frames may be stored as two fields.
        delayed: the decoder gives frames in another order than it gets them.
        size: height and width by the header.
        false_keys: the container marks packets as key frames with which decoding cannot begin.
    """

    num_frames: int
    fps: float
    codec: str
    hidden: int = 0
    leading: bool = False
    broken_start: bool = False
    container: str = ""
    times: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64), repr=False)
    keys: dict[int, int] = field(default_factory=dict, repr=False)
    places: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64), repr=False)
    first_is_key: bool = True
    interlaced: bool = False
    delayed: bool = False
    size: tuple[int, int] = (0, 0)
    false_keys: bool = False

    @property
    def is_plain(self) -> bool:
        """Return whether libraries that trust the container's key frames, and times from 0 on, find the same frames."""
        if self.why_in_sequence or self.false_keys or self.leading:
            return False
        return int(self.times[0]) >= 0

    @property
    def why_in_sequence(self) -> str:
        """Say why frames cannot be found by seeking to key frames; empty when they can."""
        reasons = {
            f"seeking is not exact in {self.container}": self.container not in CONTAINERS,
            f"packets of {self.codec} are not understood": self.codec not in CODECS,
            "hidden frames": bool(self.hidden),
            "does not begin with a key frame": not self.first_is_key or self.broken_start or not self.keys,
            "missing time stamps": len(self.times) != self.num_frames,
            "frames that share a time stamp": len(np.unique(self.times)) != len(self.times),
            "interlaced": self.interlaced,
            "open groups of pictures": self.leading and self.codec != "hevc",
            "time stamps in the order of decoding": self.delayed and self._never_reordered(),
            "key frames out of order": sorted(self.keys) != list(self.keys),
        }
        found = [reason for reason, holds in reasons.items() if holds]
        if not found and min(self.keys) != self.times[0]:
            found = ["frames before the first key frame"]
        return "; ".join(found[:1])

    def _never_reordered(self) -> bool:
        return len(self.places) > 2 and bool((np.diff(self.places) > 0).all())


def scan(source: str | bytes) -> PacketScan:
    """Collect time stamps and key frames from a video's packets without decoding, where it can be read at random."""
    with open_video(source) as (container, stream):
        return scan_packets(container, stream)


def scan_packets(container: Any, stream: Any) -> PacketScan:
    """Scan an open video, see `scan`; it then stands at the end."""
    context = stream.codec_context
    fps = float(stream.average_rate or stream.guessed_rate or 0)
    codec, form = context.codec.canonical_name, container.format.name
    interlaced = int(context.field_order) > 1  # 0: not known, 1: progressive
    size = (context.height, context.width)
    delayed = bool(context.has_b_frames)
    facts = PacketScan(0, fps, codec, container=form, interlaced=interlaced, delayed=delayed, size=size)
    if form not in CONTAINERS or codec not in CODECS:
        return facts
    table = _Table(codec, context.extradata)
    for packet in container.demux(stream):
        if packet.size:
            table.add(packet)
    return table.added_to(facts)


class _Table:
    """Accumulate time stamps, key frames and hidden frames over the packets of one stream."""

    def __init__(self, codec: str, extradata: bytes | None) -> None:
        self.codec, self.extradata, self.may_hide = codec, extradata, codec in ("vp8", "vp9")
        self.shown = self.hidden = self.count = 0
        self.key: int | None = None
        self.first_key: int | None = None
        self.leading = self.broken_start = self.first_is_key = self.false_keys = False
        self.times: list[int] = []
        self.places: list[int] = []
        self.keys: dict[int, int] = {}

    def add(self, packet: Any) -> None:
        """Note a packet."""
        if self.count >= MAX_FRAMES:
            raise ValueError(f"more than {MAX_FRAMES} packets; cut the video into parts")
        hidden = packet.is_discard or (self.may_hide and is_hidden(self.codec, packet))
        self.hidden += hidden
        self.shown += not hidden
        if packet.pts is not None and not hidden:
            self.times.append(packet.pts)
            self.places.append(self.count)
        starts = packet.is_keyframe and begins(self.codec, packet, self.extradata)
        self.false_keys |= packet.is_keyframe and not starts
        if starts:
            self.key = packet.pts
            self.first_is_key |= self.count == 0
            self.first_key = self.key if self.first_key is None else self.first_key
            if self.key is not None:
                self.keys[self.key] = self.key if packet.dts is None else packet.dts
        elif self.key is not None and packet.pts is not None and packet.pts < self.key:
            self.leading = True
            self.broken_start |= self.key == self.first_key
        self.count += 1

    def added_to(self, facts: PacketScan) -> PacketScan:
        """Return the facts with those of the packets."""
        order = np.argsort(self.times, kind="stable")
        return replace(
            facts,
            num_frames=self.shown,
            hidden=self.hidden,
            leading=self.leading,
            broken_start=self.broken_start,
            times=np.array(self.times, np.int64)[order],
            places=np.array(self.places, np.int64)[order],
            keys=self.keys,
            first_is_key=self.first_is_key,
            false_keys=self.false_keys,
        )


@contextmanager
def open_video(source: str | bytes) -> Iterator[tuple[Any, Any]]:
    """Open a video with PyAV and yield its container and main video stream, decoded by one thread."""
    import av

    av.logging.set_level(None)
    with _bytes_of(source) as file, av.open(file, options=_OPTIONS) as container:
        stream = film_of(container)
        context = stream.codec_context
        if context.height * context.width > MAX_PIXELS:
            raise ValueError(f"frames of {context.width} x {context.height} pixels; {MAX_PIXELS} pixels are the most")
        context.options = {"max_pixels": _OPTIONS["max_pixels"]}
        context.thread_count = 1
        if context.codec.canonical_name == "hevc":
            context.flags |= _OUTPUT_CORRUPT  # versions of FFmpeg differ in the default: see `decoded`
        yield container, stream


def _bytes_of(source: str | bytes) -> Any:
    """Open a source ourselves: FFmpeg would take an error of the disk for the end of the file."""
    file = io.BytesIO(source) if isinstance(source, bytes) else open_file(source)
    if not file.seek(0, os.SEEK_END):
        file.close()
        raise NotAFileError("is empty (0 bytes)")
    file.seek(0)
    return file


def film_of(container: Any) -> Any:
    """Choose the stream that the `ffmpeg` command shows: the default one, else the largest; cover pictures are none."""
    streams = list(container.streams.video)
    if not streams:
        raise ValueError("no video stream")
    streams = [s for s in streams if s.codec_context is not None]
    if not streams:
        raise ValueError("no decoder for its codec")
    films = [s for s in streams if not s.disposition & type(s.disposition).attached_pic]
    if not films:
        raise ValueError("no video stream, only a cover picture")
    moving = [s for s in films if s.frames != 1] or films

    def rank(stream: Any) -> int:
        area = stream.codec_context.width * stream.codec_context.height
        return area + 5_000_000 * bool(stream.disposition & type(stream.disposition).default)

    return max(moving, key=rank)  # the first of equals


def decoded(container: Any, stream: Any) -> Iterator[Any]:
    """Yield all frames as the `ffmpeg` command shows them.

    What cannot be decoded before the first frame or behind the last is left out, as FFmpeg does; between them it is an
    error. Closes the packets when the reader stops early, or PyAV never frees the last.
    """
    failed: Exception | None = None
    begun, codec = False, stream.codec_context.codec.canonical_name
    with closing(container.demux(stream)) as packets:
        for packet in packets:
            try:
                frames = packet.decode()
            except ValueError as error:  # FFmpeg's InvalidDataError is one
                failed = error if begun and failed is None else failed
                continue
            if failed is not None and packet.size:
                raise failed
            refuse_ambiguous(codec, packet=packet)
            for frame in frames:
                refuse_ambiguous(codec, frame)
                begun = True
                yield frame


def refuse_ambiguous(codec: str, frame: Any = None, packet: Any = None) -> None:
    """Refuse what versions of FFmpeg show differently: then nobody can say which frame is which.

    Raises:
        ValueError: HEVC pictures that refer to lost ones (behind a cut without a key frame), and AV1 or Motion JPEG
            with frames that an edit list hides.
    """
    if codec == "hevc" and frame is not None and frame.is_corrupt:
        raise ValueError("HEVC frames refer to others that are not there, and decoders differ in showing them")
    if codec in ("av1", "mjpeg") and packet is not None and packet.is_discard:
        raise ValueError(f"an edit list hides frames of {codec}, and decoders differ in that: cut the video anew")


class Sequential:
    """Sequential reader built on PyAV: slower, correct on every file; no file stays open between calls.

    Frames are those that the `ffmpeg` command shows, in its order. Where the picture size changes in mid-film, later
    frames are scaled to the size of the first, as it does.
    """

    name = "pyav"

    def __init__(self, source: str | bytes, found: PacketScan | None = None) -> None:
        self._source = source
        found = found or scan(source)
        self.fps = found.fps
        self.num_frames, self.size = self._counted()

    def _counted(self) -> tuple[int, tuple[int, int]]:
        """Frames and size of the first; a file is decoded for this once, and again only when it has changed."""
        if isinstance(self._source, bytes):
            return self._count()
        key = identity(self._source)
        if key not in _counts:
            counted = self._count()
            while len(_counts) >= _REMEMBERED:
                _counts.pop(next(iter(_counts)), None)
            _counts[key] = counted
        return _counts[key]

    def _count(self) -> tuple[int, tuple[int, int]]:
        count, size = 0, (0, 0)
        with open_video(self._source) as (container, stream):
            for frame in decoded(container, stream):
                size = size if count else size_of(frame)
                count += 1
                if count > MAX_FRAMES:
                    raise ValueError(f"more than {MAX_FRAMES} frames; cut the video into parts")
        if not count:
            raise ValueError("no frame can be decoded")
        return count, size

    def frames(self, indices: np.ndarray, convert: Callable[[np.ndarray], Any] = np.asarray) -> list[Any]:
        """Decode frames at distinct indices; each is converted before the next is decoded."""
        wanted = {int(i): row for row, i in enumerate(indices)}
        out: list[Any] = [None] * len(wanted)
        last, number = max(wanted), -1
        with open_video(self._source) as (container, stream):
            for number, frame in enumerate(decoded(container, stream)):
                if number in wanted:
                    out[wanted[number]] = convert(upright(frame, self.size))
                if number == last:
                    break
        if number < last:
            raise ValueError(f"frame {last} of {self.num_frames} cannot be decoded, only {number + 1} can")
        return out


def shown_frames(source: str) -> Iterator[tuple[np.ndarray, float, Fraction]]:
    """All frames of a video in order.

    Yields:
        (H, W, 3) uint8 RGB, upright; seconds since the first frame; average rate of the video.

    Raises:
        Exception: several kinds, FFmpeg's among them, at the frame that cannot be decoded.
    """
    with open_video(source) as (container, stream):
        rate = stream.average_rate or stream.guessed_rate or Fraction(25)
        start, size = None, None
        for number, frame in enumerate(decoded(container, stream)):
            time = float(number / rate) if frame.time is None else frame.time
            start, size = (time if start is None else start), size or size_of(frame)
            yield upright(frame, size), time - start, rate
