"""A NOAH subnet (sizes of every block by --cfg-options model.adapters.0.prompt=[...]) on ViT-B/16 (in21k): VTAB-1k, FGVC or few-shot lists.

Recipe: the paper's retraining of a subnet. Pixels: ImageNet's statistics.
Data: see configs/_base_/images.py
Command: python tools/vtab.py configs/image/noah_vit-b16-in21k_224.py --benchmark vtab
Measured here: nothing.
"""

from mmengine.config import read_base

from xmodal.adapters.noah import noah
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
    adapters=[dict(type=noah, prompt=10, lora=10, adapter=10)],
    head=dict(type=ClassificationHead, num_classes=100),
)
benchmarks.fewshot.update(optim_wrapper=dict(optimizer=dict(lr=5e-3)))
