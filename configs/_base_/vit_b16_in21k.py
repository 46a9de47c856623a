"""ViT-B/16 pretrained on ImageNet-21k (AugReg), frozen, fed with ImageNet's pixel statistics, and a linear head.

With the benchmarks of images.py and the recipe of petl_100e.py. A config adds what it trains: `model.update(adapters=[...])`.
"""

from mmengine.config import read_base

from xmodal.encoders.statistics import with_statistics
from xmodal.encoders.timm_weights import timm_encoder
from xmodal.heads.classification import ClassificationHead
from xmodal.model import TransferModel

with read_base():
    from .images import *
    from .petl_100e import *
    from .runtime import *

model = dict(
    type=TransferModel,
    encoder=dict(
        type=with_statistics,
        statistics="imagenet",
        encoder=dict(type=timm_encoder, name="vit_base_patch16_224.orig_in21k", weights="pretrained"),
    ),
    head=dict(type=ClassificationHead, num_classes=100),
)
