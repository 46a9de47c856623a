"""FacT-TT, or FacT-TK with `variant=tk`, on ViT-B/16 (in21k): VTAB-1k, FGVC or few-shot lists.

Recipe: the paper's; rank and scale per task are in settings/fact-tt.json and fact-tk.json. Pixels: ImageNet's statistics.
Data: see configs/_base_/images.py
Command: python tools/vtab.py configs/image/fact-tt_vit-b16-in21k_224.py --benchmark vtab
Variants: --cfg-options variant=tk
Measured here: nothing.
"""

from mmengine.config import read_base

from xmodal.adapters.fact import fact

with read_base():
    from .._base_.vit_b16_in21k import *

about.update(settings="fact-tt")
model.encoder.encoder.update(drop_path=0.1)
model.update(adapters=[dict(type=fact, form="tt", rank=16, scale=1.0)])
benchmarks.fewshot.update(optim_wrapper=dict(optimizer=dict(lr=5e-3)))
variants = dict(
    tk=dict(about=dict(settings="fact-tk"), model=dict(adapters=[dict(type=fact, form="tk", rank=32, scale=1.0)]))
)
