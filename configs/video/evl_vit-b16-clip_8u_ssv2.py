"""EVL on CLIP ViT-B/16, Something-Something v2, 8 frames, one per segment, decoder of 12 layers.

Paper row: EVL (arXiv 2208.03550), about 61 top-1 with 8 frames and 12 decoder layers, quoted as published.
Recipe: ours, after the released Kinetics recipe: no release gives this one. 8 GPUs x 32 clips.
Command: torchrun --nproc_per_node=8 tools/train.py configs/video/evl_vit-b16-clip_8u_ssv2.py --launcher pytorch --amp fp16
Measured here: nothing.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.evl_ssv2 import *
