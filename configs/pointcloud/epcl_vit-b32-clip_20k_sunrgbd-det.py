"""3DETR's decoder on EPCL tokens of CLIP ViT-B/32, SUN RGB-D detection, 20,000 points, oriented boxes.

Paper row: none; the released detection of EPCL is another network (sparse U-Net, CAGroup3D's head; 73.7 / 61.1): see epcl-sparse_* for its backbone.
Recipe: 3DETR's (arXiv 2109.08141).
Command: python tools/train.py configs/pointcloud/epcl_vit-b32-clip_20k_sunrgbd-det.py
Measured here: nothing.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.sunrgbd_detection import *
