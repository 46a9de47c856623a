"""UniCL (arXiv 2204.03610) on the tiny CLIP's towers from random weights, captions and labels in every batch.

`variant=clip` takes every text for a caption, as CLIP (2103.00020) does.
Recipe: ours. Data: drawn when the run starts.
Command: python tools/train.py configs/pretrain/unicl_tiny-clip_32_shapes.py
Variants: --cfg-options variant=clip
Measured here: 35.8 % zero-shot of 64 classes, mean of seeds 0, 1, 2 (standard deviation 6.0); with
    CLIP's loss 28.0 % (12.3); docs/pretraining.md.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.shape_captions import *

variants = dict(clip=dict(model=dict(loss="clip")))
