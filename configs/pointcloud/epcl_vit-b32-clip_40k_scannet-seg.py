"""EPCL on CLIP ViT-B/32, ScanNet v2 segmentation, 40,000 points.

Paper row: none released; only the loader of this set is left in the release.
Recipe: EPCL's S3DIS recipe on ScanNet's 20 classes.
Command: python tools/train.py configs/pointcloud/epcl_vit-b32-clip_40k_scannet-seg.py
Measured here: nothing.
"""

from mmengine.config import read_base

from pointcloud.datasets.scannet import SCANNET_CLASSES, ScanNetSegmentation
from pointcloud.metrics import SegmentationMetric

with read_base():
    from .._base_.runtime import *
    from .._base_.epcl_segmentation import *

_scenes = dict(type=ScanNetSegmentation, root="data/scannet/scannet_segmentation")
model.network.update(num_classes=20)
train_dataloader = dict(
    batch_size=2,
    num_workers=8,
    dataset=dict(**_scenes, split="train", repeat=4, transforms=_transforms, pad_to=40_000),
)
val_dataloader = dict(batch_size=1, num_workers=2, dataset=dict(**_scenes, split="val", test_mode=True))
val_evaluator = dict(type=SegmentationMetric, classes=SCANNET_CLASSES)
test_evaluator = dict(type=SegmentationMetric, classes=SCANNET_CLASSES)
default_hooks.checkpoint.update(best="miou")
