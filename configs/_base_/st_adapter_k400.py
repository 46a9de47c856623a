"""ST-Adapter on CLIP ViT-B/16 for Kinetics-400, 8 frames x stride 16: the released recipe, 3 GPUs x 64 clips."""

from mmengine.config import read_base
from torch.optim import AdamW

from video.readers import TimeMeanReader
from video.sampling import DenseSampling
from video.st_adapter import st_adapter
from video.transforms import HorizontalFlip, RandomCrop, ShortSideJitter
from xmodal.encoders.openclip_weights import open_clip_encoder
from xmodal.engine.schedule import CosineSchedule
from xmodal.heads.classification import ClassificationHead
from xmodal.model import TransferModel

with read_base():
    from .k400 import *
    from .runtime import *

model = dict(
    type=TransferModel,
    encoder=dict(type=open_clip_encoder, name="ViT-B-16-quickgelu", pretrained="openai"),
    adapters=[dict(type=st_adapter, bottleneck=384, kernel_size=(3, 1, 1), sites=["pre_mlp"])],
    reader=dict(type=TimeMeanReader),
    head=dict(type=ClassificationHead, num_classes=400, dropout=0.5),
)
_clip = dict(num_frames=8, sampling=dict(type=DenseSampling, stride=16))
train_dataloader.update(batch_size=64)
train_dataloader.dataset.update(
    **_clip,
    transforms=[
        dict(type=ShortSideJitter, low=224, high=258),
        dict(type=RandomCrop, size=224),
        dict(type=HorizontalFlip, prob=0.5),
    ],
)
val_dataloader.dataset.update(**_clip, size=224, spatial_views=1, temporal_views=3, interpolation="bicubic")

# lr = 1e-3 x 192 clips / 256; everything decays but the biases.
optim_wrapper = dict(
    optimizer=dict(type=AdamW, lr=7.5e-4, weight_decay=1e-2),
    paramwise_cfg=dict(no_decay=[".bias"]),
)
param_scheduler = dict(type=CosineSchedule, warmup_epochs=2)
train_cfg = dict(max_epochs=12, val_interval=5)
