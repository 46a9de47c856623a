"""ST-Adapter on CLIP ViT-B/16 as released; a leaf adds the data set, its clips and its rates."""

from mmengine.config import read_base
from torch.optim import AdamW

from video.readers import TimeMeanReader
from video.st_adapter import st_adapter
from xmodal.encoders.openclip_weights import open_clip_encoder
from xmodal.engine.schedule import CosineSchedule
from xmodal.heads.classification import ClassificationHead
from xmodal.model import TransferModel

with read_base():
    from .runtime import *

model = dict(
    type=TransferModel,
    encoder=dict(type=open_clip_encoder, name="ViT-B-16-quickgelu", pretrained="openai"),
    adapters=[dict(type=st_adapter, bottleneck=384, kernel_size=(3, 1, 1), sites=["pre_mlp"])],
    reader=dict(type=TimeMeanReader),
    head=dict(type=ClassificationHead, num_classes=400, dropout=0.5),
)
# lr = 1e-3 x 192 clips / 256; everything decays but the biases.
optim_wrapper = dict(
    optimizer=dict(type=AdamW, lr=7.5e-4, weight_decay=1e-2),
    paramwise_cfg=dict(no_decay=[".bias"]),
)
param_scheduler = dict(type=CosineSchedule, warmup_epochs=2)
train_cfg = dict(max_epochs=12, val_interval=5)
