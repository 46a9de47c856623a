"""Conv-Adapter (conv parallel, reduction 8) on ResNet-50 (ImageNet-1k, V2): VTAB-1k, FGVC or few-shot lists.

Recipe: the released defaults (those per data set were not released). Pixels: ImageNet's statistics.
Data: see configs/_base_/images.py
Command: python tools/vtab.py configs/image/conv-adapter_resnet50-in1k_224.py --benchmark vtab
Measured here: nothing.
"""

from mmengine.config import read_base

from xmodal.encoders.convnet import convnet

with read_base():
    from .._base_.conv_adapter import *

model.encoder.update(encoder=dict(type=convnet, name="resnet50.tv2_in1k", pretrained=True))
