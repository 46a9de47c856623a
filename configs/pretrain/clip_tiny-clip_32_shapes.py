"""CLIP (arXiv 2103.00020) on the tiny CLIP's towers from random weights, every text taken as a caption.

Recipe: ours. Data: drawn when the run starts.
Command: python tools/train.py configs/pretrain/clip_tiny-clip_32_shapes.py
Measured here: 28.0 % zero-shot of 64 classes, mean of seeds 0, 1, 2 (standard deviation 12.3); docs/pretraining.md.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.shape_captions import *

model.update(loss="clip")
