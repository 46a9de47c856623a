"""EPCL's sparse backbone around the shipped tiny CLIP, 3DETR's decoder, built-in rooms, oriented boxes.

Recipe: decoder, losses and schedule of epcl_tiny-clip_2k_rooms-det.py; voxels of 6 cm, a narrow U-Net. Not tuned.
Data: 400 furnished rooms to train, 40 to validate, 40 to test, in SUN RGB-D's layout; python tools/data/make_clouds.py demo_out/clouds
Command: python tools/train.py configs/pointcloud/epcl-sparse_tiny-clip_2k_rooms-det.py
Measured here: mAP@.25 93.8, mAP@.5 75.9 on 40 test rooms, mean of seeds 0, 1, 2 (docs/pointclouds.md).
"""

from mmengine.config import read_base

from pointcloud.sparse_detection import epcl_sparse3d

with read_base():
    from .._base_.rooms_3detr import *

model.network.type = epcl_sparse3d
model.network.backbone = dict(widths=(16, 32, 64, 96), num_groups=64, group_size=8, voxel=0.06, num_points=192)
