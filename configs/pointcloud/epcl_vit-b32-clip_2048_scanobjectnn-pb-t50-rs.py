"""EPCL on CLIP ViT-B/32, ScanObjectNN PB_T50_RS, 2048 points.

Paper row: none released; there is no code for this set in the release.
Recipe: EPCL's classification recipe on Point-BERT's protocol.
Command: python tools/train.py configs/pointcloud/epcl_vit-b32-clip_2048_scanobjectnn-pb-t50-rs.py
Measured here: nothing.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.scanobjectnn import *

for _loader in (train_dataloader, val_dataloader):
    _loader.dataset.update(variant="pb_t50_rs")
