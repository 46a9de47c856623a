"""VQT (2 queries) on the tiny CLIP's image tower, 16-shot digits: real scans that come with scikit-learn.

Recipe: AdamW, 40 epochs, a rate that was not tuned at this length. Pixels: the tower's statistics.
Command: python tools/train.py configs/image/vqt_tiny-clip_48_digits.py
Measured here: nothing at this length; docs/images.md has shorter runs of the method.
"""

from mmengine.config import read_base

from xmodal.vqt import VisualQueries

with read_base():
    from .._base_.digits import *

model.update(reader=dict(type=VisualQueries, num_queries=2))
optim_wrapper.optimizer.update(lr=3e-2)
