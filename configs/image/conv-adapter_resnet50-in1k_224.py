"""Conv-Adapter (conv parallel, reduction 8) on ResNet-50 (ImageNet-1k, V2), BiT-M R50x1 (21k) or ConvNeXt-T (1k).

VTAB-1k, FGVC or few-shot lists. Training: RandomResizedCrop and flips; test: 256 x 256, center crop of 224.
Recipe: the released defaults (those per data set were not released). Pixels: ImageNet's statistics.
Data: see configs/_base_/images.py
Command: python tools/vtab.py configs/image/conv-adapter_resnet50-in1k_224.py --benchmark vtab
Variants: --cfg-options variant=bit-r50x1-in21k, variant=convnext-t-in1k
Measured here: nothing.
"""

from mmengine.config import read_base

from xmodal.adapters.conv_adapter import conv_adapter
from xmodal.data.transforms import CenterCrop, HorizontalFlip, RandomResizedCrop, Resize
from xmodal.encoders.convnet import convnet
from xmodal.encoders.statistics import with_statistics
from xmodal.engine.schedule import CosineSchedule
from xmodal.heads.classification import ClassificationHead
from xmodal.model import TransferModel

with read_base():
    from .._base_.images import *
    from .._base_.petl_100e import *
    from .._base_.runtime import *

about.update(settings="conv-adapter")
model = dict(
    type=TransferModel,
    encoder=dict(
        type=with_statistics,
        statistics="imagenet",
        encoder=dict(type=convnet, name="resnet50.tv2_in1k", pretrained=True),
    ),
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
_network = lambda name: dict(model=dict(encoder=dict(encoder=dict(name=name))))  # noqa: E731
variants = {
    "bit-r50x1-in21k": _network("resnetv2_50x1_bit.goog_in21k"),
    "convnext-t-in1k": _network("convnext_tiny.fb_in1k"),
}
