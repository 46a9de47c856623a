"""Linear probe on all levels of frozen Sonata, ScanNet v2 segmentation, 100,000 points.

Paper row: Sonata (arXiv 2503.16429), linear probe, 72.5 mIoU on the validation scenes, quoted as published.
Recipe: ours, simpler: cross-entropy alone, no mixing of scenes, no test-time variants; the paper adds Lovasz's loss, 800 epochs
and 13 variants. `variant=lora` trains LoRA of rank 8 on queries, keys and values too. Normals are zeros.
Command: python tools/train.py configs/pointcloud/probe_sonata_100k_scannet-seg.py --cfg-options model.encoder.weights=sonata.pth
Measured here: nothing.
"""

from mmengine.config import read_base
from torch.optim import AdamW

from pointcloud.datasets.scannet import SCANNET_CLASSES, ScanNetSegmentation
from pointcloud.metrics import SegmentationMetric
from pointcloud.model import CloudModel
from pointcloud.point_transformer import PointProbe, point_transformer
from pointcloud.transforms import (
    ColorJitter,
    RandomFlip,
    RandomRotation,
    RandomScale,
    SphereCrop,
    ToOrigin,
    VoxelPoints,
)
from xmodal.adapters.lora import lora
from xmodal.engine.schedule import CosineSchedule

with read_base():
    from .._base_.runtime import *

_scenes = dict(type=ScanNetSegmentation, root="data/scannet/scannet_segmentation")
model = dict(
    type=CloudModel,
    encoder=dict(type=point_transformer, weights="random", in_channels=9),
    network=dict(type=PointProbe, num_classes=20, voxel=0.02, eval_voxel=0.02, eval_points=100_000),
)
variants = dict(lora=dict(model=dict(adapters=[dict(type=lora, rank=8, alpha=16, targets=("qkv",), dropout=0.1)])))
_transforms = [
    dict(type=RandomScale, low=0.9, high=1.1),
    dict(type=RandomFlip, axes="xy"),
    dict(type=RandomRotation, degrees=180),
    dict(type=ColorJitter, prob=0.95, std=0.05),
    dict(type=VoxelPoints, size=0.02),
    dict(type=SphereCrop, max_points=100_000),
    dict(type=ToOrigin),
]
train_dataloader = dict(
    batch_size=2,
    num_workers=8,
    dataset=dict(**_scenes, split="train", repeat=4, transforms=_transforms, pad_to=100_000),
)
val_dataloader = dict(batch_size=1, num_workers=2, dataset=dict(**_scenes, split="val", test_mode=True))
test_dataloader = dict(batch_size=1, num_workers=2, dataset=dict(**_scenes, split="val", test_mode=True))
val_evaluator = dict(type=SegmentationMetric, classes=SCANNET_CLASSES)
test_evaluator = dict(type=SegmentationMetric, classes=SCANNET_CLASSES)
optim_wrapper = dict(optimizer=dict(type=AdamW, lr=2e-3, weight_decay=0.02))
param_scheduler = dict(type=CosineSchedule, warmup_epochs=2)
train_cfg = dict(max_epochs=40, val_interval=5)
default_hooks.checkpoint.update(best="miou")
