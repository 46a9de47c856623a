"""Find the drawn shape that covers each pixel: 64 px, 9 classes, a light FPN on the frozen ImageNet EfficientNet-Lite0.

14 epochs of 600 pictures, AdamW 5e-3, cosine; validation and test on unseen pictures of other worlds.
"""

from mmengine.config import read_base

from xmodal.dense import MeanIoU, SegmentationModel
from xmodal.encoders.efficientnet_lite import efficientnet_lite0
from xmodal.engine.checkpoint import CheckpointHook
from xmodal.heads.dense import LightFPN
from xmodal.toys.shape_segments import ShapeSegments

with read_base():
    from .petl_100e import *
    from .runtime import *

model = dict(
    type=SegmentationModel,
    encoder=dict(type=efficientnet_lite0, image_size=64),
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
