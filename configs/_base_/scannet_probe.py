"""The probe of `point_probe.py` on ScanNet v2."""

from mmengine.config import read_base

from pointcloud.datasets.scannet import SCANNET_CLASSES, ScanNetSegmentation
from pointcloud.metrics import SegmentationMetric

with read_base():
    from .point_probe import *

_scenes = dict(type=ScanNetSegmentation, root="data/scannet/scannet_segmentation")
train_dataloader = dict(
    batch_size=2,
    num_workers=8,
    dataset=dict(**_scenes, split="train", repeat=4, transforms=_transforms, pad_to=100_000),
)
val_dataloader = dict(batch_size=1, num_workers=2, dataset=dict(**_scenes, split="val", test_mode=True))
test_dataloader = dict(batch_size=1, num_workers=2, dataset=dict(**_scenes, split="val", test_mode=True))
val_evaluator = dict(type=SegmentationMetric, classes=SCANNET_CLASSES)
test_evaluator = dict(type=SegmentationMetric, classes=SCANNET_CLASSES)
