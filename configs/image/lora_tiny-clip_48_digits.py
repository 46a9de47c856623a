"""LoRA (rank 8, every linear layer) on the tiny CLIP's image tower, 16-shot digits: real scans that come with scikit-learn.

Recipe: AdamW, 40 epochs, a rate that was not tuned at this length. Pixels: the tower's statistics.
Command: python tools/train.py configs/image/lora_tiny-clip_48_digits.py
Measured here: nothing at this length; docs/images.md has shorter runs of the method.
"""

from mmengine.config import read_base

from xmodal.adapters.lora import lora

with read_base():
    from .._base_.digits import *

model.update(adapters=[dict(type=lora, rank=8, targets=["q", "k", "v", "proj", "fc1", "fc2"])])
