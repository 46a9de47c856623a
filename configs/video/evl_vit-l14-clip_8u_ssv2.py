"""EVL on CLIP ViT-L/14, Something-Something v2, 8 frames, one per segment, decoder of 12 layers.

Paper row: EVL (arXiv 2208.03550), 66.7 top-1 (paper, best of L/14), quoted as published.
Recipe: ours, after the released Kinetics recipe: no release gives this one. 8 GPUs x 32 clips, each batch in 2 parts.
Command: torchrun --nproc_per_node=8 tools/train.py configs/video/evl_vit-l14-clip_8u_ssv2.py --launcher pytorch --amp fp16
Measured here: nothing.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.evl_ssv2 import *

model.encoder.update(name="ViT-L-14-quickgelu")
model.reader.update(qkv_dim=1024, num_heads=16)
train_cfg.update(batch_split=2)
