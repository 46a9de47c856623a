"""EVL on CLIP ViT-L/14, Kinetics-400, 8 frames x stride 16, decoder of 4 layers.

Paper row: EVL (arXiv 2208.03550), 86.3 / 97.2 (release), quoted as published.
Recipe: the released recipe. 8 GPUs x 32 clips.
Command: torchrun --nproc_per_node=8 tools/train.py configs/video/evl_vit-l14-clip_8x16_k400.py --launcher pytorch --amp fp16
Measured here: nothing.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.evl_k400 import *

model.encoder.update(name="ViT-L-14-quickgelu")
model.reader.update(qkv_dim=1024, num_heads=16)
