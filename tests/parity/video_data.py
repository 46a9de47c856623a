"""Builders of the two data cases: frame sampling and the evaluation pipeline."""

from typing import Any

import numpy as np
import torch

from tests.parity.core import builder
from video.sampling import DenseSampling, UniformSampling, dense_start_range, dense_train, uniform_ranges
from video.transforms import TestCrops


@builder("video sampling")
def video_sampling(case: Any) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Computed and expected indices of each row, testing and training."""
    found: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for number, row in enumerate(case.json["rows"]):
        frames, rate, length = row["num_frames"], row["sampling_rate"], row["video_len"]
        name = f"row{number}.T{frames}.rate{rate}.n{length}"
        if row.get("val_indices") is not None:
            computed = _sampling(frames, rate).test(length, row["num_temporal_views"])
            found[f"{name}.test"] = (computed, np.asarray(row["val_indices"]))
        if row.get("train") is not None:
            found[f"{name}.train"] = _training(frames, rate, length, row["train"])
    return found


def _sampling(frames: int, rate: int) -> UniformSampling | DenseSampling:
    return UniformSampling(frames) if rate <= 0 else DenseSampling(frames, rate)


def _training(frames: int, rate: int, length: int, train: dict) -> tuple[np.ndarray, np.ndarray]:
    if "ranges" in train:
        return uniform_ranges(frames, length), np.asarray(train["ranges"])
    if "indices" in train:
        return dense_train(frames, rate, length, np.random.default_rng(0)), np.asarray(train["indices"])
    if "last_start" not in train:
        raise ValueError(f"a training row with {sorted(train)} is not known; known are ranges, indices, last_start")
    first, last = dense_start_range(frames, rate, length)
    draws = [dense_train(frames, rate, length, np.random.default_rng(seed)) for seed in range(64)]
    stride = {int(step) for draw in draws for step in np.diff(draw)} or {rate}
    inside = all(first <= draw[0] <= last for draw in draws)
    return np.array([first, last, *stride, inside]), np.array([0, train["last_start"], rate, True])


@builder("video evaluation pipeline")
def video_pipeline(case: Any) -> dict[str, np.ndarray]:
    """The evaluation clips of each run, normalized, as (views, 3, T, S, S)."""
    raw = np.asarray(case.input("frames"))
    frames = torch.from_numpy(np.clip(np.round(raw * 45 + 120), 0, 255).astype(np.uint8)).permute(0, 3, 1, 2)
    mean, std = (torch.tensor(case.json[key]).view(1, 1, 3, 1, 1) for key in ("mean", "std"))
    found = {}
    for run in case.json["runs"]:
        sampling = _sampling(run["num_frames"], run["sampling_rate"])
        views = sampling.test(len(frames), run["num_temporal_views"])
        crops = TestCrops(run["spatial_size"], run["num_spatial_views"], run["interpolation"])
        clips = (crops(frames, views) / 255 - mean) / std  # (V, T, 3, S, S)
        found[run["output"]] = clips.transpose(1, 2).numpy()  # (V, 3, T, S, S)
    return found
