"""Action recognition on video files."""

import logging
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from video.augment import RandAugment  # noqa: F401 - registers "rand_augment"
from video.decode import VideoError, VideoFile
from video.lists import Sample, read_listing
from video.sampling import DenseSampling, UniformSampling
from video.transforms import TestCrops
from xmodal.registry import DATASETS, TRANSFORMS, build

log = logging.getLogger("xmodal.video")
_ALWAYS_ALLOWED = 5  # broken files, however small the set
_ATTEMPTS = 50  # replacements tried for one training sample


def read_views(
    path: str | os.PathLike,
    sampling: DenseSampling | UniformSampling,
    crops: TestCrops,
    temporal_views: int = 1,
    short_side: int | None = None,
) -> Tensor:
    """Read a film as it is evaluated.

    Args:
        path: the film.
        sampling: which frames a view shows.
        crops: how views are cut.
        temporal_views: views along time.
        short_side: shrink frames to this short side right after decoding.

    Returns:
        (V, T, 3, S, S) float32 of 0 to 255, RGB, not normalised; spatial crops outermost.

    Raises:
        VideoError: a film that cannot be read.
    """
    with VideoFile(path) as film:
        views = sampling.test(film.num_frames, temporal_views)  # (V, T)
        unique, rows = np.unique(views, return_inverse=True)
        frames = _frames(film, unique, short_side)  # (N, 3, H, W)
    return crops(frames, rows.reshape(views.shape))


def _frames(film: VideoFile, indices: np.ndarray, short_side: int | None) -> Tensor:
    frames = torch.from_numpy(film.read(indices, short_side))  # (T, H, W, 3)
    return frames.permute(0, 3, 1, 2)  # (T, 3, H, W)


class TooManyBrokenFilesError(RuntimeError):
    """More files of a set are unreadable than its `max_broken` allows."""


