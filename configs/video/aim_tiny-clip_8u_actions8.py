"""AIM on the frozen tiny CLIP: adapters beside and behind attention, and the same attention over time; 8 built-in actions.

Recipe: ours. Data: see configs/_base_/actions8.py
Command: python tools/train.py configs/video/aim_tiny-clip_8u_actions8.py
Measured here: 48.8 % of 240 test clips, seed 0 (51.2 on the validation clips), not tuned.
"""

from mmengine.config import read_base

from video.aim import aim

with read_base():
    from .._base_.runtime import *
    from .._base_.actions import *
    from .._base_.actions8 import *

model.adapters = [dict(type=aim, num_frames=8, hidden=64)]
train_cfg.update(max_epochs=8)
