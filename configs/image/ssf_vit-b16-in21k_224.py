"""SSF on ViT-B/16 (in21k): VTAB-1k, FGVC or few-shot lists.

Recipe: the paper's; rate, decay and stochastic depth per task are in settings/ssf.json. Pixels: mean and deviation 0.5, as released.
Data: see configs/_base_/images.py
Command: python tools/vtab.py configs/image/ssf_vit-b16-in21k_224.py --benchmark vtab
Measured here: nothing.
"""

from mmengine.config import read_base

from xmodal.adapters.ssf import ssf
from xmodal.engine.ema import EMAHook

with read_base():
    from .._base_.vit_b16_in21k import *

about.update(settings="ssf")
model.encoder.update(statistics="half")
model.encoder.encoder.update(drop_path=0)
model.update(adapters=[dict(type=ssf)])
benchmarks.fgvc.model.head.update(label_smoothing=0.1)
benchmarks.fgvc.update(default_hooks=dict(ema=dict(type=EMAHook, decay=0.9998)))
