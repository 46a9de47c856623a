"""Conv-Adapter (g = 8) and a light FPN on the frozen ImageNet EfficientNet-Lite0: which drawn shape covers each pixel.

Paper: Conv-Adapter (arXiv 2208.07463) reports dense tasks; no row of it is aimed at. Pictures drawn here, 64 px, 9 classes.
Command: python tools/train.py configs/image/conv-adapter_efficientnet-lite0_64_segments.py
Variants: --cfg-options variant=mona puts Mona behind every block instead
Measured here: mIoU 77.8 on 120 test pictures, seed 0 (78.2 on the validation pictures); docs/images.md.
"""

from mmengine.config import read_base

from xmodal.adapters.conv_adapter import conv_adapter
from xmodal.adapters.mona import mona

with read_base():
    from .._base_.shape_segments import *

model.update(adapters=[dict(type=conv_adapter, reduction=8, norms="none")])
variants = dict(mona=dict(model=dict(adapters=[dict(type=mona)])))