@DATASETS.register_module(name="video")
class VideoDataset(Dataset):
    """Clips of labelled video files.

    A file that cannot be read never stops a run by itself: it is logged once with its reason; in training another film,
    drawn from (seed, epoch, index), takes its place; in testing the item says that it was skipped. Past `max_broken`
    the run stops.

    Args:
        annotation: list file (`path label`), Kinetics CSV, Something-Something v2 JSON, or a folder of classes.
        root: folder of the films; where the annotation lies when not given.
        format: `list`, `kinetics`, `ssv2`, `folders`, or `auto`.
        classes: class names by index, or a file of them; some formats know them by themselves.
        num_frames: T, frames in a clip.
        sampling: `dict(type="dense", stride=16)` or `dict(type="uniform")`.
        transforms: training transforms in order; each has `type` and its arguments.
        size: side of the test crops, pixels.
        spatial_views: test crops along the long side, 1 or 3.
        temporal_views: test clips along time.
        interpolation: of the test resize, `bicubic` or `bilinear`.
        short_side: shrink frames to this short side right after decoding, in training and testing alike; other pixels.
        test_mode: evaluation clips instead of training clips.
        seed: of everything random.
        max_broken: share of unreadable files that stops a run; five files are always allowed.

    Returns:
        Items `clips` (V, T, 3, H, W), uint8 in training (V = 1) and float32 of 0 to 255 in testing, RGB, not
        normalised; `label`, -1 where the annotation has none; `sample_id`. Or, in testing, `skipped` and `reason`.

    Raises:
        ValueError: annotation, root, classes or arguments that do not fit, naming file and line.
    """

    def __init__(
        self,
        annotation: str | os.PathLike,
        root: str | os.PathLike | None = None,
        format: str = "auto",  # noqa: A002
        classes: Sequence[str] | str | os.PathLike | None = None,
        num_frames: int = 8,
        sampling: dict[str, Any] | DenseSampling | UniformSampling | None = None,
        transforms: Sequence[Any] = (),
        size: int = 224,
        spatial_views: int = 1,
        temporal_views: int = 1,
        interpolation: str = "bicubic",
        short_side: int | None = None,
        test_mode: bool = False,
        seed: int = 0,
        max_broken: float = 0.01,
    ) -> None:
        listing = read_listing(annotation, root, format, classes)
        self.samples, self.classes, self.missing = listing.samples, listing.classes, listing.missing
        self.annotation, self.test_mode, self.seed = str(annotation), test_mode, seed
        if not test_mode and any(sample.label < 0 for sample in self.samples):
            raise ValueError(f"{annotation} has films without a class; they can be tested on (test_mode=True) only")
        sampling = sampling if sampling is not None else {"type": "dense", "stride": 16}
        self.sampling = build(sampling, TRANSFORMS, num_frames=num_frames)
        if self.sampling.num_frames != num_frames:
            raise ValueError(f"sampling takes {self.sampling.num_frames} frames, but num_frames is {num_frames}")
        self.transforms = [build(transform, TRANSFORMS) for transform in transforms]
        self.crops = TestCrops(size, spatial_views, interpolation)
        self.temporal_views, self.short_side, self.max_broken = temporal_views, short_side, max_broken
        self.sampling.test(1, temporal_views)  # refuses impossible views now, not in a worker
        # One flag per film, seen by all workers of all epochs: idempotent, so no lock is needed.
        self._broken = torch.zeros(len(self.samples), dtype=torch.bool).share_memory_()

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def num_classes(self) -> int:
        """How many classes there are: the names given, else the largest label and those below."""
        return len(self.classes) if self.classes else 1 + max(self.labels)

    @property
    def labels(self) -> list[int]:
        """Labels in order."""
        return [sample.label for sample in self.samples]

    @property
    def broken(self) -> list[str]:
        """Paths found unreadable so far, by any worker."""
        return [self.samples[i].path for i in self._broken.nonzero().flatten().tolist()]

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        """The item of an index, or of an (epoch, index): the epoch moves everything random."""
        epoch, index = key if isinstance(key, tuple) else (0, key)
        if not 0 <= index < len(self.samples):
            raise IndexError(f"{self.annotation} has films 0 to {len(self.samples) - 1}, asked for {index}")
        return self._test_item(index) if self.test_mode else self._train_item(epoch, index)

    def _test_item(self, index: int) -> dict[str, Any]:
        sample = self.samples[index]
        try:
            clips = read_views(sample.path, self.sampling, self.crops, self.temporal_views, self.short_side)
        except VideoError as error:
            self._note(index, error)
            return {"skipped": sample.sample_id, "reason": f"{error.reason} [{error.backend}]"}
        return {"clips": clips, "label": sample.label, "sample_id": sample.sample_id}

    def _train_item(self, epoch: int, index: int) -> dict[str, Any]:
        replacements = np.random.default_rng([self.seed, epoch, index, 1])
        for _ in range(_ATTEMPTS):
            if not self._broken[index]:
                try:
                    return self._train_clip(self.samples[index], np.random.default_rng([self.seed, epoch, index]))
                except VideoError as error:
                    self._note(index, error)
            index = int(replacements.integers(len(self.samples)))
        drawn = f"{self.annotation}: {_ATTEMPTS} films drawn in a row cannot be read"
        raise TooManyBrokenFilesError(drawn + self._advice())

    def _train_clip(self, sample: Sample, rng: np.random.Generator) -> dict[str, Any]:
        with VideoFile(sample.path) as film:
            clip = _frames(film, self.sampling.train(film.num_frames, rng), self.short_side)  # (T, 3, H, W)
        label = sample.label
        for transform in self.transforms:
            clip, label = transform(clip, label, rng)
        return {"clips": clip[None].contiguous(), "label": label, "sample_id": sample.sample_id}

    def _note(self, index: int, error: VideoError) -> None:
        if not self._broken[index]:
            log.warning("unreadable film %s: %s", self.samples[index].path, f"{error.reason} [{error.backend}]")
        self._broken[index] = True
        count, allowed = int(self._broken.sum()), max(self.max_broken * len(self.samples), _ALWAYS_ALLOWED)
        if count > allowed:
            raise TooManyBrokenFilesError(
                f"{count} of {len(self.samples)} films of {self.annotation} cannot be read, the last is {error}; "
                f"max_broken={self.max_broken:g} allows {int(allowed)}{self._advice()}"
            )

    def _advice(self) -> str:
        return "; list them and write a clean list with tools/check_videos.py, or raise max_broken"
