"""Read members of uncompressed tar files at random, by an index of their offsets that lies beside each tar.

The index of `shard-00000.tar` is `shard-00000.tar.index`: a line of JSON about the tar (its bytes, its members, the
checksum of the other lines), then a line for each member, `offset bytes crc32 "name"`, sorted by name, so that one
member is found by bisection and no process holds a table of all names.
"""

import hashlib
import io
import json
import mmap
import os
import re
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, BinaryIO, cast

from xmodal.data.fetch import ByteRange, is_url, open_piece, version_of, whole
from xmodal.data.trouble import TroubleError

ENDING, HEAD = ".index", 512  # bytes of a tar's header of a member
_OPEN = 64  # indexes that a process holds open
_MEMBER = re.compile(r"(?P<tar>.+?\.tar)/(?P<name>.+)", re.DOTALL)


class ShardError(TroubleError):
    """A tar that does not fit its index, or an index that is damaged or not there."""


@dataclass(frozen=True)
class Member:
    """A file in a tar: its name, the offset and size of its bytes, and their CRC-32."""

    name: str
    offset: int
    size: int
    crc: int

    @property
    def line(self) -> bytes:
        """Return its line of the index."""
        return f"{self.offset} {self.size} {self.crc:08x} {json.dumps(self.name)}\n".encode()


def member_of(line: bytes) -> Member:
    """Return the member of a line of an index."""
    offset, size, crc, name = line.split(b" ", 3)
    return Member(json.loads(name), int(offset), int(size), int(crc, 16))


def split(path: str | os.PathLike) -> tuple[str, str] | None:
    """Return the tar and the member that a path like `data/shard-00000.tar/class/film.mp4` names, None for others."""
    found = _MEMBER.fullmatch(os.fspath(path))
    if found is None or (not is_url(found["tar"]) and os.path.isdir(found["tar"])):
        return None
    return found["tar"], found["name"]


def index_text(tar: str, size: int, members: list[Member]) -> bytes:
    """Return the content of an index file."""
    lines = b"".join(m.line for m in sorted(members, key=lambda m: json.dumps(m.name)))
    head = {
        "tar": os.path.basename(tar), "bytes": size, "members": len(members),
        "sha256": hashlib.sha256(lines).hexdigest(),
    }  # fmt: skip
    return json.dumps(head).encode() + b"\n" + lines


