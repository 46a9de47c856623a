"""VQT on ViT-B/16 (in21k), FGVC.

Recipe: the paper's; queries per task and the searched rates are in settings/vqt.json. Pixels: ImageNet's statistics. Data: see configs/_base_/images_fgvc.py
Command: python tools/vtab.py configs/image/vqt_vit-b16-in21k_224_fgvc.py
Measured here: nothing; neither the data nor the encoder's weights are on the machines this was written on.
"""

from mmengine.config import read_base
from torch.optim import Adam

from xmodal.vqt import VisualQueries
from xmodal.encoders.statistics import with_statistics
from xmodal.encoders.timm_weights import timm_encoder
from xmodal.heads.classification import ClassificationHead
from xmodal.model import TransferModel

with read_base():
    from .._base_.images_fgvc import *
    from .._base_.petl_100e import *
    from .._base_.runtime import *

about = dict(benchmark="fgvc", settings="vqt")
model = dict(
    type=TransferModel,
    encoder=dict(
        type=with_statistics,
        statistics="imagenet",
        encoder=dict(type=timm_encoder, name="vit_base_patch16_224.orig_in21k", weights="pretrained"),
    ),
    reader=dict(type=VisualQueries, num_queries=1, dropout=0.1),
    head=dict(type=ClassificationHead, num_classes=200),
)
train_dataloader.update(batch_size=128)
optim_wrapper = dict(optimizer=dict(type=Adam, lr=0.125, weight_decay=1e-4))
