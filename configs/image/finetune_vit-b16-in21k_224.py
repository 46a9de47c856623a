"""Full fine-tuning on ViT-B/16 (in21k): VTAB-1k, FGVC or few-shot lists.

Recipe: NOAH's with a rate of 1e-4. Pixels: ImageNet's statistics.
Data: see configs/_base_/images.py
Command: python tools/vtab.py configs/image/finetune_vit-b16-in21k_224.py --benchmark vtab
Measured here: nothing.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.vit_b16_in21k import *

model.update(freeze_encoder=False)
optim_wrapper.optimizer.update(lr=1e-4)
