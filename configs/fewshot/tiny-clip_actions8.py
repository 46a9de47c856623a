"""Zero-shot and few-shot action recognition on the built-in 8 actions: frames' features averaged, names as prompts.

Make the clips once: python tools/data/make_actions.py demo_out/actions8
Command: python tools/fewshot.py configs/fewshot/tiny-clip_actions8.py --shots 4 --seeds 1 2 3
Averaged frames are blind to order, and the 8 actions are 4 time-reversed pairs: nothing here can pass 50 %.
Measured here: see docs/fewshot.md
"""

from mmengine.config import read_base

with read_base():
    from .._base_.fewshot_actions8 import *

bench = dict(views=1)
title = "tiny CLIP on 8 built-in actions, frames averaged"