class TarIndex:
    """The index of a tar, by path or URL of the tar; compare it with the tar once, when it is opened.

    Raises:
        ShardError: no index, a damaged one, or a tar of another size.
    """

    def __init__(self, tar: str):
        self.tar, self.path = tar, tar + ENDING
        size = self.tar_size()
        try:
            data = open_piece(whole(self.path)) if is_url(tar) else open(self.path, "rb")  # noqa: SIM115
        except FileNotFoundError:
            raise ShardError(f"{tar} has no index {os.path.basename(self.path)}: {self.remedy}") from None
        with data as file:
            try:
                self.lines: Any = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            except (OSError, ValueError):  # not a file on the disk, or empty
                self.lines = file.read()
        self.start = self.lines.find(b"\n") + 1
        try:
            self.about = json.loads(self.lines[: self.start])
            self.size, self.count = int(self.about["bytes"]), int(self.about["members"])
            self.checksum = str(self.about["sha256"])
        except (ValueError, KeyError, TypeError):
            raise ShardError(f"{self.path} is damaged: its first line is none of an index; {self.remedy}") from None
        if size not in (self.size, -1):
            raise ShardError(
                f"{tar} has {size} bytes, {self.size} by its index: it was changed or is not whole; {self.remedy}"
            )

    @property
    def remedy(self) -> str:
        """Say how an index is made."""
        return f"make it with `xmodal pack --index {self.tar}`"

    def tar_size(self) -> int:
        """Return the bytes of the tar; -1 where a store does not say."""
        try:
            return version_of(self.tar)[0] if is_url(self.tar) else os.stat(self.tar).st_size
        except FileNotFoundError:
            raise ShardError(f"{self.tar} is not there: was it moved?") from None

    def check(self) -> None:
        """Refuse an index whose lines are not those that were written."""
        if hashlib.sha256(self.lines[self.start :]).hexdigest() != self.checksum:
            raise ShardError(f"{self.path} is damaged: its lines do not have its checksum; {self.remedy}")

    def members(self) -> Iterator[Member]:
        """Yield all members, sorted by their escaped names."""
        self.check()
        member, at = self.line(self.start)
        while member is not None:
            yield member
            member, at = self.line(at)

    def bisect(self, key: bytes) -> int:
        """Return where the lines begin whose escaped names are not before a key."""
        low, high = self.start, len(self.lines)
        while low < high:
            begin = self.lines.rfind(b"\n", low, (low + high) // 2) + 1 or low
            end = self.lines.find(b"\n", begin)
            if self.lines[begin:end].split(b" ", 3)[3] < key:
                low = end + 1
            else:
                high = begin
        return low

    def line(self, at: int) -> tuple[Member | None, int]:
        """Return the member whose line begins at an offset, and where the next begins; None behind the last."""
        if at >= len(self.lines):
            return None, at
        end = self.lines.find(b"\n", at)
        return member_of(self.lines[at:end]), end + 1

    def find(self, name: str) -> Member | None:
        """Return the member of a name, None when there is none."""
        with self.whole_lines():
            member, _ = self.line(self.bisect(json.dumps(name).encode()))
        return member if member is not None and member.name == name else None

    def below(self, folder: str) -> list[str]:
        """Return the names of the members in a folder of the tar, without the folder."""
        found, prefix = [], folder.rstrip("/") + "/"
        with self.whole_lines():
            member, at = self.line(self.bisect(json.dumps(prefix).encode()[:-1]))
            while member is not None and member.name.startswith(prefix):
                found.append(member.name[len(prefix) :])
                member, at = self.line(at)
        return found

    @contextmanager
    def whole_lines(self) -> Iterator[None]:
        """Raise what goes wrong with a line as damage of the index."""
        try:
            yield
        except (ValueError, IndexError):
            raise ShardError(f"{self.path} is damaged: a line is none of an index; {self.remedy}") from None


def index_of(tar: str) -> TarIndex:
    """Open an index; a process keeps the last ones open, and opens one again that has changed on this machine."""
    stamp = None
    if not is_url(tar):
        with suppress(OSError):
            status = os.stat(tar + ENDING)
            stamp = (status.st_mtime_ns, status.st_size)
    return _index_of(tar, stamp)


@lru_cache(_OPEN)
def _index_of(tar: str, stamp: tuple[int, int] | None) -> TarIndex:
    return TarIndex(tar)


def find(tar: str, name: str) -> Member:
    """Return a member of a tar.

    Raises:
        FileNotFoundError: there is none of the name.
        ShardError: see `TarIndex`.
    """
    member = index_of(tar).find(name)
    if member is None:
        raise FileNotFoundError(2, f"{tar} has no member {name!r}")
    return member


def open_member(tar: str, name: str) -> BinaryIO:
    """Open a member of a tar by its name; raises what `find` and `open_at` do."""
    return open_at(tar, find(tar, name))


def open_at(tar: str, member: Member) -> BinaryIO:
    """Open a member of a tar: a window on a tar of this machine, or one range fetched from a store.

    Raises:
        ShardError: the tar has something else there.
        TroubleError: the store fails.
    """
    start, size = member.offset - HEAD, member.size + HEAD
    if not is_url(tar):
        try:
            file: Any = open(tar, "rb", buffering=0)  # noqa: SIM115 - the window closes it
        except FileNotFoundError:
            raise ShardError(f"{tar} is not there: was it moved?") from None
        with Window(file, start, HEAD, close=False) as head:
            check_head(head.read(), tar, member)
        return cast(BinaryIO, Window(file, member.offset, member.size))

    def check(data: bytes) -> None:
        check_head(data[:HEAD], tar, member)
        if zlib.crc32(data[HEAD:]) != member.crc:
            raise ShardError(f"{tar}: {member.name} does not have the checksum of the index: damaged, or another tar")

    piece = ByteRange(tar, start, size, f"{member.crc:08x}", member.name, check)
    return cast(BinaryIO, Window(open_piece(piece), HEAD, member.size))


class Window(io.RawIOBase):
    """Read a part of an open file as a file.

    Args:
        file: which holds it.
        start: its first byte there.
        size: bytes.
        close: close the file with the window.
    """

    def __init__(self, file: Any, start: int, size: int, close: bool = True):
        super().__init__()
        self._file, self._start, self._size, self._close, self._at = file, start, size, close, 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position."""
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a position; returns it."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise ValueError(f"negative position {base + offset}")
        self._at = base + offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Read into a buffer; returns how many bytes."""
        view = memoryview(buffer).cast("B")
        view = view[: max(min(len(view), self._size - self._at), 0)]
        if not len(view):
            return 0
        self._file.seek(self._start + self._at)
        count = self._file.readinto(view) or 0
        if not count:
            raise ShardError(f"{getattr(self._file, 'name', 'a tar')} ends before a member of its index does")
        self._at += count
        return count

    def close(self) -> None:
        """Close the file."""
        if not self.closed and self._close:
            self._file.close()
        super().close()


def check_head(head: bytes, tar: str, member: Member) -> None:
    """Refuse a place of a tar where another member is than the index says.

    Raises:
        ShardError: naming tar and member.
    """
    try:
        found = tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")
        there = found.name.removeprefix("./")
        # heads cut names that are long, and replace letters; sizes above 8 GB are 0 there
        same = not member.name.isascii() or there == member.name or (there != "" and member.name.startswith(there))
        fits = same and found.size in (member.size, 0)
    except tarfile.HeaderError:
        fits = False
    if not fits:
        raise ShardError(f"{tar} has no {member.name} where its index says: the tar was changed, or is another one")


def heads(path: str) -> Iterator[Member]:
    """Read the heads of the files in a tar of this machine; the checksums are left out (0).

    Raises:
        ShardError: a compressed tar, a damaged one, or a sparse file in it.
    """
    try:
        with tarfile.open(path, "r:", errors="surrogateescape") as tar:
            for member in tar:
                if member.issparse():
                    raise ShardError(f"{path}: {member.name} is stored with holes; pack it with `xmodal pack`")
                if member.isfile():
                    yield Member(member.name.removeprefix("./"), member.offset_data, member.size, 0)
    except tarfile.TarError as error:
        raise ShardError(f"{path} is no whole uncompressed tar ({error})") from error


def members_of(tar: str) -> Iterator[Member]:
    """Return the members of a tar: from its index, or from its heads where a tar of this machine has none."""
    indexed = is_url(tar) or os.path.exists(tar + ENDING)
    return index_of(tar).members() if indexed else heads(tar)


def crc_of(file: Any, size: int) -> int:
    """Return the CRC-32 of the next `size` bytes of a file.

    Raises:
        ShardError: the file ends before.
    """
    crc = 0
    while size:
        block = file.read(min(size, 1 << 22))
        if not block:
            raise ShardError(f"{getattr(file, 'name', 'a tar')} ends in the middle of a member")
        crc, size = zlib.crc32(block, crc), size - len(block)
    return crc
