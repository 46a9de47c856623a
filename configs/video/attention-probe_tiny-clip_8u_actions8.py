"""Temporal attention probe: one query over the frames' frozen features of the tiny CLIP; 8 built-in actions, 8 frames.

Recipe: ours. Data: see configs/_base_/actions8.py
Command: python tools/train.py configs/video/attention-probe_tiny-clip_8u_actions8.py
Measured here: 61.2 % of 240 test clips, seed 0 (57.5 on the validation clips), not tuned.
"""

from mmengine.config import read_base
from torch.optim import AdamW

from video.readers import AttentionProbe
from xmodal.encoders.tiny import tiny_clip_encoder
from xmodal.engine.schedule import CosineSchedule
from xmodal.heads.classification import ClassificationHead
from xmodal.model import TransferModel

with read_base():
    from .._base_.actions8 import *
    from .._base_.runtime import *

model = dict(
    type=TransferModel,
    encoder=dict(type=tiny_clip_encoder),
    reader=dict(type=AttentionProbe, num_frames=8),
    head=dict(type=ClassificationHead, num_classes=8, dropout=0.1, label_smoothing=0.05),
)
train_dataloader.update(batch_size=8)
optim_wrapper = dict(
    optimizer=dict(type=AdamW, lr=3e-3, weight_decay=0.02),
    paramwise_cfg=dict(no_decay=[".bias"]),
    clip_grad=dict(max_norm=1.0),
)
param_scheduler = dict(type=CosineSchedule, warmup_epochs=0.6)
train_cfg = dict(max_epochs=10)
