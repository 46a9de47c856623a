"""A linear probe on all levels of frozen Sonata or Concerto; `variant=decoder` trains a decoder on them, `lora` LoRA inside.

AdamW 2e-3, weight decay 0.02, cosine over 40 epochs, cross-entropy and Lovasz's loss, voxels of 2 cm, crops of 100,000 points.
"""

from mmengine.config import read_base
from torch.optim import AdamW

from pointcloud.grid_points import GridSample
from pointcloud.model import CloudModel
from pointcloud.point_transformer import PointProbe, point_transformer
from pointcloud.transforms import ColorJitter, RandomFlip, RandomRotation, RandomScale, SphereCrop, ToOrigin
from xmodal.adapters.lora import lora
from xmodal.engine.schedule import CosineSchedule

with read_base():
    from .runtime import *

model = dict(
    type=CloudModel,
    encoder=dict(type=point_transformer, weights="random", in_channels=9),
    network=dict(type=PointProbe, num_classes=20, voxel=0.02, eval_voxel=0.02, eval_points=100_000, lovasz=1.0),
)
variants = dict(
    decoder=dict(model=dict(network=dict(decoder=dict(channels=(64, 96, 192, 384), depths=(2, 2, 2, 2))))),
    lora=dict(model=dict(adapters=[dict(type=lora, rank=8, alpha=16, targets=("qkv",), dropout=0.1)])),
)
_transforms = [
    dict(type=RandomScale, low=0.9, high=1.1),
    dict(type=RandomFlip, axes="xy"),
    dict(type=RandomRotation, degrees=180),
    dict(type=ColorJitter, prob=0.95, std=0.05),
    dict(type=GridSample, size=0.02),
    dict(type=SphereCrop, max_points=100_000),
    dict(type=ToOrigin),
]
optim_wrapper = dict(optimizer=dict(type=AdamW, lr=2e-3, weight_decay=0.02), clip_grad=dict(max_norm=3.0))
param_scheduler = dict(type=CosineSchedule, warmup_epochs=2)
train_cfg = dict(max_epochs=40, val_interval=5)
default_hooks.checkpoint.update(best="miou")
