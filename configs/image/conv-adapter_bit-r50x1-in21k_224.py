"""Conv-Adapter (conv parallel, reduction 8) on BiT-M R50x1 (ImageNet-21k): VTAB-1k, FGVC or few-shot lists.

Recipe: the released defaults (those per data set were not released). Pixels: ImageNet's statistics.
Data: see configs/_base_/images.py
Command: python tools/vtab.py configs/image/conv-adapter_bit-r50x1-in21k_224.py --benchmark vtab
Measured here: nothing.
"""

from mmengine.config import read_base

from xmodal.encoders.convnet import convnet

with read_base():
    from .._base_.conv_adapter import *

model.encoder.update(encoder=dict(type=convnet, name="resnetv2_50x1_bit.goog_in21k", pretrained=True))
