"""Dynamic Head between a light FPN and the frozen ImageNet EfficientNet-Lite0: which drawn shape covers each pixel.

Paper: Dynamic Head (arXiv 2106.08322) detects, as Florence (2111.11432) does with it; no row of it is aimed at.
Command: python tools/train.py configs/image/dynamic-head_efficientnet-lite0_64_segments.py
Measured here: nothing.
"""

from mmengine.config import read_base

from xmodal.heads.dynamic_head import DynamicHead

with read_base():
    from .._base_.shape_segments import *

model.head.update(neck=dict(type=DynamicHead, dim=64, depth=1))
