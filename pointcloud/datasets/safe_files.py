"""Reading the files of released data sets without running what may be pickled in them, and writing atomically."""

import hashlib
import importlib
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from tqdm import tqdm

from xmodal.atomic import replacing
from xmodal.data.pools import process_pool
from xmodal.data.trouble import regular_file

_ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy._core.numeric", "_frombuffer"),
    ("numpy.core.numeric", "_frombuffer"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("collections", "OrderedDict"),
    ("_codecs", "encode"),
}


class ArraysOnly(pickle.Unpickler):
    """An unpickler that knows numpy arrays and plain containers, and refuses everything else."""

    def find_class(self, module: str, name: str) -> Any:
        """Return what arrays are made of.

        Raises:
            ValueError: the file asks for anything else.
        """
        if (module, name) not in _ALLOWED:
            raise ValueError(f"the pickle asks for {module}.{name}; only numpy arrays and plain containers are read")
        return super().find_class(module, name)


def load_pickle(path: str | Path) -> Any:
    """Arrays and plain containers from a pickle, Python 2's included.

    Raises:
        ValueError: the file holds something else, or is no pickle.
    """
    regular_file(path)
    with open(path, "rb") as file:
        try:
            return ArraysOnly(file, encoding="latin1").load()
        except (pickle.UnpicklingError, EOFError, AttributeError) as error:
            raise ValueError(f"{path} is not a readable pickle: {error}") from error


def load_objects(path: str | Path) -> Any:
    """Arrays and plain containers from an `.npy` file that holds objects.

    Raises:
        ValueError: the file holds something else, or is not whole.
    """
    regular_file(path)
    try:
        return np.load(path, allow_pickle=False)
    except ValueError:
        pass  # objects
    with open(path, "rb") as file:
        try:
            version = np.lib.format.read_magic(file)
            header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            header(file)
            found = ArraysOnly(file, encoding="latin1").load()
        except (pickle.UnpicklingError, EOFError, AttributeError) as error:
            raise ValueError(f"{path} is not a readable .npy file: {error}") from error
    return found.item() if isinstance(found, np.ndarray) and found.ndim == 0 else found


def load_pth(path: str | Path) -> Any:
    """Tensors and arrays from a `.pth` file, as numpy arrays where they were.

    Raises:
        ValueError: the file holds something else, or is not whole.
    """
    import torch

    regular_file(path)
    core = "numpy._core" if np.lib.NumpyVersion(np.__version__) >= "2.0.0" else "numpy.core"
    multiarray = importlib.import_module(f"{core}.multiarray")
    types = [type(np.dtype(t)) for t in (np.float32, np.float64, np.int64, np.int32, np.int16, np.uint8, np.bool_)]
    known = [multiarray._reconstruct, np.ndarray, np.dtype, *types]
    try:
        with torch.serialization.safe_globals(known):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(f"{path} holds more than arrays: {str(error).splitlines()[0]}") from error
    except RuntimeError as error:
        raise ValueError(f"{path} is not whole: {str(error).splitlines()[0]}") from error


def content_key(source: str | Path, *more: Any) -> str:
    """A name for what a file holds and how it is processed; another content, another name."""
    digest = hashlib.sha256(repr(more).encode())
    regular_file(source)
    with open(source, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def cached(
    folder: str | Path | None, source: str | Path, make: Callable[[], dict], *more: Any
) -> dict[str, np.ndarray]:
    """Return what `make` returns for a file, cached in a folder under a hash of the file's content.

    Args:
        folder: of the cache; None caches nothing.
        source: the file that it is made of.
        make: returns arrays by name.
        *more: whatever else the result depends on.

    Returns:
        The arrays; a damaged cache file is made again.
    """
    if folder is None:
        return make()
    path = Path(folder) / f"{content_key(source, *more)[:32]}.npz"
    if path.exists():
        try:
            with np.load(path, allow_pickle=False) as found:
                return dict(found)
        except (ValueError, OSError, EOFError, KeyError, BadZipFile):
            path.unlink(missing_ok=True)
    made = make()
    with replacing(path) as file:
        np.savez(file, **made)
    return made


def convert_all(
    convert: Callable[[Any], str | None], jobs: list, workers: int, unit: str, there: int, skipped: str | None = None
) -> int:
    """Convert the files of a release in several processes, and say what became of them.

    Args:
        convert: writes one of them; returns what went wrong, or None.
        jobs: its arguments.
        workers: processes.
        unit: such as `rooms`.
        there: how many had been written before.
        skipped: ending of what `convert` returns for a file that is left out on purpose: counted, not listed.

    Returns:
        The exit status: 1 when some could not be read, 130 when interrupted.
    """
    problems: list[str] = []
    done = 0
    try:
        with process_pool(workers) as pool:
            for problem in tqdm(pool.map(convert, jobs, chunksize=4), total=len(jobs), desc=unit, disable=None):
                problems += [problem] if problem else []
                done += 1
    except KeyboardInterrupt:
        print(f"stopped; {done} of {len(jobs)} {unit} were looked at, the same command goes on")
        return 130
    left_out = [p for p in problems if skipped and p.endswith(skipped)]
    written, problems = len(jobs) - len(problems), [p for p in problems if p not in left_out]
    print(f"{written} {unit} written, {there} were there, {len(problems)} failed")
    if left_out:
        print(f"{len(left_out)} {unit} left out: {skipped}")
    print("\n".join(problems))
    return int(bool(problems))
