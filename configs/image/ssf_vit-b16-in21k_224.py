"""SSF on ViT-B/16 (in21k): VTAB-1k, FGVC or few-shot lists.

Recipe: the paper's; rate, decay and stochastic depth per task are in settings/ssf.json. Pixels: mean and deviation 0.5, as released.
Data: see configs/_base_/images.py
Command: python tools/vtab.py configs/image/ssf_vit-b16-in21k_224.py --benchmark vtab
Measured here: nothing.
"""

from mmengine.config import read_base

from xmodal.adapters.ssf import ssf
from xmodal.encoders.statistics import with_statistics
from xmodal.encoders.timm_weights import timm_encoder
from xmodal.engine.ema import EMAHook
from xmodal.heads.classification import ClassificationHead
from xmodal.model import TransferModel

with read_base():
    from .._base_.images import *
    from .._base_.petl_100e import *
    from .._base_.runtime import *

about.update(settings="ssf")
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
benchmarks.fgvc.model.head.update(label_smoothing=0.1)
benchmarks.fgvc.update(default_hooks=dict(ema=dict(type=EMAHook, decay=0.9998)))
