"""VQT on ViT-B/16 (in21k): VTAB-1k, FGVC or few-shot lists.

Recipe: the paper's; queries per task and the searched rates are in settings/vqt.json. Pixels: ImageNet's statistics.
Data: see configs/_base_/images.py
Command: python tools/vtab.py configs/image/vqt_vit-b16-in21k_224.py --benchmark vtab
Measured here: nothing.
"""

from mmengine.config import read_base
from torch.optim import Adam

from xmodal.vqt import VisualQueries

with read_base():
    from .._base_.vit_b16_in21k import *

about.update(settings="vqt")
model.update(reader=dict(type=VisualQueries, num_queries=1, dropout=0.1))
train_dataloader.update(batch_size=128)
optim_wrapper = dict(optimizer=dict(type=Adam, lr=0.125, weight_decay=1e-4))
