"""3DETR-m, trained from scratch, ScanNet v2 detection, 40,000 points: the baseline without a frozen encoder.

Paper row: 3DETR-m (arXiv 2109.08141), 65.0 mAP@.25, 47.0 mAP@.5 after 1080 epochs, quoted as published.
Recipe: the released recipe.
Command: python tools/train.py configs/pointcloud/detr3d-m_40k_scannet-det.py
Measured here: nothing; neither the scans nor the weights can be had where this was written.
"""

from mmengine.config import read_base

from pointcloud.model import CloudModel, detr3d

with read_base():
    from .._base_.runtime import *
    from .._base_.detr3d import *
    from .._base_.scannet_detection import *

model = dict(
    type=CloudModel,
    encoder=None,
    network=dict(
        type=detr3d,
        num_classes=18,
        backbone=dict(masked=True),
        decoder=dict(num_queries=256),
        criterion=dict(matcher=dict(class_cost=1.0, giou_cost=2.0), weights=dict(giou=1.0), no_object_weight=0.25),
    ),
)
default_hooks.checkpoint.update(best="map25")
