"""UniCL (arXiv 2204.03610) on the tiny CLIP's towers from random weights, captions and labels in every batch.

Recipe: ours. Data: drawn when the run starts.
Command: python tools/train.py configs/pretrain/unicl_tiny-clip_32_shapes.py
Measured here: 35.8 % zero-shot of 64 classes, mean of seeds 0, 1, 2 (standard deviation 6.0); docs/pretraining.md.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.shape_captions import *
