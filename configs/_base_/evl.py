"""EVL on CLIP ViT-B/16 as released for Kinetics-400; a leaf adds the data set, its clips and the decoder's depth."""

from mmengine.config import read_base
from torch.optim import AdamW

from video.augment import RandAugment
from video.evl import EVLDecoder
from video.transforms import RandomResizedCrop
from xmodal.encoders.openclip_weights import open_clip_encoder
from xmodal.engine.schedule import CosineSchedule
from xmodal.heads.classification import ClassificationHead
from xmodal.model import TransferModel

with read_base():
    from .runtime import *

model = dict(
    type=TransferModel,
    encoder=dict(type=open_clip_encoder, name="ViT-B-16-quickgelu", pretrained="openai"),
    reader=dict(type=EVLDecoder, num_frames=8, num_layers=4, qkv_dim=768, num_heads=12, mlp_dropout=0.5),
    head=dict(type=ClassificationHead, num_classes=400, dropout=0.5, norm=True, init_std=None),
)
_transforms = [
    dict(type=RandAugment, config="rand-m7-n4-mstd0.5-inc1"),
    dict(type=RandomResizedCrop, size=224, area=(0.08, 1.0), ratio=(3 / 4, 4 / 3), interpolation="bilinear"),
]
# One group: everything decays, biases, norms and the query too; no warm-up, no flip.
optim_wrapper = dict(optimizer=dict(type=AdamW, lr=4e-4, weight_decay=0.05))
param_scheduler = dict(type=CosineSchedule)
train_cfg = dict(max_steps=50_000, val_interval=5_000)
