"""Mona on Swin-B (ImageNet-22k): two adapters a block with depth-wise filters; VTAB-1k, FGVC or few-shot lists.

Recipe: ours on this data, after NOAH's (petl_100e): the paper's image sets are Flowers, Pets and VOC with Swin-L, AdamW
3.125e-5 at batch 16 for 100 epochs. Pixels: ImageNet's statistics.
Data: see configs/_base_/images.py
Command: python tools/vtab.py configs/image/mona_swin-b-in22k_224.py --benchmark vtab
Measured here: nothing.
"""

from mmengine.config import read_base

from xmodal.adapters.mona import mona
from xmodal.encoders.convnet import convnet
from xmodal.encoders.statistics import with_statistics
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
        encoder=dict(type=convnet, name="swin_base_patch4_window7_224.ms_in22k", pretrained=True, drop_path_rate=0.1),
    ),
    adapters=[dict(type=mona)],
    head=dict(type=ClassificationHead, num_classes=100),
)
