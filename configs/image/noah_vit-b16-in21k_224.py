"""A NOAH subnet (sizes of every block by --cfg-options model.adapters.0.prompt=[...]) on ViT-B/16 (in21k): VTAB-1k, FGVC or few-shot lists.

Recipe: the paper's retraining of a subnet. Pixels: ImageNet's statistics.
Data: see configs/_base_/images.py
Command: python tools/vtab.py configs/image/noah_vit-b16-in21k_224.py --benchmark vtab
Measured here: nothing.
"""

from mmengine.config import read_base

from xmodal.adapters.noah import noah

with read_base():
    from .._base_.vit_b16_in21k import *

model.update(adapters=[dict(type=noah, prompt=10, lora=10, adapter=10)])
benchmarks.fewshot.update(optim_wrapper=dict(optimizer=dict(lr=5e-3)))
