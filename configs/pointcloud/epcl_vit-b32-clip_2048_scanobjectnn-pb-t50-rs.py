"""EPCL on CLIP ViT-B/32, ScanObjectNN PB_T50_RS (the hardest), or OBJ_BG or OBJ_ONLY as variants; 2048 points.

Paper row: none released; there is no code for this set in the release.
Recipe: EPCL's classification recipe on Point-BERT's protocol.
Command: python tools/train.py configs/pointcloud/epcl_vit-b32-clip_2048_scanobjectnn-pb-t50-rs.py
Variants: --cfg-options variant=obj_bg, variant=obj_only
Measured here: nothing.
"""

from mmengine.config import read_base

from pointcloud.datasets.objects import ScanObjectNN
from pointcloud.transforms import RandomPoints, ScaleShift, UnitBall

with read_base():
    from .._base_.runtime import *
    from .._base_.epcl_objects import *

_scans = dict(type=ScanObjectNN, root="data/scanobjectnn", variant="pb_t50_rs")
_train = [dict(type=UnitBall), dict(type=RandomPoints, num_points=2048), dict(type=ScaleShift)]
model.network.update(num_classes=15, num_groups=128)
train_dataloader = dict(batch_size=32, num_workers=8, dataset=dict(**_scans, split="train", transforms=_train))
val_dataloader = dict(
    batch_size=32, num_workers=8, dataset=dict(**_scans, split="test", transforms=[dict(type=UnitBall)], test_mode=True)
)
variants = {
    _name: dict(train_dataloader=dict(dataset=dict(variant=_name)), val_dataloader=dict(dataset=dict(variant=_name)))
    for _name in ("obj_bg", "obj_only")
}
