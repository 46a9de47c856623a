"""The recipe of the built-in actions on the shipped tiny CLIP: frozen tower, AdamW 3e-3, 0.6 epochs warm-up, cosine.

Features are averaged over time and read by a linear head; a leaf sets the method, the epochs and what it does otherwise.
Untrained encoder: --cfg-options model.encoder.weights=random
"""

from torch.optim import AdamW

from video.readers import TimeMeanReader
from xmodal.encoders.tiny import tiny_clip_encoder
from xmodal.engine.schedule import CosineSchedule
from xmodal.heads.classification import ClassificationHead
from xmodal.model import TransferModel

model = dict(
    type=TransferModel,
    encoder=dict(type=tiny_clip_encoder),
    reader=dict(type=TimeMeanReader),
    head=dict(type=ClassificationHead, num_classes=8, dropout=0.1, label_smoothing=0.05),
)
optim_wrapper = dict(
    optimizer=dict(type=AdamW, lr=3e-3, weight_decay=0.02),
    paramwise_cfg=dict(no_decay=[".bias"]),
    clip_grad=dict(max_norm=1.0),
)
param_scheduler = dict(type=CosineSchedule, warmup_epochs=0.6)
train_cfg = dict(max_epochs=6)
