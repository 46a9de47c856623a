"""A NOAH subnet on the tiny CLIP's image tower, 16-shot digits: real scans that come with scikit-learn.

Recipe: the paper's, with the steps and rates of a small tower. Pixels: the tower's statistics.
Command: python tools/noah.py configs/image/noah_tiny-clip_48_digits.py (see --help for the search's options)
Measured here: docs/images.md, with 16 epochs.
"""

from mmengine.config import read_base

from xmodal.adapters.noah import noah

with read_base():
    from .._base_.digits import *

model.update(adapters=[dict(type=noah, prompt=8, lora=8, adapter=8)])
