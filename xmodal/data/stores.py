"""Open files wherever they are: on this machine, in a tar (`data/shard-00000.tar/class/film.mp4`), in a store.

This is the one door through which data sets read files. Stores are those of fsspec (`fetch.py`); tars are uncompressed
and have an index (`tars.py`).
"""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import BinaryIO, cast

from xmodal.data import fetch, tars, walk
from xmodal.data.fetch import is_url
from xmodal.data.trouble import regular_file, retried
from xmodal.data.walk import LeftOut

_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
Name = str | os.PathLike  # of a file
Place = str | os.PathLike | Sequence[str]  # of a root


def is_plain(path: Name) -> bool:
    """Return whether a path is one of this machine's file system, and in no tar."""
    return not is_url(path) and tars.split(path) is None


def open_file(path: Name) -> BinaryIO:
    """Open a file for reading at any position.

    Raises:
        NotAFileError: a folder, FIFO or device.
        FileNotFoundError: no such file, or member of a tar.
        TroubleError: a store fails, or a tar does not fit its index.
    """
    member = tars.split(path)
    if member is not None:
        return tars.open_member(*member)
    if is_url(path):
        return fetch.open_piece(fetch.whole(str(path)))
    regular_file(path)
    return cast(BinaryIO, open(os.path.abspath(path), "rb", buffering=0))


def identity(path: Name) -> tuple:
    """Return what tells the content of a file from another: it changes when the file does."""
    member = tars.split(path)
    if member is not None:
        found = tars.find(*member)
        return str(path), found.size, found.crc
    if is_url(path):
        return str(path), *fetch.version_of(str(path))
    status = os.stat(path)
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


@contextmanager
def local_file(path: Name) -> Iterator[Path]:
    """Give the path of a file on this machine with the same content and ending, for libraries that want one."""
    if is_plain(path):
        yield Path(path)
        return
    with open_file(path) as file, fetch.as_file(file, os.path.splitext(os.fspath(path))[1]) as copy:
        yield copy


def exists(path: Name) -> bool:
    """Return whether a file or folder is there."""
    member = tars.split(path)
    if member is not None:
        return tars.index_of(member[0]).find(member[1]) is not None or is_folder(path)
    if is_url(path):
        with suppress(FileNotFoundError):
            return bool(retried(lambda: fetch.version_of(str(path))))
        return False
    return os.path.exists(path)


def is_folder(path: Name) -> bool:
    """Return whether a path leads to a folder of this machine, of a tar or of a store."""
    member = tars.split(path)
    if member is not None:
        return bool(tars.index_of(member[0]).below(member[1]))
    if is_url(path):
        return retried(lambda: fetch.ask(str(path), lambda system, inner: bool(system.isdir(inner))))
    return os.path.isdir(path)


def names_in(folder: Name) -> list[str]:
    """Return the names of what lies directly in a folder of this machine, of a tar or of a store."""
    member = tars.split(folder)
    if member is not None:
        return list(dict.fromkeys(name.partition("/")[0] for name in tars.index_of(member[0]).below(member[1])))
    if is_url(folder):
        url = str(folder).rstrip("/")
        found = fetch.ask(url, lambda system, inner: system.ls(inner, detail=False))
        return [str(path).rstrip("/").rpartition("/")[2] for path in found]
    return os.listdir(folder)


def absolute(path: str) -> str:
    """Return a path from the root of the file system on, or a URL as it is."""
    return path if is_url(path) else os.path.abspath(path)


class Stored:
    """A folder of a store, or tars as one folder: the root of a data set.

    Args:
        name: as the user gave it.
    """

    def __init__(self, name: str):
        self.name = name

    def __str__(self) -> str:
        return self.name

    def __fspath__(self) -> str:
        return self.name

    def __truediv__(self, name: str) -> str:
        """Return the path of a file below the root."""
        return name if is_url(name) else f"{self.name.rstrip('/')}/{name}"

    def exists(self) -> bool:
        """Return True: what is not there shows when it is read."""
        return True

    def is_dir(self) -> bool:
        """Return True: tars and stores are roots as folders are."""
        return True

    def files(self) -> dict[str, str]:
        """Return the paths of all files by their names below the root, in order."""
        return {name: self / name for name in retried(lambda: fetch.names_below(self.name))}

    def chosen(self, endings: tuple[str, ...], left_out: LeftOut) -> Iterator[tuple[str, str]]:
        """Yield path and name of the files that have one of the endings and are not hidden."""
        for name, path in self.files().items():
            ending = os.path.splitext(name)[1].lower()
            if any(part.startswith(".") for part in name.split("/")):
                continue
            if ending in endings:
                yield path, name
            else:
                left_out.add(path, ending)

    def below(self, endings: tuple[str, ...], left_out: LeftOut) -> Iterator[str]:
        """Yield the paths of the files that have one of the endings; see `walk.files_below`."""
        return (path for path, _ in self.chosen(endings, left_out))

    def class_folders(self, endings: tuple[str, ...], left_out: LeftOut) -> dict[str, list[tuple[str, str]]]:
        """Find the files in each folder; see `walk.class_folders`."""
        found: dict[str, list[tuple[str, str]]] = {}
        for path, name in self.chosen(endings, left_out):
            folder, inner, _ = name.partition("/")
            if inner:
                found.setdefault(folder, []).append((path, name))
            else:
                left_out.add(path, os.path.splitext(name)[1].lower())
        return {folder: found[folder] for folder in sorted(found)}


