"""Samplers whose order depends only on (seed, epoch, position), so that training can resume at any step."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from torch.utils.data import Sampler


def order_of(size: int, seed: int, epoch: int, shuffle: bool = True, chances: np.ndarray | None = None) -> np.ndarray:
    """Return the order (size,) of the samples in one epoch, the same on every rank.

    With `chances` (size,), samples are drawn by them, with replacement.
    """
    if chances is not None:
        return np.random.default_rng([seed, epoch]).choice(size, size, p=chances)
    return np.random.default_rng([seed, epoch]).permutation(size) if shuffle else np.arange(size)


def balanced_chances(labels: Sequence[int | Sequence[int]]) -> np.ndarray:
    """Return the chance (N,) of each sample that makes all classes equally frequent.

    A sample of several classes counts for its rarest one, and one of none as often as the average sample.

    Raises:
        ValueError: no labels.
    """
    several = [[y] if isinstance(y, int | np.integer) else list(y) for y in labels]
    counts = Counter(y for each in several for y in each)
    if not counts:
        raise ValueError("balanced sampling needs labels, and the training data set has none")
    weights = np.asarray([max((1 / counts[y] for y in each), default=np.nan) for each in several])
    weights = np.where(np.isnan(weights), np.nanmean(weights), weights)
    return weights / weights.sum()


class EpochSampler(Sampler[tuple[int, int]]):
    """Yield keys (epoch, index) of one epoch; the order wraps around so that every rank gets equally many.

    Args:
        size: samples in the data set.
        seed: of the orders.
        rank: of this process.
        world: number of processes.
        shuffle: False keeps the list's order.
        chances: of the samples, where they are drawn by chance; see `balanced_chances`.
    """

    def __init__(
        self, size: int, seed: int = 0, rank: int = 0, world: int = 1, shuffle: bool = True,
        chances: np.ndarray | None = None,
    ):  # fmt: skip
        self.chances = chances
        if size < 1:
            raise ValueError("the training data set is empty")
        self.size, self.seed, self.rank, self.world, self.shuffle = size, seed, rank, world, shuffle
        self.seek(0, 0)

    def seek(self, epoch: int, start: int = 0) -> None:
        """Go to an epoch and leave out the first `start` samples of this rank, which are never touched."""
        self.epoch, self.start = epoch, start

    def __len__(self) -> int:
        return -(-self.size // self.world)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = np.resize(
            order_of(self.size, self.seed, self.epoch, self.shuffle, self.chances), len(self) * self.world
        )
        for index in order[self.rank :: self.world][self.start :]:
            yield self.epoch, int(index)


class StreamSampler(EpochSampler):
    """Yield keys (epoch, index) of a run counted in steps: epochs follow each other and batches may span two.

    Its position is `start` alone: the epoch that `seek` is given is not used.

    Args:
        size: samples in the data set.
        total: samples that this rank takes in the whole run.
        options: further arguments of `EpochSampler`.
    """

    def __init__(self, size: int, total: int, *options: Any, **named: Any):
        super().__init__(size, *options, **named)
        self.total = total

    def __len__(self) -> int:
        return self.total

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order, drawn = np.empty(0), -1
        for mine in range(self.start, self.total):
            epoch, at = divmod(mine * self.world + self.rank, self.size)
            if epoch != drawn:
                order, drawn = order_of(self.size, self.seed, epoch, self.shuffle, self.chances), epoch
            yield epoch, int(order[at])


class EvalSampler(Sampler[int]):
    """Yield indices rank, rank + world, ...: every sample once over all ranks, without padding."""

    def __init__(self, size: int, rank: int = 0, world: int = 1):
        self.indices = range(rank, size, world)

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[int]:
        return iter(self.indices)
