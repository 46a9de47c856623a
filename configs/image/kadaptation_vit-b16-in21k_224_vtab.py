"""KAdaptation of queries and values on ViT-B/16 (in21k), VTAB-1k.

Recipe: NOAH's, ours for this method (published on CLIP with ELEVATER's search). Pixels: ImageNet's statistics. Data: see configs/_base_/images_vtab.py
Command: python tools/vtab.py configs/image/kadaptation_vit-b16-in21k_224_vtab.py
Measured here: nothing; neither the data nor the encoder's weights are on the machines this was written on.
"""

from mmengine.config import read_base

from xmodal.adapters.kadaptation import kadaptation
from xmodal.encoders.statistics import with_statistics
from xmodal.encoders.timm_weights import timm_encoder
from xmodal.heads.classification import ClassificationHead
from xmodal.model import TransferModel

with read_base():
    from .._base_.images_vtab import *
    from .._base_.petl_100e import *
    from .._base_.runtime import *

about = dict(benchmark="vtab", settings=None)
model = dict(
    type=TransferModel,
    encoder=dict(
        type=with_statistics,
        statistics="imagenet",
        encoder=dict(type=timm_encoder, name="vit_base_patch16_224.orig_in21k", weights="pretrained"),
    ),
    adapters=[dict(type=kadaptation, terms=32)],
    head=dict(type=ClassificationHead, num_classes=100),
)
