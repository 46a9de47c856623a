"""Keep two runs out of one work directory, and one run's checkpoints from being overwritten by another's."""

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmengine.logging import print_log

from xmodal.engine.checkpoint import LAST, read
from xmodal.engine.resume import changes
from xmodal.engine.stored_config import CONFIG

LOCK = "run.lock"


@contextmanager
def claimed(folder: str | Path, settings: dict[str, str], resume: str | None) -> Iterator[None]:
    """Hold a work directory for one run.

    Args:
        folder: the work directory; made where it is missing.
        settings: of the run, as `settings_of` returns them.
        resume: `auto`, a checkpoint, or None for a run from the beginning.

    Raises:
        ValueError: another run is writing there, or the folder holds the checkpoints of another experiment.
        OSError: the folder cannot be made or written.
    """
    folder = Path(folder)
    if int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0"))):
        yield  # the first process holds it for all
        return
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / LOCK, "a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            raise ValueError(
                f"another run ({lock.read().strip() or 'unknown'}) is writing to {folder}: "
                "wait for it, or give another --work-dir"
            ) from error
        except OSError:
            pass  # a file system without locks
        lock.truncate(0)
        lock.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        lock.flush()
        if resume is None or (resume != "auto" and Path(resume).resolve().parent != folder.resolve()):
            with made_room(folder, settings):
                yield
        else:
            yield


@contextmanager
def made_room(folder: Path, settings: dict[str, str]) -> Iterator[None]:
    """Put the checkpoints of an earlier run into `before_N/`, and back where the new run ends without its own."""
    kept = make_room(folder, settings)
    try:
        yield
    except BaseException:
        if kept is not None and not any(folder.glob("*.pth")):
            for path in kept.iterdir():
                path.replace(folder / path.name)
            kept.rmdir()
        raise


def make_room(folder: Path, settings: dict[str, str]) -> Path | None:
    """Put the checkpoints of an earlier run of the same experiment into `before_N/`; returns that folder.

    Raises:
        ValueError: they are of another experiment.
    """
    there = sorted([*folder.glob("*.pth"), *folder.glob("report.json"), *folder.glob(CONFIG)])
    if not any(path.suffix == ".pth" for path in there):
        return None
    if not same_experiment(folder / LAST, settings):
        raise ValueError(
            f"{folder} holds the checkpoints of another run: --resume goes on with that run, "
            "--work-dir FOLDER puts this one elsewhere"
        )
    number = 1 + sum(1 for _ in folder.glob("before_*"))
    kept = folder / f"before_{number}"
    kept.mkdir()
    for path in there:
        path.rename(kept / path.name)
    print_log(f"{folder} held an earlier run of this experiment: its files are now in {kept}", logger="current")
    return kept


def same_experiment(checkpoint: Path, settings: dict[str, str]) -> bool:
    """Return whether a checkpoint is of a run with the same settings."""
    try:
        kept = read(checkpoint)["meta"].get("settings")
    except ValueError:
        return False
    return kept is not None and not changes(kept, settings)
