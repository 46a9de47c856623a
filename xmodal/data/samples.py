"""Hold the samples of a large set in a few tensors, which worker processes share instead of copying.

A million `Sample` objects take 500 MB, are pickled to every worker that is spawned, and are copied page by page into
every worker that is forked, because reading an object counts its references. The bytes of a tensor are only read, and
are handed to spawned workers as shared memory.
"""

from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

import torch
from torch import Tensor

NO_LABEL = -1
ENCODING = ("utf-8", "surrogateescape")  # names of any bytes come through
CHUNK = 4096  # samples made at once where all are gone through


@dataclass(frozen=True)
class Sample:
    """One file of a set: its path, class (-1 for none), name in reports, and all its classes in a multi-label set."""

    path: str
    label: int
    sample_id: str
    labels: tuple[int, ...] | None = None

    @classmethod
    def several(cls, path: str, labels: Iterable[int], sample_id: str) -> "Sample":
        """Return a sample of a multi-label set."""
        found = tuple(sorted(set(labels)))
        return cls(path, found[0] if found else NO_LABEL, sample_id, found)


class Samples(Sequence[Sample]):
    """Samples in the order of their annotation; each is made when it is asked for.

    Args:
        samples: what to hold.

    Attributes:
        label: class of each (N,), the lowest in a multi-label set, -1 for none.
        multilabel: whether any has several classes, or may have.
    """

    def __init__(self, samples: Iterable[Sample]) -> None:
        text, ends, cuts = bytearray(), array("q", [0]), array("i")
        label, classes, last = array("q"), array("q"), array("q", [0])
        several = array("b")
        for sample in samples:
            path, name = sample.path.encode(*ENCODING), sample.sample_id.encode(*ENCODING)
            inside = path.endswith(name)  # of most sets the name is the end of the path
            text += path if inside else path + name
            ends.append(len(text))
            cuts.extend((len(path), len(path) - len(name) * inside))
            label.append(sample.label)
            several.append(sample.labels is not None)
            classes.extend(sample.labels or ())
            last.append(len(classes))
        self._text, self._ends, self._cuts = _tensor(text), _tensor(ends), _tensor(cuts).view(-1, 2)
        self.label, self._classes, self._last = _tensor(label), _tensor(classes), _tensor(last)
        self._several = _tensor(several).bool()
        self.multilabel = bool(self._several.any())

    @classmethod
    def of(cls, samples: Iterable[Sample]) -> "Samples":
        """Return samples in this form; those that have it already as they are."""
        return samples if isinstance(samples, cls) else cls(samples)

    def __len__(self) -> int:
        return len(self.label)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        at = range(len(self))[index]
        return self._run(at, at + 1)[0]

    def __iter__(self) -> Iterator[Sample]:
        for at in range(0, len(self), CHUNK):
            yield from self._run(at, min(at + CHUNK, len(self)))

    def _run(self, start: int, stop: int) -> list[Sample]:
        """Make the samples from one index to another."""
        label, names = self.label[start:stop].tolist(), self.names(start, stop)
        labels = [self._labels(at) for at in range(start, stop)] if self.multilabel else [None] * (stop - start)
        return [Sample(path, one, name, many) for (path, name), one, many in zip(names, label, labels, strict=True)]

    def names(self, start: int, stop: int) -> list[tuple[str, str]]:
        """Return path and sample_id of the samples from one index to another."""
        ends = self._ends[start : stop + 1].tolist()
        text = self._text[ends[0] : ends[-1]].numpy().tobytes()
        found = []
        for low, high, (path, name) in zip(ends, ends[1:], self._cuts[start:stop].tolist(), strict=False):
            own = text[low - ends[0] : high - ends[0]]
            found.append((own[:path].decode(*ENCODING), own[name:].decode(*ENCODING)))
        return found

    def _labels(self, at: int) -> tuple[int, ...] | None:
        return tuple(self._classes[self._last[at] : self._last[at + 1]].tolist()) if self._several[at] else None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(Sample.__eq__, self, other))

    __hash__ = None  # type: ignore[assignment]

    def labels(self) -> list[Any]:
        """Return the class of each, in a multi-label set the tuple of its classes."""
        if not self.multilabel:
            return self.label.tolist()
        return [sample.label if sample.labels is None else sample.labels for sample in self]

    @property
    def unlabeled(self) -> bool:
        """Return whether any has no label at all; in a multi-label set, no class is one."""
        return bool(((self.label == NO_LABEL) & ~self._several).any())

    @property
    def num_classes(self) -> int:
        """Return the largest class plus one."""
        found = torch.cat([self.label, self._classes])
        return 1 + int(found.max()) if len(found) else 0

    def renumbered(self, new: Sequence[int]) -> "Samples":
        """Return the samples with class k called new[k]."""
        change: Callable[[int], int] = new.__getitem__
        return Samples(
            Sample(
                s.path,
                change(s.label) if s.label >= 0 else s.label,
                s.sample_id,
                None if s.labels is None else tuple(sorted(map(change, s.labels))),
            )
            for s in self
        )


class Paths(Sequence[str]):
    """The paths of samples, made when they are asked for."""

    def __init__(self, samples: Samples) -> None:
        self._samples = samples

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: Any) -> Any:
        found = self._samples[index]
        return [s.path for s in found] if isinstance(found, list) else found.path

    def __iter__(self) -> Iterator[str]:
        for at in range(0, len(self), CHUNK):
            yield from (path for path, _ in self._samples.names(at, min(at + CHUNK, len(self))))


def _tensor(values: array | bytearray) -> Tensor:
    kind = {"q": torch.int64, "i": torch.int32, "b": torch.int8}
    dtype = kind[values.typecode] if isinstance(values, array) else torch.uint8
    return torch.frombuffer(values, dtype=dtype).clone() if len(values) else torch.empty(0, dtype=dtype)
