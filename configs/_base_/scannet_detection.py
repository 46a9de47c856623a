"""ScanNet v2 detection on disk, in VoteNet's export, with 3DETR's recipe on EPCL tokens; boxes stay axis-aligned."""

from mmengine.config import read_base

from pointcloud.datasets.scannet import DETECTION_CLASSES, ScanNetDetection
from pointcloud.metrics import DetectionMetric
from pointcloud.transforms import CuboidCrop, RandomFlip, RandomPoints, RandomRotation

with read_base():
    from .detection3d import *

model.network.update(
    num_classes=18,
    decoder=dict(num_queries=256),
    criterion=dict(matcher=dict(class_cost=1.0, giou_cost=2.0), weights=dict(giou=1.0), no_object_weight=0.25),
)
_scenes = dict(type=ScanNetDetection, root="data/scannet/scannet_train_detection_data", max_boxes=64)
_points = [dict(type=RandomPoints, num_points=40_000)]
train_dataloader = dict(
    batch_size=8,
    num_workers=8,
    dataset=dict(
        **_scenes,
        split_file="data/scannet/meta_data/scannetv2_train.txt",
        transforms=[
            dict(type=CuboidCrop, min_points=30_000, aspect=0.8, min_side=0.5, max_side=1.0),
            *_points,
            dict(type=RandomFlip, axes="xy"),
            dict(type=RandomRotation, degrees=5, rebox=True),
        ],
    ),
)
val_dataloader = dict(
    batch_size=8,
    num_workers=8,
    dataset=dict(**_scenes, split_file="data/scannet/meta_data/scannetv2_val.txt", transforms=_points, test_mode=True),
)
val_evaluator = dict(type=DetectionMetric, classes=DETECTION_CLASSES)
test_evaluator = dict(type=DetectionMetric, classes=DETECTION_CLASSES)
