"""AIM on CLIP ViT-B/16 as released; a leaf adds the data set, its clips and what it adapts.

AdamW 3e-4, decay 0.05 on everything but CLIP's norms and embeddings, batch 64 of 8 GPUs, a warm-up of 2.5 epochs, cosine.
Differs: rates move every step, where the release moves the cosine every epoch, and the warm-up begins at 0.1 as there.
"""

from mmengine.config import read_base
from torch.optim import AdamW

from video.aim import aim
from video.readers import TimeMeanReader
from xmodal.encoders.openclip_weights import open_clip_encoder
from xmodal.engine.schedule import CosineSchedule
from xmodal.heads.classification import ClassificationHead
from xmodal.model import TransferModel

with read_base():
    from .runtime import *

model = dict(
    type=TransferModel,
    encoder=dict(type=open_clip_encoder, name="ViT-B-16-quickgelu", pretrained="openai"),
    adapters=[dict(type=aim, num_frames=8)],
    reader=dict(type=TimeMeanReader, norm_first=True),
    head=dict(type=ClassificationHead, num_classes=400, dropout=0.5, init_std=0.01),
)
optim_wrapper = dict(
    optimizer=dict(type=AdamW, lr=3e-4, weight_decay=0.05),
    paramwise_cfg=dict(no_decay=["encoder.norm."]),
)
param_scheduler = dict(type=CosineSchedule, warmup_epochs=2.5, start=0.1)
train_cfg = dict(max_epochs=30, val_interval=5)
