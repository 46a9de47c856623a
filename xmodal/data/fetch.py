"""Fetch files and ranges of files from fsspec stores (`s3://`, `gs://`, `hf://`, `http://`, ...) into a bounded cache.

`XMODAL_STORE_CACHE` is the folder of the cache (default `~/.cache/xmodal/stores`), shared by all processes of a
machine, and `XMODAL_STORE_CACHE_GB` its size (default 10; 0 keeps nothing). Credentials are those of fsspec.
"""

import hashlib
import io
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

from xmodal.atomic import replacing
from xmodal.data.trouble import TroubleError, chain_of, words_of

Result = TypeVar("Result")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_written = 0  # bytes that this process wrote since it last made room
_LEFT_OVER = 3600.0  # seconds after which an unfinished file is one that a killed process left


def is_url(path: object) -> bool:
    """Return whether a path names a file of a store: `s3://bucket/file`."""
    return _URL.match(str(path)) is not None


def store_of(url: str) -> str:
    """Return the store that a URL names, for messages: protocol and host or bucket."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.partition('/')[0]}"


def ask(url: str, call: Callable[[Any, str], Result], what: str = "") -> Result:
    """Call a function with the file system of a URL and the path in it.

    Args:
        url: of a file or folder.
        call: asks the store.
        what: is wanted of the file, for messages.

    Raises:
        FileNotFoundError: there is no such file.
        TroubleError: the store, or the way to it, fails.
        ValueError: fsspec does not know the store, or a package for it is missing.
    """
    from fsspec.core import url_to_fs

    try:
        system, path = url_to_fs(url)  # a system that is kept would not survive a fork; fsspec keeps them by process
    except (ImportError, ValueError) as error:
        raise ValueError(f"{url}: {error}: see the extra `stores`, pip install 'xmodal[stores]'") from error
    try:
        return call(system, path)
    except TroubleError:
        raise
    except Exception as error:  # every store has errors of its own
        if isinstance(error, FileNotFoundError) and not _failed(error):
            raise FileNotFoundError(2, os.strerror(2), url) from error
        cause = (isinstance(error, FileNotFoundError) and error.__cause__) or error
        name, said = type(cause).__name__, words_of(cause)
        asked = f"{url} ({what})" if what else url
        raise TroubleError(
            f"{asked}: the store {store_of(url)} fails: {name}: {said}; the store or the way to it is at fault"
        ) from error


def _failed(error: FileNotFoundError) -> bool:
    """Return whether a file is called missing because the server failed: fsspec says so of any HTTP error."""
    chain = [found for found in chain_of(error) if type(found).__module__.startswith("aiohttp")]
    return any(getattr(found, "status", 0) not in (404, 410) for found in chain)


def names_below(url: str) -> list[str]:
    """Return the paths of all files below a folder of a store, relative to it, sorted."""
    found, base = ask(url, lambda system, path: (system.find(path), system._strip_protocol(path).rstrip("/") + "/"))
    return sorted(str(path)[len(base) :] for path in found if str(path).startswith(base))


@dataclass(frozen=True)
class ByteRange:
    """A range of a file in a store.

    Args:
        url: of the file.
        start: first byte.
        size: bytes; None for all.
        version: of the content: another one is fetched again.
        name: what messages call it.
        check: is given the bytes, and raises `TroubleError` when they are not those expected.
    """

    url: str
    start: int = 0
    size: int | None = None
    version: str = ""
    name: str = ""
    check: Callable[[bytes], None] | None = None

    @property
    def place(self) -> Path:
        """Return the file of the cache that holds the piece; it ends as the piece's name does."""
        key = hashlib.sha256(repr((self.url, self.start, self.size, self.version)).encode()).hexdigest()[:32]
        return cache_folder() / key[:2] / (key[2:] + os.path.splitext(self.name or self.url)[1].lower())

    def fetch(self) -> bytes:
        """Read the piece from the store.

        Raises:
            TroubleError: the store fails, or gives fewer or more bytes than asked for.
        """
        end = None if self.size is None else self.start + self.size
        what = self.name if self.size is None else f"{self.name}, bytes {self.start} to {end}"
        ranged: dict[str, int] = {} if end is None else {"start": self.start, "end": end}
        data = b"" if self.size == 0 else ask(self.url, lambda system, path: system.cat_file(path, **ranged), what)
        if self.size is not None and len(data) != self.size:
            raise TroubleError(
                f"{self.url} ({what}): the store {store_of(self.url)} gave {len(data)} bytes for {self.size}; does it "
                "answer requests for ranges?"
            )
        if self.check is not None:
            self.check(data)
        return data


