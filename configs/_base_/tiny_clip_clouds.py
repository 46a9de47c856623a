"""The recipe of the built-in clouds on the shipped tiny CLIP: frozen tower, AdamW, cosine; a leaf sets network and rate.

Baselines: --cfg-options model.encoder.weights=random; and with model.freeze_encoder=false, all from scratch
"""

from mmengine.config import read_base
from torch.optim import AdamW

from pointcloud.model import CloudModel
from xmodal.encoders.tiny import tiny_clip_encoder
from xmodal.engine.schedule import CosineSchedule

with read_base():
    from .runtime import *

model = dict(type=CloudModel, encoder=dict(type=tiny_clip_encoder), freeze_encoder=True)
optim_wrapper = dict(
    optimizer=dict(type=AdamW, lr=2e-3, weight_decay=0.02),
    paramwise_cfg=dict(no_decay=["norm", ".bias"]),
    clip_grad=dict(max_norm=1.0),
)
param_scheduler = dict(type=CosineSchedule)
