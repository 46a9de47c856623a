"""EPCL on CLIP ViT-B/32, ScanObjectNN OBJ_ONLY, 2048 points.

Paper row: none released; there is no code for this set in the release.
Recipe: EPCL's classification recipe on Point-BERT's protocol.
Command: python tools/train.py configs/pointcloud/epcl_vit-b32-clip_2048_scanobjectnn-obj-only.py
Measured here: nothing; neither ScanObjectNN nor the CLIP weights can be had where this was written.
"""

from mmengine.config import read_base

from pointcloud.datasets.objects import ScanObjectNN
from pointcloud.transforms import RandomPoints, ScaleShift, UnitBall

with read_base():
    from .._base_.runtime import *
    from .._base_.epcl_objects import *

_scans = dict(type=ScanObjectNN, root="data/scanobjectnn", variant="obj_only")
_train = [dict(type=UnitBall), dict(type=RandomPoints, num_points=2048), dict(type=ScaleShift)]
model.network.update(num_classes=15, num_groups=128)
train_dataloader = dict(batch_size=32, num_workers=8, dataset=dict(**_scans, split="train", transforms=_train))
val_dataloader = dict(
    batch_size=32, num_workers=8, dataset=dict(**_scans, split="test", transforms=[dict(type=UnitBall)], test_mode=True)
)
