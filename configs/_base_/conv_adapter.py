"""Conv-Adapter (conv parallel, reduction 8) in a frozen CNN, with the released defaults.

Training: RandomResizedCrop and flips; test: 256 x 256, center crop of 224. A config adds its encoder:
`model.encoder.update(encoder=dict(type=convnet, name=...))`.
"""

from mmengine.config import read_base

from xmodal.adapters.conv_adapter import conv_adapter
from xmodal.data.transforms import CenterCrop, HorizontalFlip, RandomResizedCrop, Resize
from xmodal.encoders.statistics import with_statistics
from xmodal.engine.schedule import CosineSchedule
from xmodal.heads.classification import ClassificationHead
from xmodal.model import TransferModel

with read_base():
    from .images import *
    from .petl_100e import *
    from .runtime import *

about.update(settings="conv-adapter")
model = dict(
    type=TransferModel,
    encoder=dict(type=with_statistics, statistics="imagenet"),
    adapters=[dict(type=conv_adapter, reduction=8)],
    head=dict(type=ClassificationHead, num_classes=100, dropout=0.2, init_std=None),
)
param_scheduler = dict(type=CosineSchedule, final=1e-3)
_middle = [dict(type=Resize, size=[256, 256]), dict(type=CenterCrop, size=224)]
train_dataloader.dataset.update(
    transforms=[dict(type=RandomResizedCrop, size=224, antialias=True), dict(type=HorizontalFlip)]
)
val_dataloader.dataset.update(transforms=_middle)
test_dataloader.dataset.update(transforms=_middle)
