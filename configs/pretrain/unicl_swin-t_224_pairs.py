"""UniCL (arXiv 2204.03610), Swin-T and its text transformer, captions and labels mixed.

Recipe: the paper's (AdamW 5e-4, decay 0.1, 32 epochs, 5 of warm-up, clip 5); 16 processes x 256 = 4096 a batch.
Data: see configs/_base_/pairs.py
Command: torchrun --nproc-per-node 16 tools/train.py configs/pretrain/unicl_swin-t_224_pairs.py --launcher pytorch
Measured here: nothing.
"""

from mmengine.config import read_base

from xmodal.encoders.unicl import unicl

with read_base():
    from .._base_.pairs import *

model.clip = dict(type=unicl, drop_path=0.1)
