"""Florence-style (arXiv 2111.11432): UniCL's loss on a Swin with convolutional stem and downsampling.

Nothing of Florence was released: this is built after its text, at Swin-T's size, and claims none of its numbers.
Recipe: UniCL's. Data: see configs/_base_/pairs.py
Command: torchrun --nproc-per-node 16 tools/train.py configs/pretrain/florence-style_coswin-t_224_pairs.py --launcher pytorch
Measured here: nothing.
"""

from mmengine.config import read_base

from xmodal.encoders.unicl import unicl

with read_base():
    from .._base_.pairs import *

model.clip = dict(type=unicl, stem="conv", merge="conv", drop_path=0.1, name="florence-style")
