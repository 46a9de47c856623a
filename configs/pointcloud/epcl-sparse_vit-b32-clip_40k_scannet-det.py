"""EPCL's released sparse backbone around frozen CLIP ViT-B/32, 3DETR's decoder, ScanNet v2 detection, 40,000 points.

Paper row: EPCL (arXiv 2212.04098) reaches 73.7 mAP@.25, 61.1 mAP@.5 on ScanNet with CAGroup3D's two-stage head, quoted as published; that head
is not built here. tools/convert.py brings the backbone of the released file in (`epcl.*`) and leaves its head out.
Recipe: 3DETR's (arXiv 2109.08141); voxels of 2 cm, colors as features, 512 groups of 16 voxels at stride 8, as released.
Command: python tools/train.py configs/pointcloud/epcl-sparse_vit-b32-clip_40k_scannet-det.py
Measured here: nothing.
"""

from mmengine.config import read_base

from pointcloud.sparse_detection import epcl_sparse3d

with read_base():
    from .._base_.scannet_detection import *

model.network.type = epcl_sparse3d
model.network.backbone = dict(num_points=1024)
for _loader in (train_dataloader, val_dataloader):
    _loader.dataset.color = True
