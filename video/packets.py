"""Read from a packet's first bytes whether decoding can begin there and whether it shows a picture."""

from collections.abc import Iterator
from typing import Any

_IDR = 5
_IRAP = range(16, 22)
_AV1_HEADER, _AV1_FRAMES = 1, (3, 6)  # kinds of open bitstream units
CODECS = ("h264", "hevc", "vp8", "vp9", "av1")  # whose packets this file understands


def length_size(codec: str, extradata: bytes | None) -> int:
    """Return how many bytes tell a unit's length in packets of H.264 and HEVC; 0 when start codes part the units."""
    at = {"h264": 4, "hevc": 21}[codec]
    return (extradata[at] & 3) + 1 if extradata and len(extradata) > at and extradata[0] == 1 else 0


def begins(codec: str, packet: Any, extradata: bytes | None = None) -> bool:
    """Return whether a decoder that is given this packet first shows all later pictures as they are.

    Containers mark more packets as key frames than that: recovery points of intra refresh, or all of them when their
    table is missing.

    Args:
        codec: one of `CODECS`.
        packet: its bytes, or anything with a buffer of them.
        extradata: the stream's header.
    """
    data = memoryview(packet)
    if codec in ("h264", "hevc"):
        size = length_size(codec, extradata)
        kinds = [data[at] for at in _units(data, size)] if size else []
        return any(k & 31 == _IDR for k in kinds) if codec == "h264" else any(k >> 1 & 63 in _IRAP for k in kinds)
    if codec == "vp8":
        return data.nbytes > 0 and not data[0] & 1
    if codec == "vp9":
        return data.nbytes > 0 and not data[0] & 0b1100  # shows no earlier frame, and is a key frame
    return _av1_begins(data)


def _units(data: memoryview, size: int) -> Iterator[int]:
    """Yield the offsets of the NAL units in an H.264 or HEVC packet."""
    at = 0
    while at + size < len(data):
        length = int.from_bytes(data[at : at + size], "big")
        yield at + size
        at += size + length


def _av1_begins(data: memoryview) -> bool:
    at, header = 0, False
    while at < len(data):
        kind, extended, sized = data[at] >> 3 & 15, data[at] >> 2 & 1, data[at] >> 1 & 1
        at += 1 + extended
        length = shift = 0
        while sized and at < len(data):
            length |= (data[at] & 127) << shift
            shift, at = shift + 7, at + 1
            if not data[at - 1] & 128:
                break
        if kind in _AV1_FRAMES:
            return header and at < len(data) and not data[at] >> 5 & 7  # shows no earlier frame, and is a key frame
        header |= kind == _AV1_HEADER
        at = at + length if sized else len(data)
    return False


def is_hidden(codec: str, packet: Any) -> bool:
    """Return whether a packet of VP8 or VP9 holds only a picture that is not shown."""
    data = memoryview(packet)
    if not data.nbytes or codec not in ("vp8", "vp9"):
        return False
    if codec == "vp8":
        return not data[0] >> 4 & 1
    superframe = data[-1] & 0xE0 == 0xC0
    return not superframe and not data[0] & 0b1010  # neither shows an earlier frame nor this one
