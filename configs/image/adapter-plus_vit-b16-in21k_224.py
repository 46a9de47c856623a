"""Adapter+ on ViT-B/16 (in21k): VTAB-1k, FGVC or few-shot lists.

Paper rows: Adapters Strike Back (arXiv 2406.06820), quoted as published: VTAB-1k 77.6, FGVC 90.7 (its own width per task).
Recipe: the released one: AdamW 1e-3, decay 1e-4 but for vectors, 100 epochs of batch 64, 10 of them warm-up; pixels scaled
to -1..1 as the weights were trained; drop path 0.1 in tower and adapters, last epoch.
Differs: rates move every step; the warm-up begins at a hundredth of the rate, as there.
Data: see configs/_base_/images.py
Command: python tools/vtab.py configs/image/adapter-plus_vit-b16-in21k_224.py --benchmark vtab
Measured here: nothing.
"""

from mmengine.config import read_base

from xmodal.adapters.adapter_plus import adapter_plus

with read_base():
    from .._base_.vit_b16_in21k import *

model.update(adapters=[dict(type=adapter_plus, hidden=8)])
optim_wrapper.update(paramwise_cfg=dict(no_decay=[".bias", "norm", "scale", "cls_token", "pos_embed"]))
param_scheduler.update(start=0.01, final=0.001)
