"""Co-attention (METER, arXiv 2111.02387) on the tokens of the frozen tiny CLIP: image-text matching and masked words.

Florence (2111.11432) answers questions with such an adapter; nothing of it was released, and no row of it is aimed at.
Recipe: ours, not tuned. Data: drawn when the run starts.
Command: python tools/train.py configs/pretrain/co-attention_tiny-clip_48_shapes.py
Measured here: nothing.
"""

from mmengine.config import read_base

from xmodal.fusion import FusionModel
from xmodal.heads.co_attention import CoAttentionHead

with read_base():
    from .._base_.shape_captions import *

model = dict(
    type=FusionModel,
    clip=dict(type=tiny_clip),
    head=dict(type=CoAttentionHead, dim=128, depth=2, num_heads=4),
)
train_dataloader.dataset.update(size=48, close=False, labeled=0.0)
del val_dataloader, val_evaluator, val_cfg, test_dataloader, test_evaluator, test_cfg  # noqa: F821
default_hooks.checkpoint.update(best=None)
train_cfg = dict(max_epochs=10)
