"""ST-Adapter on CLIP ViT-B/16, Something-Something v2, 8 frames, one per segment.

Paper row: ST-Adapter (arXiv 2206.13559), 67.1 / 91.2 (paper), 66.9 top-1 (released checkpoint), quoted as published.
Recipe: the released recipe. 4 GPUs x 64 clips.
Command: torchrun --nproc_per_node=4 tools/train.py configs/video/st-adapter_vit-b16-clip_8u_ssv2.py --launcher pytorch --amp fp16
Measured here: nothing.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.st_adapter_ssv2 import *
