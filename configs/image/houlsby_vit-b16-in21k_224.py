"""Houlsby adapters on ViT-B/16 (in21k): VTAB-1k, FGVC or few-shot lists.

Recipe: NOAH's (petl_100e). Pixels: ImageNet's statistics.
Data: see configs/_base_/images.py
Command: python tools/vtab.py configs/image/houlsby_vit-b16-in21k_224.py --benchmark vtab
Measured here: nothing.
"""

from mmengine.config import read_base

from xmodal.adapters.bottleneck import houlsby

with read_base():
    from .._base_.vit_b16_in21k import *

model.update(adapters=[dict(type=houlsby, hidden=8)])
