"""Convpass on Swin-B (ImageNet-22k): bypasses on the un-windowed map, random convolutions at the start.

Recipe: the paper's; its scale per task is in settings/convpass.json. Pixels: ImageNet's statistics.
Data: see configs/_base_/images.py
Command: python tools/vtab.py configs/image/convpass_swin-b-in22k_224.py --benchmark vtab
Measured here: nothing.
"""

from mmengine.config import read_base

from xmodal.adapters.convpass import convpass
from xmodal.encoders.convnet import convnet
from xmodal.encoders.statistics import with_statistics
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
        encoder=dict(type=convnet, name="swin_base_patch4_window7_224.ms_in22k", pretrained=True, drop_path_rate=0.1),
    ),
    adapters=[dict(type=convpass, hidden=8, scale=1.0, xavier_init=True)],
    head=dict(type=ClassificationHead, num_classes=100),
)
