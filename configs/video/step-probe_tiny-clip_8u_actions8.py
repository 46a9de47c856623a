"""STEP-style probe (our definition): one attention with a position per frame on the frozen tiny CLIP; 8 built-in actions.

Recipe: ours. Data: see configs/_base_/actions8.py
Command: python tools/train.py configs/video/step-probe_tiny-clip_8u_actions8.py
Measured here: nothing.
"""

from mmengine.config import read_base

from video.step_probe import StepProbe

with read_base():
    from .._base_.runtime import *
    from .._base_.actions import *
    from .._base_.actions8 import *

model.reader = dict(type=StepProbe, num_frames=8)
optim_wrapper.optimizer.update(lr=1e-3)
