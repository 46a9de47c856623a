"""V-DETR on its sparse backbone, trained from scratch, ScanNet v2 detection, 100,000 points.

Paper row: V-DETR (arXiv 2308.04409), README without test-time variants, 77.9 mAP@.25, 65.9 mAP@.5, quoted as published.
Recipe: the published one: voxels of 1 cm, 4096 of them kept, 1024 queries, anchors of 1 m, five queries for each true box; AdamW 7e-4, 540
epochs, batch 8. Differs: scenes without boxes stay, and predictions are checked against all points instead of 40,000.
Data: VoteNet's export caps scenes at 50,000 points; the published figures need an export that keeps all (with capped files the
released weights give 70.2 / 57.7 there).
Command: python tools/train.py configs/pointcloud/vdetr_100k_scannet-det.py
Variants: --cfg-options variant=detr-encoder puts the decoder on 3DETR's encoder instead
Measured here: nothing.
"""

from mmengine.config import read_base

from pointcloud.detr_encoder import no_encoder
from pointcloud.model import CloudModel
from pointcloud.sparse_detection import vdetr3d_sparse
from pointcloud.transforms import RandomFlip, RandomPoints, RandomRotation, RandomScale
from pointcloud.vdetr import vdetr3d

with read_base():
    from .._base_.scannet_detection import *

model = dict(
    type=CloudModel,
    encoder=dict(type=no_encoder),
    network=dict(type=vdetr3d_sparse, num_classes=18, min_score=0.0, nms_iou=0.25),
)
_points = [dict(type=RandomPoints, num_points=100_000)]
train_dataloader.dataset.update(
    color=True,
    transforms=[
        *_points,
        dict(type=RandomFlip, axes="xy"),
        dict(type=RandomRotation, degrees=5, rebox=True),
        dict(type=RandomScale, low=0.6, high=1.4, shift=0.4),
    ],
)
val_dataloader.dataset.update(color=True, transforms=_points)
optim_wrapper.optimizer.update(lr=7e-4)
param_scheduler.update(final=1e-6 / 7e-4)
train_cfg.update(max_epochs=540)
variants = {"detr-encoder": dict(model=dict(network=dict(type=vdetr3d, backbone=dict(feat_dim=3))))}
