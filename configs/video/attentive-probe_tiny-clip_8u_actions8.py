"""V-JEPA 2's attentive probe (depth 1) on all tokens of the frozen tiny CLIP; 8 built-in actions, 8 frames.

The probe itself is blind to the order of frames, which half of these classes differ in: about 50 % is all it can reach.
Recipe: ours. Data: see configs/_base_/actions8.py
Command: python tools/train.py configs/video/attentive-probe_tiny-clip_8u_actions8.py
Variants: --cfg-options variant=actions12; variant=frames reads one feature a frame, in order; variant=grid trains 6 probes at
    once and chooses on a tenth of the training data
Measured here: 32.2 % of 240 test clips, mean of seeds 0, 1, 2 (34.2 / 28.8 / 33.8);
    variant=frames 62.4 (62.9 / 61.7 / 62.5);
    with variant=actions12 29.7 % of 300 (30.7 / 29.0 / 29.3).
"""

from mmengine.config import read_base

from video.attentive_probe import AttentiveProbe

with read_base():
    from .._base_.runtime import *
    from .._base_.actions import *
    from .._base_.actions8 import *

model.reader = dict(type=AttentiveProbe, depth=1)
optim_wrapper.optimizer.update(lr=1e-3)
train_cfg.update(max_epochs=40, val_interval=40)
cache = dict(views=4)  # the frozen part of four random views of each video, once
variants["frames"] = dict(
    model=dict(reader=dict(per_frame=True, num_frames=8)),
    optim_wrapper=dict(optimizer=dict(lr=3e-3)),
    train_cfg=dict(max_epochs=10, val_interval=10),
    cache=None,
)
variants["grid"] = dict(
    probes=dict(lr=[3e-3, 1e-3, 3e-4], weight_decay=[0.02, 0.2], holdout=0.1), optim_wrapper=dict(clip_grad=None)
)
