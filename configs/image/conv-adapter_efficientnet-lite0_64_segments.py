"""Conv-Adapter (g = 8) and a light FPN on the frozen ImageNet EfficientNet-Lite0: which drawn shape covers each pixel.

Paper: Conv-Adapter (arXiv 2208.07463) reports dense tasks; no row of it is aimed at. Pictures drawn here, 64 px, 9 classes.
Command: python tools/train.py configs/image/conv-adapter_efficientnet-lite0_64_segments.py
Measured here: mIoU 77.8 on 120 test pictures, seed 0 (78.2 on the validation pictures); docs/images.md.
"""

from mmengine.config import read_base

from xmodal.adapters.conv_adapter import conv_adapter
from xmodal.toys.shape_segments import ShapeSegments
from xmodal.dense import MeanIoU, SegmentationModel
from xmodal.encoders.efficientnet_lite import efficientnet_lite0
from xmodal.engine.checkpoint import CheckpointHook
from xmodal.heads.dense import LightFPN

with read_base():
    from .._base_.petl_100e import *
    from .._base_.runtime import *

model = dict(
    type=SegmentationModel,
    encoder=dict(type=efficientnet_lite0, image_size=64),
    adapters=[dict(type=conv_adapter, reduction=8, norms="none")],
    head=dict(type=LightFPN, num_classes=9, class_weight=[0.2, *[1.0] * 8]),  # the background is 88 % of the pixels
)
train_dataloader = dict(batch_size=8, num_workers=0, dataset=dict(type=ShapeSegments, count=600, size=64, flip=True))
val_dataloader = dict(batch_size=20, num_workers=0, dataset=dict(type=ShapeSegments, count=120, size=64, world=2))
test_dataloader = dict(batch_size=20, num_workers=0, dataset=dict(type=ShapeSegments, count=120, size=64, world=1))
val_evaluator = dict(type=MeanIoU, num_classes=9)
test_evaluator = dict(type=MeanIoU, num_classes=9)
optim_wrapper.optimizer.update(lr=5e-3)
param_scheduler.update(warmup_epochs=1)
train_cfg.update(max_epochs=14, val_interval=7)
default_hooks.update(checkpoint=dict(type=CheckpointHook, every_epochs=1, every_steps=None, best="miou"))
