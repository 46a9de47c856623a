"""Linear probe on frozen Uni3D-B, ModelNet40, all 8,192 points, gray.

Paper row: none with this recipe; zero-shot Uni3D-B reaches 86.3 (README), quoted as published, on OpenShape's colored export.
Recipe: ours. Validation here is the test set, which the data set has no other split for: report `last.pth`.
Command: python tools/train.py configs/pointcloud/probe_uni3d-b_8k_modelnet40.py
Variants: --cfg-options variant=lora, variant=adaptformer; other sizes with model.encoder.size=large model.encoder.weights=FILE
Measured here: nothing.
"""

from mmengine.config import read_base

from pointcloud.datasets.objects import ModelNet40
from pointcloud.transforms import RandomPoints, ScaleShift, UnitBall

with read_base():
    from .._base_.uni3d_probe import *

_modelnet = dict(type=ModelNet40, root="data/modelnet40_normal_resampled", cache="data/modelnet40_cache")
_train = [
    dict(type=UnitBall),
    dict(type=RandomPoints, num_points=8192),
    dict(type=ScaleShift, scale=(0.8, 1.25), shift=0.1),
]
_test = [dict(type=UnitBall), dict(type=RandomPoints, num_points=8192)]
train_dataloader = dict(batch_size=24, num_workers=8, dataset=dict(**_modelnet, split="train", transforms=_train))
val_dataloader = dict(
    batch_size=24, num_workers=8, dataset=dict(**_modelnet, split="test", transforms=_test, test_mode=True)
)
