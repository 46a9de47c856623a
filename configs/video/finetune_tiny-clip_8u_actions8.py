"""Everything trains: ST-Adapters at the full rate, the tiny CLIP at a twentieth, 8 built-in actions, 8 frames.

Recipe: ours, chosen on the validation clips. Data: see configs/_base_/actions8.py
Command: python tools/train.py configs/video/finetune_tiny-clip_8u_actions8.py
Untrained encoder: --cfg-options model.encoder.weights=random
Measured here: 99.2 % of 240 test clips, seed 0 (96.9 on the validation clips), not tuned.
"""

from mmengine.config import read_base
from torch.optim import AdamW

from video.readers import TimeMeanReader
from video.st_adapter import st_adapter
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
    freeze_encoder=False,
    adapters=[dict(type=st_adapter, bottleneck=64, kernel_size=(3, 1, 1), sites=["pre_attn", "pre_mlp"])],
    reader=dict(type=TimeMeanReader),
    head=dict(type=ClassificationHead, num_classes=8, dropout=0.1, label_smoothing=0.05),
)
_full = {f"encoder.blocks.{i}.{site}": 1.0 for i in range(4) for site in ("pre_attn", "pre_mlp")}
del _full["encoder.blocks.3.pre_mlp"]  # behind what the reader reads: it does not train
train_dataloader.update(batch_size=8)
optim_wrapper = dict(
    optimizer=dict(type=AdamW, lr=3e-3, weight_decay=0.02),
    paramwise_cfg=dict(no_decay=[".bias", "norm"], lr_mult=dict(encoder=0.05, **_full)),
    clip_grad=dict(max_norm=1.0),
)
param_scheduler = dict(type=CosineSchedule, warmup_epochs=0.6)
train_cfg = dict(max_epochs=6)
