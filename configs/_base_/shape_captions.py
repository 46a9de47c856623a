"""Contrastive pretraining on close-ups of the captioned shape world, 32 px: half the pictures labeled, 64 classes."""

from mmengine.config import read_base
from torch.optim import AdamW

from xmodal.encoders.tiny import tiny_clip
from xmodal.engine.schedule import CosineSchedule
from xmodal.pretraining import ContrastiveModel
from xmodal.toys.shape_captions import CLASSES, TEMPLATES, ShapeCaptions

with read_base():
    from .runtime import *

model = dict(
    type=ContrastiveModel,
    clip=dict(type=tiny_clip, weights="random", image_size=32),
    loss="unicl",
    classes=CLASSES,
    templates=TEMPLATES,
)
_world = dict(type=ShapeCaptions, size=32, close=True)
train_dataloader = dict(batch_size=64, num_workers=0, drop_last=True, dataset=dict(**_world, count=6000, labeled=0.5))
val_dataloader = dict(batch_size=250, num_workers=0, dataset=dict(**_world, count=500, world=7, alone=True))
test_dataloader = dict(batch_size=250, num_workers=0, dataset=dict(**_world, count=500, world=8, alone=True))
optim_wrapper = dict(
    optimizer=dict(type=AdamW, lr=1.5e-3, weight_decay=0.05, betas=(0.9, 0.98)),
    paramwise_cfg=dict(no_decay=["norm", ".bias", "logit_scale"]),
    clip_grad=dict(max_norm=1.0),
)
param_scheduler = dict(type=CosineSchedule, warmup_epochs=1)
train_cfg = dict(max_epochs=10, val_interval=5)
val_cfg = dict()
test_cfg = dict()
