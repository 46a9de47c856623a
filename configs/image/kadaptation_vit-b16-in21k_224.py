"""KAdaptation of queries and values on ViT-B/16 (in21k): VTAB-1k, FGVC or few-shot lists.

Recipe: NOAH's, ours for this method (published on CLIP with ELEVATER's search). Pixels: ImageNet's statistics.
Data: see configs/_base_/images.py
Command: python tools/vtab.py configs/image/kadaptation_vit-b16-in21k_224.py --benchmark vtab
Measured here: nothing.
"""

from mmengine.config import read_base

from xmodal.adapters.kadaptation import kadaptation

with read_base():
    from .._base_.vit_b16_in21k import *

model.update(adapters=[dict(type=kadaptation, terms=32)])
