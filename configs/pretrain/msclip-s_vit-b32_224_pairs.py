"""MS-CLIP-S B/32 (arXiv 2207.12661), 132,408,001 weights: attention and MLP shared, early convolution, parallel branch.

The training code was never released; rates are those of its yaml (1e-4 for B/32, decay 0.2, 5 of 32 epochs warm-up).
Data: see configs/_base_/pairs.py; with captions alone UniCL's loss is CLIP's, which the paper trains.
Command: torchrun --nproc-per-node 16 tools/train.py configs/pretrain/msclip-s_vit-b32_224_pairs.py --launcher pytorch
Measured here: nothing.
"""

from mmengine.config import read_base

from xmodal.encoders.msclip import MSCLIP

with read_base():
    from .._base_.pairs import *

model.clip = dict(type=MSCLIP)
optim_wrapper.optimizer.update(lr=1e-4, weight_decay=0.2, betas=(0.9, 0.98))
del optim_wrapper["clip_grad"]
