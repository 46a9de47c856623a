"""Convpass beside attention only on ViT-B/16 (in21k): VTAB-1k, FGVC or few-shot lists.

Recipe: the paper's; its scale per task is in settings/convpass.json. Pixels: ImageNet's statistics.
Data: see configs/_base_/images.py
Command: python tools/vtab.py configs/image/convpass-attn_vit-b16-in21k_224.py --benchmark vtab
Measured here: nothing.
"""

from mmengine.config import read_base

from xmodal.adapters.convpass import convpass
from xmodal.encoders.statistics import with_statistics
from xmodal.encoders.timm_weights import timm_encoder
from xmodal.heads.classification import ClassificationHead
from xmodal.model import TransferModel

with read_base():
    from .._base_.images import *
    from .._base_.petl_100e import *
    from .._base_.runtime import *

about.update(settings="convpass")
model = dict(
    type=TransferModel,
    encoder=dict(
        type=with_statistics,
        statistics="imagenet",
        encoder=dict(type=timm_encoder, name="vit_base_patch16_224.orig_in21k", weights="pretrained", drop_path=0.1),
    ),
    adapters=[dict(type=convpass, hidden=8, scale=1.0, sites=["attn"])],
    head=dict(type=ClassificationHead, num_classes=100),
)
benchmarks.fewshot.update(optim_wrapper=dict(optimizer=dict(lr=5e-3)))
