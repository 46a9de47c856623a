"""SSF on ViT-B/16 (in21k), VTAB-1k.

Recipe: the paper's; rate, decay and stochastic depth per task are in settings/ssf.json. Pixels: mean and deviation 0.5, as released. Data: see configs/_base_/images_vtab.py
Command: python tools/vtab.py configs/image/ssf_vit-b16-in21k_224_vtab.py
Measured here: nothing; neither the data nor the encoder's weights are on the machines this was written on.
"""

from mmengine.config import read_base

from xmodal.adapters.ssf import ssf
from xmodal.encoders.statistics import with_statistics
from xmodal.encoders.timm_weights import timm_encoder
from xmodal.heads.classification import ClassificationHead
from xmodal.model import TransferModel

with read_base():
    from .._base_.images_vtab import *
    from .._base_.petl_100e import *
    from .._base_.runtime import *

about = dict(benchmark="vtab", settings="ssf")
model = dict(
    type=TransferModel,
    encoder=dict(
        type=with_statistics,
        statistics="half",
        encoder=dict(type=timm_encoder, name="vit_base_patch16_224.orig_in21k", weights="pretrained", drop_path=0),
    ),
    adapters=[dict(type=ssf)],
    head=dict(type=ClassificationHead, num_classes=100),
)
