"""BitFit: the biases of the tiny CLIP train, averaged over time; 8 built-in actions, 8 frames.

Recipe: ours. Data: see configs/_base_/actions8.py
Command: python tools/train.py configs/video/bitfit_tiny-clip_8u_actions8.py
Measured here: 27.9 % of 240 test clips, mean of seeds 0, 1, 2 (28.8 / 26.7 / 28.3), not tuned;
    with variant=actions12 27.4 % of 300 (30.7 / 26.0 / 25.7).
"""

from mmengine.config import read_base

from xmodal.adapters.bitfit import bitfit

with read_base():
    from .._base_.runtime import *
    from .._base_.actions import *
    from .._base_.actions8 import *

model.adapters = [dict(type=bitfit)]
