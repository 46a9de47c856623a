"""EPCL on CLIP ViT-B/32, ModelNet40 few-shot, 5 classes of 10 clouds.

Paper row: none released; there is no code for these episodes in the release.
Recipe: see configs/_base_/modelnet_fewshot.py; all ten folds: tools/fewshot_clouds.py CONFIG --work-dir W
Command: python tools/train.py configs/pointcloud/epcl_vit-b32-clip_1024_modelnet-5way10shot.py
Measured here: nothing.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.modelnet_fewshot import *

model.network.update(num_classes=5)
for _loader in (train_dataloader, val_dataloader):
    _loader.dataset.update(way=5, shot=10)
