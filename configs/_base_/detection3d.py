"""3DETR's decoder and schedule on EPCL tokens of CLIP ViT-B/32.

AdamW 5e-4, weight decay 0.1 on everything, warm-up 9 epochs, cosine to 1e-6 over 1080 epochs.
"""

from mmengine.config import read_base
from torch.optim import AdamW

from pointcloud.detection import detection3d
from pointcloud.model import CloudModel
from xmodal.encoders.openclip_weights import open_clip_encoder
from xmodal.engine.schedule import CosineSchedule

with read_base():
    from .runtime import *

model = dict(
    type=CloudModel,
    encoder=dict(type=open_clip_encoder, name="ViT-B-32-quickgelu", pretrained="openai"),
    network=dict(type=detection3d, backbone=dict(num_groups=1024, group_size=32)),
)
default_hooks.checkpoint.update(best="map25")
optim_wrapper = dict(optimizer=dict(type=AdamW, lr=5e-4, weight_decay=0.1), clip_grad=dict(max_norm=0.1))
param_scheduler = dict(type=CosineSchedule, warmup_epochs=9, final=1e-6 / 5e-4)
train_cfg = dict(max_epochs=1080, val_interval=20)
