"""VQT (2 queries) on the tiny CLIP's image tower, 16-shot digits: real scans that come with scikit-learn.

Recipe: AdamW, 40 epochs, a rate that was not tuned at this length. Pixels: the tower's statistics.
Command: python tools/train.py configs/image/vqt_tiny-clip_48_digits.py
Measured here: nothing at this length; docs/images.md has shorter runs of the method.
"""

from mmengine.config import read_base

from xmodal.vqt import VisualQueries
from xmodal.encoders.tiny import tiny_clip_encoder
from xmodal.heads.classification import ClassificationHead
from xmodal.model import TransferModel

with read_base():
    from .._base_.digits import *
    from .._base_.petl_100e import *
    from .._base_.runtime import *

model = dict(
    type=TransferModel,
    encoder=dict(type=tiny_clip_encoder),
    reader=dict(type=VisualQueries, num_queries=2),
    head=dict(type=ClassificationHead, num_classes=10),
)
optim_wrapper.optimizer.update(lr=3e-2)
param_scheduler.update(warmup_epochs=4)
train_cfg.update(max_epochs=40, val_interval=10)
