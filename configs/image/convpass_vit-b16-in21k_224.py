"""Convpass, or beside attention only with `variant=attn`, on ViT-B/16 (in21k): VTAB-1k, FGVC or few-shot lists.

Recipe: the paper's; its scale per task is in settings/convpass.json. Pixels: ImageNet's statistics.
Data: see configs/_base_/images.py
Command: python tools/vtab.py configs/image/convpass_vit-b16-in21k_224.py --benchmark vtab
Variants: --cfg-options variant=attn
Measured here: nothing.
"""

from mmengine.config import read_base

from xmodal.adapters.convpass import convpass

with read_base():
    from .._base_.vit_b16_in21k import *

about.update(settings="convpass")
model.encoder.encoder.update(drop_path=0.1)
model.update(adapters=[dict(type=convpass, hidden=8, scale=1.0)])
benchmarks.fewshot.update(optim_wrapper=dict(optimizer=dict(lr=5e-3)))
variants = dict(attn=dict(model=dict(adapters=[dict(type=convpass, hidden=8, scale=1.0, sites=["attn"])])))
