"""Features that are computed once: kept in memory, and on disk where several runs or processes share them."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from xmodal.atomic import replacing
from xmodal.torch_files import read_torch

Features = dict[int, Tensor]


class FeatureBank:
    """Keep features of samples by index under names that say what they depend on.

    Args:
        folder: where they are kept between runs; None keeps them in memory alone.
    """

    def __init__(self, folder: str | Path | None = None):
        self.folder = None if folder is None else Path(folder)
        self.kept: dict[str, Features] = {}

    def file(self, name: str) -> Path | None:
        """The file of a name."""
        return None if self.folder is None else self.folder / f"{name}.pt"

    def get(
        self,
        name: str,
        rows: Sequence[int],
        compute: Callable[[list[int]], Tensor],
        batch_size: int = 128,
        trust: Callable[[], bool] = lambda: True,
    ) -> Tensor:
        """Features (N, D) of samples; missing ones are computed, while other processes that want them wait.

        Args:
            name: a hash or words that change with encoder, preprocessing and samples.
            rows: indices of the samples.
            compute: from some indices to their features.
            batch_size: indices that `compute` gets at once.
            trust: asked afterwards; False keeps nothing on disk (something could not be read).
        """
        kept = self.kept.setdefault(name, {})
        if not kept.keys() >= set(rows):
            path = self.file(name)
            with locked(path):
                kept.update(read_features(path))
                missing = torch.tensor(sorted(set(rows) - kept.keys()), dtype=torch.long)
                for part in missing.split(batch_size) if len(missing) else ():
                    kept.update(zip(part.tolist(), compute(part.tolist()), strict=True))
                if path is not None and len(missing) and trust():
                    content = {
                        "index": torch.tensor(sorted(kept)),
                        "feature": torch.stack([kept[i] for i in sorted(kept)]),
                    }
                    with replacing(path) as file:
                        torch.save(content, file)
        return torch.stack([kept[i] for i in rows])


def read_features(path: Path | None) -> Features:
    """Features by sample index that a bank wrote; none where there is no file."""
    if path is None or not path.exists():
        return {}
    content = read_torch(path)
    return dict(zip(content["index"].tolist(), content["feature"], strict=True))


@contextlib.contextmanager
def locked(path: Path | None) -> Iterator[None]:
    """Keep other processes from computing the same file (where the system has `fcntl`)."""
    if path is None:
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.with_suffix(".lock"), "w") as file:
        with contextlib.suppress(ImportError):
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        yield
