"""Data set of labeled video files for action recognition."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from video.annotations import VIDEOS
from video.augment import RandAugment  # noqa: F401 - registers "rand_augment"
from video.decode import VideoError, VideoFile
from video.frames import FrameFolder, open_video
from video.libraries import check_decoder
from video.sampling import DenseSampling, UniformSampling
from video.segments import SegmentSampling
from video.transforms import TestCrops
from xmodal.data.annotations import part_of
from xmodal.data.broken import LabeledFiles
from xmodal.data.stores import Place
from xmodal.data.transforms import USUAL, transformed
from xmodal.registry import DATASETS, TRANSFORMS, build


def read_views(
    path: str | os.PathLike,
    sampling: DenseSampling | UniformSampling | SegmentSampling,
    crops: TestCrops,
    temporal_views: int = 1,
    short_side: int | None = None,
    decoder: str = "own",
) -> Tensor:
    """Read the test views of a video.

    Args:
        path: the video, or a folder of its frames.
        sampling: which frames a view shows.
        crops: how views are cut.
        temporal_views: views along time.
        short_side: shrink frames to this short side right after decoding.
        decoder: see `VideoFile`.

    Returns:
        (V, T, 3, S, S) float32 of 0 to 255, RGB, not normalized; spatial crops outermost.

    Raises:
        VideoError: a video that cannot be read.
    """
    with open_video(path, decoder) as video:
        return cut_views(video, sampling.test(video.num_frames, temporal_views), crops, short_side)


def cut_views(
    video: VideoFile | FrameFolder, views: np.ndarray, crops: TestCrops, short_side: int | None = None
) -> Tensor:
    """Read frames of an open video and cut them.

    Args:
        video: from `open_video`.
        views: the frames of each view (V, T).
        crops: how views are cut.
        short_side: see `read_views`.

    Returns:
        (crops * V, T, 3, S, S), see `TestCrops`.
    """
    unique, rows = np.unique(views, return_inverse=True)
    frames = _channels_first(video.read(unique, short_side, lambda image: _smaller(image, crops)))
    return crops(frames, rows.reshape(views.shape))


def _smaller(image: np.ndarray, crops: TestCrops) -> np.ndarray:
    """Resize one frame (H, W, 3) as the crops do, so that no more than one is held at full size."""
    images = crops.resized(_channels_first(image[None]))  # (1, 3, h, w)
    return images[0].permute(1, 2, 0).numpy()


def _channels_first(frames: np.ndarray) -> Tensor:
    return torch.from_numpy(frames).permute(0, 3, 1, 2)  # (T, 3, H, W)


@DATASETS.register_module(name="video")
class VideoDataset(LabeledFiles):
    """Clips of labeled video files.

    A file that cannot be read never stops a run by itself: it is logged once with its reason; in training another,
    drawn from (seed, epoch, index), takes its place; in testing the item says that it was skipped. Past `max_broken`
    the run stops.

    Args:
        annotation: list file (`path label`), table with a head line, Kinetics CSV, Something-Something v2 JSON, or a
            folder of classes. A path may be a folder of frames (`img_00001.jpg`, ...); several classes a file make
            the set multi-label.
        root: folder of the videos, tars (`data/shard-*.tar`), or either in a store (`s3://...`); where the annotation
            lies when not given. See `stores.root_of`.
        format: `list`, `csv`, `kinetics`, `ssv2`, `folders`, `auto`, or a function; see `Annotations.read`.
        classes: class names by index, or a file of them; some formats know them by themselves.
        num_frames: T, frames in a clip.
        sampling: `dict(type="dense", stride=16)` or `dict(type="uniform")`; for readers of several clips
            `dict(type="segments", stride=4, segments=2)`.
        transforms: training transforms in order; each has `type` and its arguments.
        size: side of the test crops, pixels; in a run the encoder's input size unless given.
        spatial_views: test crops along the long side, 1 or 3.
        temporal_views: test clips along time.
        interpolation: of the test resize, `bicubic` or `bilinear`.
        short_side: shrink frames to this short side right after decoding, in training and testing alike; other pixels.
        test_mode: evaluation clips instead of training clips.
        seed: of everything random.
        max_broken: share of unreadable files that stops a run; five files are always allowed.
        decoder: `own`, or `decord`, `torchcodec` or `torchcodec-cuda` for films that they read exactly (`VideoFile`).
        hold_out: share of every class that is left out, always the same samples.
        held: take those that are left out instead.

    Returns:
        Items `clips` (V, T, 3, H, W), uint8 in training (V = 1, or segments) and float32 of 0 to 255 in testing, RGB,
        not normalized; `label`, -1 where the annotation has none, 0/1 of every class (K,) in a multi-label set;
        `sample_id`. Or, in testing, `skipped` and `reason`.

    Raises:
        ValueError: annotation, root, classes or arguments that do not fit, naming file and line.
    """

    noun = "video"
    damage = VideoError
    advice = "list them and write a clean list with tools/check_videos.py, or raise max_broken"

    def __init__(
        self,
        annotation: Place,
        root: Place | None = None,
        format: Any = "auto",  # noqa: A002
        classes: Sequence[str] | str | os.PathLike | None = None,
        num_frames: int = 8,
        sampling: dict[str, Any] | DenseSampling | UniformSampling | SegmentSampling | None = None,
        transforms: Sequence[Any] = (),
        size: int | None = None,
        spatial_views: int = 1,
        temporal_views: int = 1,
        interpolation: str = "bicubic",
        short_side: int | None = None,
        test_mode: bool = False,
        seed: int = 0,
        max_broken: float = 0.01,
        decoder: str = "own",
        hold_out: float = 0.0,
        held: bool = False,
    ) -> None:
        self.decoder = check_decoder(decoder)
        listing = VIDEOS.read(annotation, root, format, classes)
        samples = part_of(listing.samples, hold_out, held)
        super().__init__(samples, listing.classes, str(annotation), test_mode, seed, max_broken)
        self.missing = listing.missing
        if not test_mode and self.samples.unlabeled:
            raise ValueError(f"{annotation} has videos without a class; they can be tested on (test_mode=True) only")
        sampling = sampling if sampling is not None else {"type": "dense", "stride": 16}
        self.sampling = build(sampling, TRANSFORMS, num_frames=num_frames)
        if self.sampling.num_frames != num_frames:
            raise ValueError(f"sampling takes {self.sampling.num_frames} frames, but num_frames is {num_frames}")
        self.transforms = [build(transform, TRANSFORMS) for transform in transforms]
        self.crops = TestCrops(size or USUAL, spatial_views, interpolation)
        self.temporal_views, self.short_side = temporal_views, short_side
        self.sampling.test(1, temporal_views)  # refuses impossible views now, not in a worker

    def reason(self, error: Exception) -> str:
        """Say why a video cannot be read and which reader tried."""
        return f"{error.reason} [{error.backend}]" if isinstance(error, VideoError) else str(error)

    def test_item(self, index: int) -> dict[str, Any]:
        """Read the views of one video."""
        sample = self.samples[index]
        clips = read_views(sample.path, self.sampling, self.crops, self.temporal_views, self.short_side, self.decoder)
        return {"clips": clips, "label": self.target(self.label_of(sample)), "sample_id": sample.sample_id}

    def train_item(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        """Read one clip of a video and transform it."""
        sample = self.samples[index]
        with open_video(sample.path, self.decoder) as video:
            indices = np.atleast_2d(self.sampling.train(video.num_frames, rng))  # (C, T)
            frames = _channels_first(video.read(indices, self.short_side))  # (C*T, 3, H, W)
        clips = []
        for clip in frames.split(indices.shape[1]):
            clip, label = transformed(self.transforms, clip, self.label_of(sample), rng)  # type: ignore[arg-type]
            clips.append(clip)
        clip = torch.stack(clips) if len(clips) > 1 else clips[0][None]  # (C, T, 3, h, w)
        return {"clips": clip, "label": self.target(label), "sample_id": sample.sample_id}
