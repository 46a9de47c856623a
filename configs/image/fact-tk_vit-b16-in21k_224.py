"""FacT-TK on ViT-B/16 (in21k): VTAB-1k, FGVC or few-shot lists.

Recipe: the paper's; rank and scale per task are in settings/fact-tk.json. Pixels: ImageNet's statistics.
Data: see configs/_base_/images.py
Command: python tools/vtab.py configs/image/fact-tk_vit-b16-in21k_224.py --benchmark vtab
Measured here: nothing.
"""

from mmengine.config import read_base

from xmodal.adapters.fact import fact

with read_base():
    from .._base_.images import *
    from .._base_.petl_100e import *
    from .._base_.runtime import *
    from .._base_.vit_b16_in21k import *

about.update(settings="fact-tk")
model.encoder.encoder.update(drop_path=0.1)
model.update(adapters=[dict(type=fact, form="tk", rank=32, scale=1.0)])
benchmarks.fewshot.update(optim_wrapper=dict(optimizer=dict(lr=5e-3)))
