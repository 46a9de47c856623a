"""V-DETR's decoder on EPCL tokens of the shipped tiny CLIP, built-in rooms, oriented boxes.

Recipe: that of epcl_tiny-clip_2k_rooms-det.py with V-DETR's losses and five queries for each true box; not tuned.
Data: 400 furnished rooms to train, 40 to validate, 40 to test, in SUN RGB-D's layout; python tools/data/make_clouds.py demo_out/clouds
Command: python tools/train.py configs/pointcloud/vdetr_tiny-clip_2k_rooms-det.py
Measured here: nothing yet.
"""

from mmengine.config import read_base

from pointcloud.datasets.sunrgbd import SUNRGBD
from pointcloud.metrics import DetectionMetric
from pointcloud.transforms import CenterFloor, RandomFlip, RandomPoints, RandomRotation, RandomScale
from pointcloud.vdetr import vdetr3d_epcl

with read_base():
    from .._base_.tiny_clip_clouds import *

_classes = ["chair", "table", "bed", "sofa", "shelf", "lamp"]
_boxes = dict(
    type=SUNRGBD, root="demo_out/clouds/boxes", classes="demo_out/clouds/boxes_classes.txt", color=True, max_boxes=8
)
_points = [dict(type=RandomPoints, num_points=2048), dict(type=CenterFloor)]
train_dataloader = dict(
    batch_size=8,
    num_workers=1,
    persistent_workers=True,
    dataset=dict(
        **_boxes,
        split="train",
        transforms=[
            dict(type=RandomScale, low=0.9, high=1.1),
            dict(type=RandomFlip, axes="xy"),
            dict(type=RandomRotation, degrees=5),
            *_points,
        ],
    ),
)
val_dataloader = dict(
    batch_size=4, num_workers=1, dataset=dict(**_boxes, split="val", transforms=_points, test_mode=True)
)
test_dataloader = dict(
    batch_size=4, num_workers=1, dataset=dict(**_boxes, split="test", transforms=_points, test_mode=True)
)
val_evaluator = dict(type=DetectionMetric, classes=_classes)
test_evaluator = dict(type=DetectionMetric, classes=_classes)
model.network = dict(
    type=vdetr3d_epcl,
    num_classes=6,
    num_angle_bins=12,
    backbone=dict(num_groups=128, group_size=16, feat_dim=3, scale=0.3, width=32),
    decoder=dict(
        dim=128,
        num_heads=4,
        ffn_dim=256,
        depth=2,
        num_queries=20,
        mlp_dropout=0.0,
        dropout=0.0,
        width=32,
        own_axes=True,
    ),
    criterion=dict(repeats=5),
    min_score=0.0,
    show_score=0.3,
)
