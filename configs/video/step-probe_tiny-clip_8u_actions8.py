"""STEP-style probe (our definition): one attention with a position per frame on the frozen tiny CLIP; 8 built-in actions.

Recipe: ours. Data: see configs/_base_/actions8.py
Command: python tools/train.py configs/video/step-probe_tiny-clip_8u_actions8.py
Measured here: 59.4 % of 240 test clips, mean of seeds 0, 1, 2 (60.4 / 60.4 / 57.5);
    with variant=actions12 47.2 % of 300 (47.3 / 45.0 / 49.3).
"""

from mmengine.config import read_base

from video.step_probe import StepProbe

with read_base():
    from .._base_.runtime import *
    from .._base_.actions import *
    from .._base_.actions8 import *

model.reader = dict(type=StepProbe, num_frames=8)
optim_wrapper.optimizer.update(lr=1e-2)
train_cfg.update(max_epochs=40, val_interval=40)
cache = dict(views=4)  # the frozen part of four random views of each video, once
