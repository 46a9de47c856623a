"""V-DETR's decoder on EPCL tokens of the shipped tiny CLIP, built-in rooms, oriented boxes.

Recipe: that of epcl_tiny-clip_2k_rooms-det.py with V-DETR's losses and five queries for each true box; not tuned.
Data: 400 furnished rooms to train, 40 to validate, 40 to test, in SUN RGB-D's layout; python tools/data/make_clouds.py demo_out/clouds
Command: python tools/train.py configs/pointcloud/vdetr_tiny-clip_2k_rooms-det.py
Measured here: mAP@.25 72.0, mAP@.5 23.9 on 40 test rooms, mean of seeds 0, 1, 2 (docs/pointclouds.md).
"""

from mmengine.config import read_base

from pointcloud.vdetr import vdetr3d_epcl

with read_base():
    from .._base_.rooms_detection import *

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
