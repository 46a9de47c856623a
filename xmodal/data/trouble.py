"""Tell damage of a file from trouble of the machine, and refuse what is no regular file before it is opened."""

import errno
import gc
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

Result = TypeVar("Result")
WAITS = (0.1, 0.5, 2.0, 8.0)  # seconds before each further try
ROOM = 256 * 2**20  # bytes; a process that cannot get them is out of memory, whatever file it reads
MACHINE = {
    getattr(errno, name)
    for name in (
        *("EIO", "EMFILE", "ENFILE", "ENOBUFS", "ESTALE", "ENOTCONN", "ETIMEDOUT", "EHOSTDOWN", "EHOSTUNREACH"),
        *("ENETDOWN", "ENETUNREACH", "ECONNABORTED", "ECONNREFUSED", "ECONNRESET", "EREMOTEIO", "ENODEV"),
    )
    if hasattr(errno, name)
}
_KINDS = {stat.S_ISDIR: "folder", stat.S_ISFIFO: "FIFO", stat.S_ISSOCK: "socket", stat.S_ISCHR: "device",
          stat.S_ISBLK: "device"}  # fmt: skip


class TroubleError(RuntimeError):
    """Trouble of the machine or its storage while a file was read; says nothing about the file."""


class NotAFileError(ValueError):
    """A path that leads to something else than a regular file."""


def regular_file(path: str | os.PathLike) -> os.stat_result:
    """Return the status of a regular file; FIFOs and devices are refused before anything opens them.

    Raises:
        NotAFileError: a folder, FIFO, socket or device.
        OSError: nothing there, or no permission.
    """
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        kind = next((name for is_kind, name in _KINDS.items() if is_kind(status.st_mode)), "something else")
        raise NotAFileError(f"is a {kind}, not a regular file")
    return status


def chain_of(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and those that led to it."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        found = waiting.pop()
        if found is not None and id(found) not in seen:
            seen.add(id(found))
            yield found
            waiting += [found.__cause__, found.__context__]


def out_of_memory(error: BaseException) -> bool:
    """Return whether an allocation failed."""
    text = str(error).lower()
    return (
        isinstance(error, MemoryError)
        or getattr(error, "errno", None) == errno.ENOMEM
        or (isinstance(error, RuntimeError) and ("allocate memory" in text or "not enough memory" in text))
    )


def trouble_of(error: BaseException) -> str:
    """Say what is wrong with the machine when an error is not a file's; empty when the file is at fault."""
    for found in chain_of(error):
        if isinstance(found, TroubleError):
            return str(found)
        number = getattr(found, "errno", None) or 0
        if number in MACHINE and not type(found).__module__.startswith("av."):  # FFmpeg calls torn files EIO
            return f"{os.strerror(number)} ({errno.errorcode[number]})"
        if out_of_memory(found) and not _room():
            return "the process is out of memory"
    return ""


def _room() -> bool:
    """Return whether the process can still get a moderate piece of memory; if so, the file asked for too much."""
    gc.collect()
    try:
        return len(bytearray(ROOM)) == ROOM
    except MemoryError:
        return False


def words_of(error: BaseException) -> str:
    """Say in one line what went wrong with a file."""
    if out_of_memory(error):
        return "needs more memory than there is"
    said = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return (said.strip().splitlines() or [type(error).__name__])[-1][:200]


@contextmanager
def reading(
    path: object, broken: type[Exception], make: Callable[[Exception], Exception] | None = None
) -> Iterator[None]:
    """Raise whatever goes wrong with a file as `broken`, and trouble of the machine as `TroubleError`.

    Args:
        path: the file, for messages.
        broken: the error that says that a file cannot be read.
        make: makes it of any other error; by default it is called with the error's name and words.
    """
    try:
        yield
    except (TroubleError, ImportError):
        raise
    except Exception as error:
        trouble = trouble_of(error)
        if trouble:
            raise TroubleError(f"{path}: {trouble}; the machine or its storage is at fault, not the file") from error
        if isinstance(error, broken):
            raise
        raise (make or (lambda e: broken(f"{type(e).__name__}: {words_of(e)}")))(error) from error


def retried(call: Callable[[], Result], trouble: type[Exception] = TroubleError) -> Result:
    """Call a function again, after longer and longer waits, while it meets trouble of the machine."""
    for wait in WAITS:
        try:
            return call()
        except trouble:
            time.sleep(wait)
    return call()
