"""Kinetics-400 on disk: the official CSV files beside `train/` and `val/` (flat, or a folder per label)."""

from video.datasets import VideoDataset

train_dataloader = dict(
    batch_size=64,
    num_workers=8,
    dataset=dict(
        type=VideoDataset,
        annotation="data/kinetics400/train.csv",
        root="data/kinetics400/train",
        format="kinetics",
    ),
)
val_dataloader = dict(
    batch_size=16,
    num_workers=8,
    dataset=dict(
        type=VideoDataset,
        annotation="data/kinetics400/val.csv",
        root="data/kinetics400/val",
        format="kinetics",
        test_mode=True,
    ),
)
