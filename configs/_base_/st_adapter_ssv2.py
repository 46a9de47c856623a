"""ST-Adapter on CLIP ViT-B/16 for Something-Something v2, 8 frames, one per segment: the released recipe, 4 GPUs x 64 clips."""

from mmengine.config import read_base
from torch.optim import AdamW

from video.augment import RandAugment
from video.readers import TimeMeanReader
from video.sampling import UniformSampling
from video.st_adapter import st_adapter
from video.transforms import RandomResizedCrop
from xmodal.encoders.openclip_weights import open_clip_encoder
from xmodal.engine.schedule import CosineSchedule
from xmodal.heads.classification import ClassificationHead
from xmodal.model import TransferModel

with read_base():
    from .ssv2 import *
    from .runtime import *

model = dict(
    type=TransferModel,
    encoder=dict(type=open_clip_encoder, name="ViT-B-16-quickgelu", pretrained="openai"),
    adapters=[dict(type=st_adapter, bottleneck=384, kernel_size=(3, 1, 1), sites=["pre_attn", "pre_mlp"])],
    reader=dict(type=TimeMeanReader),
    head=dict(type=ClassificationHead, num_classes=174, dropout=0.5),
)
_clip = dict(num_frames=8, sampling=dict(type=UniformSampling))
train_dataloader.update(batch_size=64)
train_dataloader.dataset.update(
    **_clip,
    transforms=[
        dict(type=RandAugment, config="rand-m7-n4-mstd0.5-inc1"),
        dict(type=RandomResizedCrop, size=224, area=(0.08, 1.0), ratio=(3 / 4, 4 / 3)),
    ],
)
val_dataloader.dataset.update(**_clip, size=224, spatial_views=3, temporal_views=1, interpolation="bicubic")

# lr = 1e-3 x 256 clips / 256; everything decays but the biases.
optim_wrapper = dict(
    optimizer=dict(type=AdamW, lr=1e-3, weight_decay=1e-2),
    paramwise_cfg=dict(no_decay=[".bias"]),
)
param_scheduler = dict(type=CosineSchedule, warmup_epochs=2)
train_cfg = dict(max_epochs=50, val_interval=5)