class Tars(Stored):
    """Tars whose members are files below one root.

    Raises:
        ValueError: no such tar, or two of them have a member of one name.
        ShardError: see `TarIndex`.
    """

    def __init__(self, name: str, paths: Sequence[str]):
        super().__init__(name)
        self.paths, self._where = list(paths), dict[str, str]()
        for path in self.paths:
            for member in retried(partial(_members, path)):
                first = self._where.setdefault(member.name, path)
                if first != path:
                    raise ValueError(
                        f"{first} and {path} both have a member {member.name!r}: give the tars one by one, or pack anew"
                    )

    def __truediv__(self, name: str) -> str:
        """Return the path of a member or of a folder of members.

        Raises:
            ValueError: a folder whose members are in several tars.
        """
        plain = os.path.normpath(name)
        if is_url(name) or plain in self._where:
            return name if is_url(name) else f"{self._where[plain]}/{plain}"
        found = [path for path in self.paths if tars.index_of(path).below(plain)]
        if len(found) > 1:
            raise ValueError(f"the files of {name} are in {len(found)} tars, {found[0]} and {found[1]}: pack them anew")
        return f"{(found or self.paths)[0]}/{plain}"

    def files(self) -> dict[str, str]:
        """Return the paths of all members by their names, in order."""
        return {name: f"{self._where[name]}/{name}" for name in sorted(self._where)}


def _members(path: str) -> list[tars.Member]:
    return list(tars.TarIndex(path).members())


def root_of(root: Place) -> Path | Stored:
    """Return the root of a data set.

    Args:
        root: a folder; a tar, a pattern of tars (`data/shard-*.tar`, `shard-{00000..00099}.tar`) or a list of them; or
            either in a store (`s3://bucket/folder`).

    Raises:
        ValueError: see `Tars`.
        ShardError: a tar is not there, or does not fit its index.
    """
    names = [os.fspath(root)] if isinstance(root, str | os.PathLike) else [os.fspath(name) for name in root]
    if all(name.endswith(".tar") and (is_url(name) or not os.path.isdir(name)) for name in names):
        paths = [path for name in names for path in shards_of(name)]
        return Tars(names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more", paths)
    if len(names) > 1:
        raise ValueError(f"several roots, {names[0]} and {len(names) - 1} more, of which one is no .tar")
    return Stored(names[0].rstrip("/")) if is_url(names[0]) else Path(names[0])


def shards_of(name: str) -> list[str]:
    """Return the tars of a name: itself, those of a range in braces, or those that a pattern matches.

    Raises:
        ValueError: a pattern matches none.
    """
    span = _RANGE.search(name)
    if span is not None:
        width, last = len(span[1]), int(span[2])
        numbers = (f"{number:0{width}d}" for number in range(int(span[1]), last + 1))
        return [part for n in numbers for part in shards_of(f"{name[: span.start()]}{n}{name[span.end() :]}")]
    if not any(sign in name for sign in "*?["):
        return [name]
    folder, _, pattern = name.rpartition("/")
    if is_url(name):
        found = retried(
            lambda: fetch.ask(name, lambda system, inner: [system.unstrip_protocol(p) for p in system.glob(inner)])
        )
    else:
        found = [str(path) for path in Path(folder or ".").glob(pattern)]
    if not found:
        raise ValueError(f"no tar is called {name}")
    return sorted(found)


def under(root: Path | Stored, name: str) -> str:
    """Return the path of a file below a root; an absolute path, or a URL, is one by itself."""
    if isinstance(root, Stored):
        return root / name
    return name if is_url(name) else os.path.join(root, name)


def files_below(root: Path | Stored, endings: tuple[str, ...], left_out: LeftOut) -> Iterator[str]:
    """Yield the paths of the files below a root that have one of the endings; see `walk.files_below`."""
    return root.below(endings, left_out) if isinstance(root, Stored) else walk.files_below(root, endings, left_out)


def class_folders(
    root: Path | Stored, endings: tuple[str, ...], left_out: LeftOut,
    folders: Callable[[Path], Iterable[str]] | None = None,
) -> dict[str, list[tuple[str, str]]]:  # fmt: skip
    """Find the files in each folder of a root; see `walk.class_folders`."""
    if isinstance(root, Stored):
        return root.class_folders(endings, left_out)
    return walk.class_folders(root, endings, left_out, folders)
