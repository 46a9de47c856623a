"""ST-Adapter on CLIP ViT-B/16, Kinetics-400, 8 frames x stride 16.

Paper row: ST-Adapter (arXiv 2206.13559), 82.0 / 95.7 (paper), 82.2 top-1 (released checkpoint), quoted as published.
Recipe: the released recipe. 3 GPUs x 64 clips.
Command: torchrun --nproc_per_node=3 tools/train.py configs/video/st-adapter_vit-b16-clip_8x16_k400.py --launcher pytorch --amp fp16
Measured here: nothing.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.st_adapter_k400 import *
