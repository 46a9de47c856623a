"""FacT-TT on ViT-B/16 (in21k): VTAB-1k, FGVC or few-shot lists.

Recipe: the paper's; rank and scale per task are in settings/fact-tt.json. Pixels: ImageNet's statistics.
Data: see configs/_base_/images.py
Command: python tools/vtab.py configs/image/fact-tt_vit-b16-in21k_224.py --benchmark vtab
Measured here: nothing.
"""

from mmengine.config import read_base

from xmodal.adapters.fact import fact
from xmodal.encoders.statistics import with_statistics
from xmodal.encoders.timm_weights import timm_encoder
from xmodal.heads.classification import ClassificationHead
from xmodal.model import TransferModel

with read_base():
    from .._base_.images import *
    from .._base_.petl_100e import *
    from .._base_.runtime import *

about.update(settings="fact-tt")
model = dict(
    type=TransferModel,
    encoder=dict(
        type=with_statistics,
        statistics="imagenet",
        encoder=dict(type=timm_encoder, name="vit_base_patch16_224.orig_in21k", weights="pretrained", drop_path=0.1),
    ),
    adapters=[dict(type=fact, form="tt", rank=16, scale=1.0)],
    head=dict(type=ClassificationHead, num_classes=100),
)
benchmarks.fewshot.update(optim_wrapper=dict(optimizer=dict(lr=5e-3)))
