"""VPT-deep, 50 prompts a block, or VPT-shallow with `variant=shallow`, on ViT-B/16 (in21k): VTAB-1k, FGVC or few-shot lists.

Recipe: the paper's; rate and decay are searched (settings/vpt.json), the prompt lengths it published are not here. Pixels: ImageNet's statistics.
Data: see configs/_base_/images.py
Command: python tools/vtab.py configs/image/vpt-deep_vit-b16-in21k_224.py --benchmark vtab
Variants: --cfg-options variant=shallow
Measured here: nothing.
"""

from mmengine.config import read_base
from torch.optim import SGD

from xmodal.adapters.vpt import vpt

with read_base():
    from .._base_.vit_b16_in21k import *

about.update(settings="vpt")
model.update(adapters=[dict(type=vpt, num_tokens=50, deep=True, dropout=0.1)])
optim_wrapper = dict(optimizer=dict(type=SGD, lr=0.25, momentum=0.9, weight_decay=1e-3))
variants = dict(shallow=dict(model=dict(adapters=[dict(type=vpt, num_tokens=50, deep=False, dropout=0.1)])))
