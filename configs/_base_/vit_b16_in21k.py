"""ViT-B/16 pretrained on ImageNet-21k (AugReg), frozen, fed with ImageNet's pixel statistics, and a linear head.

A config adds what it trains: `model.update(adapters=[...])`.
"""

from xmodal.encoders.statistics import with_statistics
from xmodal.encoders.timm_weights import timm_encoder
from xmodal.heads.classification import ClassificationHead
from xmodal.model import TransferModel

model = dict(
    type=TransferModel,
    encoder=dict(
        type=with_statistics,
        statistics="imagenet",
        encoder=dict(type=timm_encoder, name="vit_base_patch16_224.orig_in21k", weights="pretrained"),
    ),
    head=dict(type=ClassificationHead, num_classes=100),
)
