"""Built-in rooms in S3DIS's layout: data, metric, and 300 steps at a rate of 4e-3."""

from mmengine.config import read_base

from pointcloud.datasets.s3dis import S3DIS
from pointcloud.metrics import SegmentationMetric
from pointcloud.transforms import (
    ColorShift,
    RandomFlip,
    RandomRotation,
    RandomScale,
    SphereCrop,
    ToOrigin,
    VoxelPoints,
)

with read_base():
    from .tiny_clip_clouds import *

_classes = ["floor", "wall", "chair", "table", "bed", "sofa", "shelf", "lamp"]
_rooms = dict(type=S3DIS, root="demo_out/clouds/rooms")
train_dataloader = dict(
    batch_size=2,
    num_workers=1,
    persistent_workers=True,
    dataset=dict(
        **_rooms,
        areas=(1,),
        transforms=[
            dict(type=RandomScale, low=0.9, high=1.1),
            dict(type=RandomFlip, axes="xy"),
            dict(type=RandomRotation, degrees=180),
            dict(type=VoxelPoints, size=0.1),
            dict(type=SphereCrop, max_points=4096),
            dict(type=ToOrigin),
            dict(type=ColorShift, prob=0.95, ratio=0.05),
        ],
        pad_to=4096,
    ),
)
val_dataloader = dict(batch_size=1, num_workers=1, dataset=dict(**_rooms, areas=(2,), test_mode=True))
test_dataloader = dict(batch_size=1, num_workers=1, dataset=dict(**_rooms, areas=(5,), test_mode=True))
val_evaluator = dict(type=SegmentationMetric, classes=_classes)
test_evaluator = dict(type=SegmentationMetric, classes=_classes)
optim_wrapper.optimizer.update(lr=4e-3)
param_scheduler.update(warmup_steps=30)
model.network = dict(
    num_classes=8,
    eval_voxel=0.1,
    class_weight=(0.9, 0.6, 2.4, 2.0, 1.3, 1.3, 1.5, 3.7),  # one over the root of how often a voxel has the class
    eval_points=8192,
    eval_parts=2,
)
default_hooks.checkpoint.update(best="miou")
train_cfg = dict(max_steps=300, val_interval=300)
