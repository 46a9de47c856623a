"""Read files of `torch.save` and safetensors without running code, and say in one line what is wrong with one."""

import json
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import torch

OTHER = "a file of another kind"
PAGES = (b"<!doctype", b"<html", b"<?xml")


def read_torch(path: str | Path, what: str = "a file of torch.save") -> Any:
    """Load a file of `torch.save` to the CPU with `weights_only=True`, after comparing its checksums.

    Args:
        path: of the file.
        what: it should be, for messages.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a damaged file, a file of another kind, or one that holds more than tensors and plain values.
    """
    kind = kind_of(path)
    if kind == "zip":
        check_sums(path)
    elif kind != "pickle":
        raise ValueError(f"{path} is {kind}, not {what}")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL (\S+)", str(error))
        what = f" ({named.group(1)})" if named else ""
        raise ValueError(
            f"{path} does not open without running pickled code{what}, or is damaged: refused (weights_only)"
        ) from error
    except Exception as error:
        raise ValueError(f"{path} is damaged: {type(error).__name__}: {first_line(error)}") from error


def read_safetensors(path: str | Path) -> dict[str, torch.Tensor]:
    """Load a safetensors file to the CPU.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a damaged file or a file of another kind.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    kind = kind_of(path)
    try:
        return load_file(path)
    except (SafetensorError, ValueError, RuntimeError, OSError) as error:
        raise ValueError(
            f"{path} is {'damaged' if kind == OTHER else kind}, not a whole safetensors file ({first_line(error)})"
        ) from error


def read_shards(index: str | Path) -> dict[str, torch.Tensor]:
    """Load the files that an index of Hugging Face (`model.safetensors.index.json`) names.

    Raises:
        FileNotFoundError: one of the files is missing.
        ValueError: no such index, or files without the tensors that it promises.
    """
    index = Path(index)
    try:
        files = json.loads(index.read_text())["weight_map"]
        names = sorted({Path(name).name for name in files.values()})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{index} is no index of weights: no object `weight_map` of names and files") from error
    state: dict[str, torch.Tensor] = {}
    for name in names:
        path = index.with_name(name)
        if not path.is_file():
            raise FileNotFoundError(f"{index} names {name}, which is not beside it: {len(names)} files belong together")
        state |= read_weights(path)
    lost = [key for key in files if key not in state]
    if lost:
        raise ValueError(f"{index} promises {lost[0]} in {files[lost[0]]}, which does not hold it: another download")
    return state


def read_weights(path: str | Path) -> Any:
    """Load a file of weights by its ending: `.safetensors`, or of `torch.save`; raises what those readers do."""
    return read_safetensors(path) if str(path).endswith(".safetensors") else read_torch(path)


def kind_of(path: str | Path) -> str:
    """Return what a file is by its first bytes: `zip`, `pickle` (or raw bytes), or words for a message.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a folder, a pipe or a device, or a file that cannot be opened.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no file at {str(path)!r}")
    if not path.is_file():
        raise ValueError(f"{path} is no regular file")
    try:
        with open(path, "rb") as file:
            head = file.read(512)
    except OSError as error:
        raise ValueError(f"{path} cannot be opened: {error.strerror}") from error
    if not head:
        return "empty"
    if head.lstrip().lower().startswith(PAGES):
        return "a web page (a download that asked for a login, perhaps)"
    if head.startswith(b"version https://git-lfs"):
        return "a pointer of git-lfs: run `git lfs pull`"
    if head.startswith(b"PK"):
        return "zip"
    return "pickle" if head.startswith(b"\x80") else OTHER


def check_sums(path: str | Path) -> None:
    """Compare the checksum of every part of a zip archive.

    Raises:
        ValueError: a part that differs, or an archive that is cut short.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
    except Exception as error:  # zipfile and zlib raise a dozen kinds on damaged archives
        raise ValueError(f"{path} is damaged or cut short ({first_line(error)})") from error
    if bad is not None:
        raise ValueError(f"{path} is damaged: the checksum of {bad} does not agree")


def first_line(error: Exception) -> str:
    """Return the first line of an error's message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
