"""EVL with 4 decoder layers on CLIP ViT-B/16 for Kinetics-400, 8 frames x stride 16: the released recipe, 8 GPUs x 32 clips."""

from mmengine.config import read_base
from torch.optim import AdamW

from video.augment import RandAugment
from video.sampling import DenseSampling
from video.evl import EVLDecoder
from video.transforms import RandomResizedCrop
from xmodal.encoders.openclip_weights import open_clip_encoder
from xmodal.engine.schedule import CosineSchedule
from xmodal.heads.classification import ClassificationHead
from xmodal.model import TransferModel

with read_base():
    from .k400 import *
    from .runtime import *

model = dict(
    type=TransferModel,
    encoder=dict(type=open_clip_encoder, name="ViT-B-16-quickgelu", pretrained="openai"),
    reader=dict(type=EVLDecoder, num_frames=8, num_layers=4, qkv_dim=768, num_heads=12, mlp_dropout=0.5),
    head=dict(type=ClassificationHead, num_classes=400, dropout=0.5, norm=True, init_std=None),
)
_clip = dict(num_frames=8, sampling=dict(type=DenseSampling, stride=16))
train_dataloader.update(batch_size=32)
_transforms = [
    dict(type=RandAugment, config="rand-m7-n4-mstd0.5-inc1"),
    dict(type=RandomResizedCrop, size=224, area=(0.08, 1.0), ratio=(3 / 4, 4 / 3), interpolation="bilinear"),
]
train_dataloader.dataset.update(**_clip, transforms=_transforms)
val_dataloader.dataset.update(**_clip, size=224, spatial_views=1, temporal_views=3, interpolation="bilinear")

# One group: everything decays, biases, norms and the query too; no warm-up, no flip.
optim_wrapper = dict(optimizer=dict(type=AdamW, lr=4e-4, weight_decay=0.05))
param_scheduler = dict(type=CosineSchedule)
train_cfg = dict(max_steps=50_000, val_interval=5_000)
