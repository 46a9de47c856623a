"""Built-in rooms in SUN RGB-D's layout: data, metric, and eight epochs at a rate of 2.5e-3."""

from mmengine.config import read_base

from pointcloud.datasets.sunrgbd import SUNRGBD
from pointcloud.metrics import DetectionMetric
from pointcloud.transforms import CenterFloor, RandomFlip, RandomPoints, RandomRotation, RandomScale

with read_base():
    from .tiny_clip_clouds import *

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
optim_wrapper.optimizer.update(lr=2.5e-3)
param_scheduler.update(warmup_epochs=1)
default_hooks.checkpoint.update(best="map25")
train_cfg = dict(max_epochs=8, val_interval=8)
