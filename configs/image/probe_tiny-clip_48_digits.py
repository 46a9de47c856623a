"""Linear probe on the tiny CLIP's image tower, 16-shot digits: real scans that come with scikit-learn; 12 epochs.

The base of tools/demo_image.py, which sets the tower, the method and the rate as options of the command.
Recipe: AdamW, a fifth of the steps warm-up, cosine to 0. Pixels: the tower's statistics.
Command: python tools/train.py configs/image/probe_tiny-clip_48_digits.py
Another method: --cfg-options "model.adapters=[{'type': 'convpass', 'hidden': 16}]" optim_wrapper.optimizer.lr=1e-2
Measured here: docs/images.md, with each method's rate.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.digits import *

optim_wrapper.update(optimizer=dict(lr=1e-1), clip_grad=dict(max_norm=1.0))
param_scheduler.update(warmup_epochs=2.4, final=0.0)
train_cfg.update(max_epochs=12, val_interval=12)
