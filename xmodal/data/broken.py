"""Base class of data sets of files: unreadable files are logged, replaced in training or skipped in testing."""

import logging
import os
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import zip_longest
from typing import Any, ClassVar

import numpy as np
import torch
from torch.utils.data import Dataset

from xmodal.data.class_names import index_of, look_up
from xmodal.data.samples import Paths, Sample, Samples
from xmodal.data.trouble import TroubleError, out_of_memory, retried, trouble_of, words_of
from xmodal.data.walk import printable

log = logging.getLogger("xmodal.data")
ALWAYS_ALLOWED = 5  # broken files, however small the set
ATTEMPTS = 50  # replacements tried for one training sample


class TooManyBrokenFilesError(RuntimeError):
    """Raised when more files of a set are unreadable than its `max_broken` allows."""


class _UnreadableError(Exception):
    """Raised when a file is at fault; its message is the reason."""


class FileDataset(Dataset):
    """Data set of files of which a share up to `max_broken` may be unreadable; subclasses read one file.

    A file that cannot be read is logged once with its reason. In training another one, drawn from (seed, epoch, index),
    takes its place; in testing the item is `skipped` and `reason`. Past `max_broken` the run stops. Trouble of the
    machine or its storage (`xmodal.data.trouble`), the files' folder being away included, is waited for and then stops
    the run; it never counts against a file.

    Attributes:
        noun: what one of them is, in messages.
        damage: the exception that says that a file cannot be read.
        advice: what to do about many of them.

    Args:
        names: of the files, in order.
        source: where the list comes from.
        test_mode: skip instead of replacing.
        seed: of everything random.
        max_broken: share of unreadable files that stops a run; five files are always allowed.
    """

    noun: ClassVar[str] = "file"
    damage: ClassVar[type[Exception]] = OSError
    advice: ClassVar[str] = "mend or remove them, or raise max_broken"

    def __init__(self, names: Sequence[str], source: str, test_mode: bool, seed: int, max_broken: float) -> None:
        self.file_names, self.source, self.test_mode = names, source, test_mode
        self.seed, self.max_broken = seed, max_broken
        self._home = home_of(names)
        # One flag per file, seen by all workers of all epochs: idempotent, so no lock is needed.
        self._broken = torch.zeros(len(names), dtype=torch.bool).share_memory_()

    def train_item(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        """Read one file for training; raises `damage` when it cannot be read."""
        raise NotImplementedError

    def test_item(self, index: int) -> dict[str, Any]:
        """Read one file for testing; raises `damage` when it cannot be read."""
        raise NotImplementedError

    def sample_id(self, index: int) -> str:
        """Return a file's name in reports."""
        return self.file_names[index]

    def reason(self, error: Exception) -> str:
        """Say why a file cannot be read."""
        return str(error)

    def __len__(self) -> int:
        return len(self.file_names)

    def adopt_classes(self, names: Sequence[str]) -> None:
        """Number the classes as another set does; here, only make sure that they are numbered so.

        Raises:
            ValueError: other names, or another order.
        """
        own = getattr(self, "classes", None)
        if own and list(map(str, own)) != list(names):
            odd = next((a, b) for a, b in zip_longest(map(str, own), names) if a != b)
            raise ValueError(
                f"{self.source} has the class {odd[0]!r} where training has {odd[1]!r}: use its class list"
            )

    @property
    def broken(self) -> list[str]:
        """Return the files found unreadable so far, by any worker."""
        return [self.file_names[i] for i in self._broken.nonzero().flatten().tolist()]

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        """Return the item of an index, or of (epoch, index); everything random depends on the epoch."""
        epoch, index = key if isinstance(key, tuple) else (0, key)
        if not 0 <= index < len(self):
            raise IndexError(f"{self.source} has {self.noun}s 0 to {len(self) - 1}, asked for {index}")
        if not self.test_mode:
            return self._replaced(epoch, index)
        try:
            return self._sound(lambda: self.test_item(index))
        except _UnreadableError as error:
            self._note(index, str(error))
            return {"skipped": self.sample_id(index), "reason": str(error)}

    def _sound(self, read: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Read an item, waiting while the machine is in trouble; `_UnreadableError`: the file is at fault."""

        def once() -> dict[str, Any]:
            try:
                return read()
            except TroubleError:
                raise
            except Exception as error:
                if trouble := trouble_of(error):
                    raise TroubleError(f"{trouble}; the machine or its storage is at fault, not a file") from error
                if out_of_memory(error):
                    raise _UnreadableError(words_of(error)) from error
                if not isinstance(error, self.damage):
                    raise
                if self._home and not has_entries(self._home):
                    raise TroubleError(f"{self._home}: the folder of the {self.noun}s is away or empty") from error
                raise _UnreadableError(self.reason(error)) from error

        return retried(once)

    def _replaced(self, epoch: int, index: int) -> dict[str, Any]:
        replacements = np.random.default_rng([self.seed, epoch, index, 1])
        for _ in range(ATTEMPTS):
            if not self._broken[index]:
                try:
                    return self._sound(partial(self._train_item, epoch, index))
                except _UnreadableError as error:
                    self._note(index, str(error))
            index = int(replacements.integers(len(self)))
        raise TooManyBrokenFilesError(
            f"{self.source}: {ATTEMPTS} {self.noun}s drawn in a row cannot be read; {self.advice}"
        )

    def _train_item(self, epoch: int, index: int) -> dict[str, Any]:
        return self.train_item(index, np.random.default_rng([self.seed, epoch, index]))

    def _note(self, index: int, reason: str) -> None:
        name = printable(self.file_names[index])
        if not self._broken[index]:
            log.warning("unreadable %s %s: %s", self.noun, name, reason)
        self._broken[index] = True
        count, allowed = int(self._broken.sum()), max(self.max_broken * len(self), ALWAYS_ALLOWED)
        if count > allowed:
            raise TooManyBrokenFilesError(
                f"{count} of {len(self)} {self.noun}s of {self.source} cannot be read, the last is {name} ({reason}); "
                f"max_broken={self.max_broken:g} allows {int(allowed)}: {self.advice}"
            )


def home_of(names: Iterable[str]) -> str:
    """Return the folder that holds all of the files; empty when there is none, or none yet."""
    folders = {os.path.dirname(name) for name in names}
    try:
        home = os.path.commonpath([os.path.abspath(folder) for folder in folders])
    except ValueError:
        return ""
    return home if has_entries(home) else ""


def has_entries(folder: str) -> bool:
    """Return whether a folder is there and holds anything; a share that is away leaves an empty one."""
    try:
        with os.scandir(folder) as entries:
            return any(True for _ in entries)
    except OSError:
        return False


def renumbered(own: Sequence[str], names: Sequence[str], source: str) -> list[int]:
    """Find for each class its index among the names of training.

    Raises:
        ValueError: a class that training does not have, naming it, or names that cannot be told apart.
    """
    own, names = list(map(str, own)), list(map(str, names))
    if own == names:
        return list(range(len(own)))
    if len(set(names)) < len(names):
        raise ValueError(f"{source} has other classes than training, where several have one name: give both one list")
    index = index_of(names)
    found = [look_up(name, index, f"{source}: training has other classes") for name in own]
    if sorted(found) == list(range(len(names))):
        log.warning("%s: the classes differ in their order from training's; labels are translated by name", source)
    return found


class LabeledFiles(FileDataset):
    """Files with one class each, or several in a multi-label set (`multilabel`): labels are 0/1 of every class then.

    `samples` have `path`, `label` (or `labels`) and `sample_id`; `classes` are names or None.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        classes: list[str] | None,
        source: str,
        test_mode: bool,
        seed: int,
        max_broken: float,
    ) -> None:
        self.samples, self.classes = Samples.of(samples), classes
        super().__init__(Paths(self.samples), source, test_mode, seed, max_broken)
        self.multilabel = self.samples.multilabel

    def label_of(self, sample: Sample) -> int | tuple[int, ...]:
        """Return a sample's class, in a multi-label set its classes; transforms get these."""
        return sample.label if sample.labels is None else sample.labels

    def target(self, label: int | tuple[int, ...]) -> int | torch.Tensor:
        """Return what an item holds: the class, in a multi-label set 0 or 1 of every class (K,)."""
        if isinstance(label, int):
            return label
        target = torch.zeros(self.num_classes)
        target[list(label)] = 1
        return target

    def adopt_classes(self, names: Sequence[str]) -> None:
        """Number the classes as another set does, by their names; a set without names keeps its numbers.

        Raises:
            ValueError: a class that is not among the names.
        """
        if self.classes is None:
            return
        new = renumbered(self.classes, names, self.source)
        self.samples, self.classes = self.samples.renumbered(new), list(names)
        self.file_names = Paths(self.samples)

    def sample_id(self, index: int) -> str:
        """Return the annotation's name of a file."""
        return self.samples[index].sample_id

    @property
    def labels(self) -> list[Any]:
        """Return the labels in order, tuples in a multi-label set."""
        return self.samples.labels()

    @property
    def num_classes(self) -> int:
        """Return the number of classes: of the names given, else the largest label plus one."""
        if self.classes:
            return len(self.classes)
        return self.samples.num_classes
