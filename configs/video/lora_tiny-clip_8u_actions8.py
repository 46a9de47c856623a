"""LoRA on queries and values of the frozen tiny CLIP, averaged over time; 8 built-in actions, 8 frames.

Recipe: ours. Data: see configs/_base_/actions8.py
Command: python tools/train.py configs/video/lora_tiny-clip_8u_actions8.py
Measured here: 27.8 % of 240 test clips, mean of seeds 0, 1, 2 (27.1 / 28.3 / 27.9), not tuned;
    with variant=actions12 28.7 % of 300 (28.3 / 26.7 / 31.0).
"""

from mmengine.config import read_base

from xmodal.adapters.lora import lora

with read_base():
    from .._base_.runtime import *
    from .._base_.actions import *
    from .._base_.actions8 import *

model.adapters = [dict(type=lora, rank=8)]
