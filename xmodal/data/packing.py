"""Pack the files of a folder into uncompressed tars with an index each, and compare tars with their indexes."""

import hashlib
import io
import json
import os
import tarfile
import zlib
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

from xmodal.atomic import replacing, write_text
from xmodal.data.tars import ENDING, HEAD, Member, ShardError, TarIndex, check_head, crc_of, heads, index_text
from xmodal.data.walk import files_below, printable

PLAN = "pack.json"
TOGETHER = 1 / 8  # of a tar: files of one folder that take less are in one tar
Job = tuple[Path, list[tuple[str, str, int]]]  # a tar, and name, path and bytes of the files that it gets


def plan(source: Path, out: Path, limit: int) -> list[Job]:
    """Say which files come into which tar: in the order of their names, up to `limit` bytes a tar.

    The files of a small folder (`TOGETHER`) come into one tar.

    Args:
        source: a folder; hidden files are left out.
        out: folder of the tars.
        limit: bytes of files; a file that is larger gets a tar to itself.

    Raises:
        ValueError: there are no files, or `out` holds the tars of other files or settings.
    """
    names = sorted((os.path.relpath(path, source).replace(os.sep, "/"), path) for path in files_below(source, None))
    if not names:
        raise ValueError(f"{source} has no files to pack")
    digest, jobs, room = hashlib.sha256(), list[Job](), 0
    for _, group in groupby(names, key=lambda pair: os.path.dirname(pair[0])):
        files = []
        for name, path in group:
            status = os.stat(path)
            digest.update(repr((name, status.st_size, status.st_mtime_ns)).encode())
            files.append((name, path, status.st_size))
        total = sum(size for *_, size in files)
        together = total <= limit * TOGETHER  # such as the frames of a video
        for name, path, size in files:
            if not jobs or room < size or (together and room < total):
                jobs.append((out / f"shard-{len(jobs):05d}.tar", []))
                room = limit
            jobs[-1][1].append((name, path, size))
            room, total = room - size, total - size
    about = {"files": len(names), "shard_bytes": limit, "shards": len(jobs), "sha256": digest.hexdigest()}
    note = out / PLAN
    if note.exists() and (before := json.loads(note.read_text())) != about:
        odd = next(f"{key} was {before.get(key)}, is {about[key]}" for key in about if before.get(key) != about[key])
        raise ValueError(f"{out} holds tars of other files or settings ({odd}); choose another folder")
    write_text(note, json.dumps(about, indent=1))
    return jobs


class _Checked(io.RawIOBase):
    """Read a file and compute its CRC-32 on the way."""

    def __init__(self, file: Any):
        super().__init__()
        self.file, self.crc = file, 0

    def read(self, size: int = -1) -> bytes:
        """Read."""
        data = self.file.read(size)
        self.crc = zlib.crc32(data, self.crc)
        return data


def pack(job: Job) -> bool:
    """Write a tar and, behind it, its index, which marks it as complete; returns False where both are there.

    Raises:
        ValueError: a file has changed since the plan was made.
        ShardError: what was written cannot be read back.
    """
    path, files = job
    if Path(f"{path}{ENDING}").exists():
        TarIndex(str(path))
        return False
    members = []
    with replacing(path) as file, tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, source, size in files:
            members.append(add(tar, name, source, size))
    compare(str(path), members)
    with replacing(f"{path}{ENDING}") as file:
        file.write(index_text(str(path), path.stat().st_size, members))
    return True


def add(tar: tarfile.TarFile, name: str, source: str, size: int) -> Member:
    """Add a file to a tar; owner and time are left out, so that equal files make equal tars."""
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644
    with open(source, "rb") as file:
        data = _Checked(file)
        try:
            tar.addfile(info, data)
        except OSError as error:
            raise ValueError(f"{printable(source)} cannot be packed: {error}") from error
        if file.read(1):
            raise ValueError(f"{printable(source)} has grown while it was packed: the same command starts again")
    blocks = -(-size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
    return Member(name, tar.offset - blocks, size, data.crc)


def compare(tar: str, members: list[Member]) -> None:
    """Read the members of a tar and compare them with what is known of them.

    Raises:
        ShardError: the first that differs.
    """
    with open(tar, "rb") as file:
        for member in sorted(members, key=lambda m: m.offset):
            file.seek(member.offset - HEAD)
            check_head(file.read(HEAD), tar, member)
            if crc_of(file, member.size) != member.crc:
                raise ShardError(f"{tar}: {printable(member.name)} does not have the checksum of the index")


def check(tar: str) -> str:
    """Compare a tar with its index, bytes of all members included; returns what is wrong, or nothing."""
    try:
        compare(tar, list(TarIndex(tar).members()))
    except ShardError as error:
        return str(error)
    return ""


def make_index(tar: str) -> int:
    """Write the index of a tar; of members with the same name the last counts. Returns how many there are.

    Raises:
        ShardError: see `tars.heads`.
    """
    found = {}
    with open(tar, "rb") as file:
        for member in heads(tar):
            file.seek(member.offset)
            found[member.name] = replace(member, crc=crc_of(file, member.size))
    with replacing(f"{tar}{ENDING}") as out:
        out.write(index_text(tar, os.path.getsize(tar), list(found.values())))
    return len(found)
