"""3DETR-m, trained from scratch, SUN RGB-D detection, 20,000 points, oriented boxes.

Paper row: 3DETR-m (arXiv 2109.08141), 59.1 mAP@.25, 30.3 mAP@.5 after 1080 epochs, quoted as published.
Recipe: the released recipe.
Command: python tools/train.py configs/pointcloud/detr3d-m_20k_sunrgbd-det.py
Measured here: nothing; neither the scans nor the weights can be had where this was written.
"""

from mmengine.config import read_base

from pointcloud.model import CloudModel, detr3d

with read_base():
    from .._base_.runtime import *
    from .._base_.detr3d import *
    from .._base_.sunrgbd_detection import *

model = dict(
    type=CloudModel,
    encoder=None,
    network=dict(
        type=detr3d,
        num_classes=10,
        num_angle_bins=12,
        backbone=dict(masked=True),
        decoder=dict(num_queries=128),
        criterion=dict(
            matcher=dict(class_cost=1.0, giou_cost=3.0, center_cost=5.0, objectness_cost=5.0),
            weights=dict(giou=0.0),
            no_object_weight=0.1,
        ),
    ),
)
default_hooks.checkpoint.update(best="map25")
optim_wrapper.optimizer.update(lr=7e-4)
param_scheduler.update(final=1e-6 / 7e-4)
