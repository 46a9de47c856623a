"""CLIP (arXiv 2103.00020) on the tiny CLIP's towers from random weights, every text taken as a caption.

Recipe: ours. Data: drawn when the run starts.
Command: python tools/train.py configs/pretrain/clip_tiny-clip_32_shapes.py
Measured here: 28.0 % zero-shot of 64 classes, mean of seeds 0, 1, 2 (standard deviation 12.3); docs/pretraining.md.
"""

from mmengine.config import read_base

from xmodal.toys.shape_captions import CLASSES, TEMPLATES
from xmodal.encoders.tiny import tiny_clip
from xmodal.pretraining import ContrastiveModel

with read_base():
    from .._base_.shape_captions import *

model = dict(
    type=ContrastiveModel, clip=dict(type=tiny_clip, weights="random", image_size=32), loss="clip", classes=CLASSES,
    templates=TEMPLATES,
)  # fmt: skip
