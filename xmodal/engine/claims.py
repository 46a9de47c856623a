"""Share numbered jobs among processes on any machines that see one folder: each is done by one, whoever dies."""

import errno
import fcntl
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

Job = TypeVar("Job")
LOCK = "claims.lock"
PAUSE = 0.5  # seconds between looks at jobs that others hold
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


class Claims:
    """Locks of numbered jobs: one byte each of a file, freed by the system when the process that holds it ends.

    Args:
        folder: that all processes see; made where it is missing.
    """

    def __init__(self, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        self.file = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT)

    @contextmanager
    def claim(self, number: int) -> Iterator[bool]:
        """Hold a job, or yield False while another process does.

        Raises:
            OSError: the file system has no locks.
        """
        try:
            fcntl.lockf(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                raise
            yield False
            return
        try:
            yield True
        finally:
            fcntl.lockf(self.file, fcntl.LOCK_UN, 1, number)

    def close(self) -> None:
        """Give up all jobs."""
        os.close(self.file)


def share_out(
    folder: Path, jobs: Sequence[Job], done: Callable[[Job], bool], rank: int = 0, world: int = 1
) -> Iterator[Job]:
    """Yield jobs that no other process does, until all are done: those of processes that die come back.

    On a file system without locks every process gets each `world`-th job.

    Args:
        folder: see `Claims`.
        jobs: the same list in every process.
        done: whether a job is done, by anybody.
        rank: the processes begin at different jobs: this one with each `world`-th from this on.
        world: number of processes that begin together.
    """
    order = [n for first in range(world) for n in range((rank + first) % world, len(jobs), world)]
    left, claims = [n for n in order if not done(jobs[n])], None
    if not left:
        return
    try:
        claims = Claims(folder)
        while left:
            held = []
            for number in left:
                with claims.claim(number) as mine:
                    if not mine:
                        held.append(number)
                    elif not done(jobs[number]):
                        yield jobs[number]
            left = [n for n in held if not done(jobs[n])]
            if left:
                time.sleep(PAUSE)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        yield from (jobs[n] for n in range(rank, len(jobs), world) if not done(jobs[n]))
    finally:
        if claims is not None:
            with suppress(OSError):
                claims.close()
