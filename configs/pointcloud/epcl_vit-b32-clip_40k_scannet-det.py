"""3DETR's decoder on EPCL tokens of CLIP ViT-B/32, ScanNet v2 detection, 40,000 points.

Paper row: none; the released detection of EPCL is another network (sparse convolutions, CAGroup3D's head; 73.7 / 61.1) and is not built here.
Recipe: 3DETR's (arXiv 2109.08141).
Command: python tools/train.py configs/pointcloud/epcl_vit-b32-clip_40k_scannet-det.py
Measured here: nothing; neither the scans nor the weights can be had where this was written.
"""

from mmengine.config import read_base

from pointcloud.model import CloudModel, detection3d
from xmodal.encoders.openclip_weights import open_clip_encoder

with read_base():
    from .._base_.runtime import *
    from .._base_.detr3d import *
    from .._base_.scannet_detection import *

model = dict(
    type=CloudModel,
    encoder=dict(type=open_clip_encoder, name="ViT-B-32-quickgelu", pretrained="openai"),
    network=dict(
        type=detection3d,
        num_classes=18,
        backbone=dict(num_groups=1024, group_size=32),
        decoder=dict(num_queries=256),
        criterion=dict(matcher=dict(class_cost=1.0, giou_cost=2.0), weights=dict(giou=1.0), no_object_weight=0.25),
    ),
)
default_hooks.checkpoint.update(best="map25")
