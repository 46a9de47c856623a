"""Kinetics-400 on disk: the official CSV files beside `train/` and `val/` (flat, or a folder per label)."""

from video.datasets import VideoDataset

_folder, _set = "data/kinetics400", dict(type=VideoDataset, format="kinetics")
train_dataloader = dict(
    batch_size=64, num_workers=8, dataset=dict(**_set, annotation=f"{_folder}/train.csv", root=f"{_folder}/train")
)
val_dataloader = dict(
    batch_size=16,
    num_workers=8,
    dataset=dict(**_set, annotation=f"{_folder}/val.csv", root=f"{_folder}/val", test_mode=True),
)
