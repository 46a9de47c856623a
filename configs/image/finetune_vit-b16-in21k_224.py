"""Full fine-tuning on ViT-B/16 (in21k): VTAB-1k, FGVC or few-shot lists.

Recipe: NOAH's with a rate of 1e-4. Pixels: ImageNet's statistics.
Data: see configs/_base_/images.py
Command: python tools/vtab.py configs/image/finetune_vit-b16-in21k_224.py --benchmark vtab
Measured here: nothing.
"""

from mmengine.config import read_base

from xmodal.encoders.statistics import with_statistics
from xmodal.encoders.timm_weights import timm_encoder
from xmodal.heads.classification import ClassificationHead
from xmodal.model import TransferModel

with read_base():
    from .._base_.images import *
    from .._base_.petl_100e import *
    from .._base_.runtime import *

model = dict(
    type=TransferModel,
    encoder=dict(
        type=with_statistics,
        statistics="imagenet",
        encoder=dict(type=timm_encoder, name="vit_base_patch16_224.orig_in21k", weights="pretrained"),
    ),
    freeze_encoder=False,
    head=dict(type=ClassificationHead, num_classes=100),
)
optim_wrapper.optimizer.update(lr=1e-4)
