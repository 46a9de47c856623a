"""Few-shot digits on the tiny CLIP's image tower: scikit-learn's scans at 48 x 48, 16 shots a class.

Validation on 300 images, test on 500 others; AdamW, 40 epochs. A config sets what trains and its rate.
"""

from mmengine.config import read_base

from xmodal.encoders.tiny import tiny_clip_encoder
from xmodal.heads.classification import ClassificationHead
from xmodal.model import TransferModel
from xmodal.toys.digits import Digits

with read_base():
    from .petl_100e import *
    from .runtime import *

model = dict(
    type=TransferModel, encoder=dict(type=tiny_clip_encoder), head=dict(type=ClassificationHead, num_classes=10)
)
_digits = dict(type=Digits, size=48, shots=16)
train_dataloader = dict(batch_size=32, num_workers=0, dataset=dict(**_digits, split="train"))
val_dataloader = dict(batch_size=100, num_workers=0, dataset=dict(**_digits, split="val", test_mode=True))
test_dataloader = dict(batch_size=100, num_workers=0, dataset=dict(**_digits, split="test", test_mode=True))
optim_wrapper.optimizer.update(lr=3e-3)
param_scheduler.update(warmup_epochs=4)
train_cfg.update(max_epochs=40, val_interval=10)