def version_of(url: str) -> tuple[int, str]:
    """Return the size of a file in a store, and its version: what the store says of it (ETag, time of change)."""

    def look(system: Any, path: str) -> tuple[int, str]:
        about = system.info(path)
        known = {str(key): str(value) for key, value in about.items() if key not in ("name", "url", "mimetype")}
        size = about.get("size")
        return -1 if size is None else int(size), hashlib.sha256(repr(sorted(known.items())).encode()).hexdigest()

    return ask(url, look)


def whole(url: str) -> ByteRange:
    """Return a whole file of a store as a piece, in its present version."""
    return ByteRange(url, version=version_of(url)[1], name=url.rpartition("/")[2])


def cache_folder() -> Path:
    """Return the folder of the cache."""
    return Path(os.environ.get("XMODAL_STORE_CACHE") or Path.home() / ".cache" / "xmodal" / "stores")


def cache_bytes() -> int:
    """Return how many bytes the cache may take.

    Raises:
        ValueError: `XMODAL_STORE_CACHE_GB` is no number.
    """
    word = os.environ.get("XMODAL_STORE_CACHE_GB", "10")
    try:
        return int(float(word) * 2**30)
    except ValueError:
        raise ValueError(f"XMODAL_STORE_CACHE_GB={word!r}: expected a number of gigabytes") from None


def open_piece(piece: ByteRange) -> BinaryIO:
    """Open a piece for reading: from the cache, or fetched into it."""
    limit = cache_bytes()
    if not limit:
        return io.BytesIO(piece.fetch())
    place = piece.place
    with suppress(FileNotFoundError):
        file = cast(BinaryIO, open(place, "rb", buffering=0))  # noqa: SIM115 - the caller closes it
        os.utime(place)  # the least recently used go first
        return file
    data = piece.fetch()
    keep(place, data, limit)
    return io.BytesIO(data)


def keep(place: Path, data: bytes, limit: int) -> None:
    """Write a file of the cache, and make room where this process has written a 64th of the cache since it last did.

    Raises:
        TroubleError: it cannot be written.
    """
    global _written
    if len(data) > limit // 4:
        return
    try:
        with replacing(place) as file:
            file.write(data)
        _written += len(data)
        if _written > limit // 64:
            _written = 0
            make_room(limit * 3 // 4)
    except OSError as error:
        raise TroubleError(
            f"{place}: {error.strerror}: the cache of stores cannot be written; XMODAL_STORE_CACHE names another "
            "folder, XMODAL_STORE_CACHE_GB=0 keeps nothing"
        ) from error


def make_room(limit: int) -> None:
    """Delete the least recently used files of the cache until the others take no more than `limit` bytes."""
    files: list[tuple[float, int, str]] = []
    for folder, _, names in os.walk(cache_folder()):
        for name in names:
            path = os.path.join(folder, name)
            with suppress(OSError):  # another process has deleted it
                status = os.stat(path)
                if not name.startswith(".") or status.st_mtime < time.time() - _LEFT_OVER:
                    files.append((status.st_mtime, status.st_size, path))
    total = sum(size for _, size, _ in files)
    for _, size, path in sorted(files):
        if total <= limit:
            break
        with suppress(OSError):
            os.unlink(path)
        total -= size


@contextmanager
def as_file(data: BinaryIO, ending: str) -> Iterator[Path]:
    """Write an open file's content to a file that has a path and an ending, for libraries that want one."""
    handle, name = tempfile.mkstemp(suffix=ending, prefix="xmodal-")
    try:
        with os.fdopen(handle, "wb") as out:
            while block := data.read(1 << 22):
                out.write(block)
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)
