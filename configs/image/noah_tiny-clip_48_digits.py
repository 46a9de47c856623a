"""A NOAH subnet on the tiny CLIP's image tower, 16-shot digits: real scans that come with scikit-learn.

Recipe: the paper's, with the steps and rates of a small tower. Pixels: the tower's statistics.
Command: python tools/noah.py configs/image/noah_tiny-clip_48_digits.py (see --help for the search's options)
Measured here: docs/images.md, with 16 epochs.
"""

from mmengine.config import read_base

from xmodal.adapters.noah import noah
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
    adapters=[dict(type=noah, prompt=8, lora=8, adapter=8)],
    head=dict(type=ClassificationHead, num_classes=10),
)
optim_wrapper.optimizer.update(lr=3e-3)
param_scheduler.update(warmup_epochs=4)
train_cfg.update(max_epochs=40, val_interval=10)
