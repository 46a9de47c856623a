"""A sparse U-Net with the shipped tiny CLIP in its middle, built-in rooms segmentation, voxels of 10 cm.

Recipe: data, losses and schedule of epcl_tiny-clip_2k_rooms-seg.py, to compare with its PointMixer-style network; not tuned.
Data: 400 furnished rooms to train, 40 to validate, 40 to test, in S3DIS's layout; python tools/data/make_clouds.py demo_out/clouds
Command: python tools/train.py configs/pointcloud/epcl-sparse_tiny-clip_2k_rooms-seg.py
Measured here: mIoU 88.8 on 40 test rooms, mean of seeds 0, 1, 2 (docs/pointclouds.md).
"""

from mmengine.config import read_base

from pointcloud.sparse_segmentation import SparseSegmenter

with read_base():
    from .._base_.rooms_segmentation import *

model.network.update(type=SparseSegmenter, voxel=0.1, widths=(16, 32, 64, 96), num_groups=64, group_size=8)
