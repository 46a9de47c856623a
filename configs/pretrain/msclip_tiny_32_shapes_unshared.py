"""MS-CLIP-S (arXiv 2207.12661) at small size: nothing shared, for comparison at equal steps.

Recipe: ours. Data: drawn when the run starts.
Command: python tools/train.py configs/pretrain/msclip_tiny_32_shapes_unshared.py
Measured here: 95.0 % zero-shot of 64 classes, mean of seeds 0, 1, 2 (standard deviation 1.0); docs/pretraining.md.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.msclip_shapes import *

model.clip.update(share=())
