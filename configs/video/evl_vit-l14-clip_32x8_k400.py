"""EVL on CLIP ViT-L/14, Kinetics-400, 32 frames x stride 8, decoder of 4 layers.

Paper row: EVL (arXiv 2208.03550), 87.7 / 97.6 (release), quoted as published.
Recipe: the released recipe. 8 GPUs x 32 clips, each batch in 4 parts.
Command: torchrun --nproc_per_node=8 tools/train.py configs/video/evl_vit-l14-clip_32x8_k400.py --launcher pytorch --amp fp16
Measured here: nothing.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.evl_k400 import *

train_dataloader.dataset.update(num_frames=32)
train_dataloader.dataset.sampling.update(stride=8)
val_dataloader.dataset.update(num_frames=32, spatial_views=3, temporal_views=1)
val_dataloader.dataset.sampling.update(stride=8)
model.encoder.update(name="ViT-L-14-quickgelu")
model.reader.update(num_frames=32, qkv_dim=1024, num_heads=16)
train_cfg.update(batch_split=4)
