"""SUN RGB-D detection on disk, in VoteNet's layout, with 3DETR's recipe on EPCL tokens; oriented boxes."""

from mmengine.config import read_base

from pointcloud.datasets.sunrgbd import SUNRGBD, SUNRGBD_CLASSES
from pointcloud.metrics import DetectionMetric
from pointcloud.transforms import CuboidCrop, RandomFlip, RandomPoints, RandomRotation, RandomScale

with read_base():
    from .detection3d import *

model.network.update(
    num_classes=10,
    num_angle_bins=12,
    decoder=dict(num_queries=128),
    criterion=dict(
        matcher=dict(class_cost=1.0, giou_cost=3.0, center_cost=5.0, objectness_cost=5.0),
        weights=dict(giou=0.0),
        no_object_weight=0.1,
    ),
)
optim_wrapper.optimizer.update(lr=7e-4)
param_scheduler.update(final=1e-6 / 7e-4)
_views = dict(type=SUNRGBD, root="data/sunrgbd/sunrgbd_pc_bbox_votes_50k_v1", max_boxes=64)
_points = [dict(type=RandomPoints, num_points=20_000)]
train_dataloader = dict(
    batch_size=8,
    num_workers=8,
    dataset=dict(
        **_views,
        split="train",
        transforms=[
            dict(type=RandomFlip, axes="x"),
            dict(type=RandomRotation, degrees=30),
            dict(type=RandomScale, low=0.85, high=1.15),
            dict(type=CuboidCrop, min_points=15_000, aspect=0.75, min_side=0.75, max_side=1.0),
            *_points,
        ],
    ),
)
val_dataloader = dict(
    batch_size=8, num_workers=8, dataset=dict(**_views, split="val", transforms=_points, test_mode=True)
)
val_evaluator = dict(type=DetectionMetric, classes=SUNRGBD_CLASSES)
test_evaluator = dict(type=DetectionMetric, classes=SUNRGBD_CLASSES)
