"""Diving48 on disk: lists `path label` of its videos, data/diving48/train.txt and test.txt."""

from video.datasets import VideoDataset

_set = dict(type=VideoDataset)
train_dataloader = dict(batch_size=64, num_workers=8, dataset=dict(**_set, annotation="data/diving48/train.txt"))
val_dataloader = dict(
    batch_size=16, num_workers=8, dataset=dict(**_set, annotation="data/diving48/test.txt", test_mode=True)
)
