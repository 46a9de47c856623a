"""Side4Video of width 320 beside frozen CLIP ViT-B/16 for Something-Something v2: 8 frames.

Paper rows: Side4Video (arXiv 2311.15769), top-1, quoted as published (8 frames x 3 crops x 2 clips): B/16 70.6
Recipe: the released one, 8 GPUs x 16 clips x 2 repeats: AdamW 1e-3, decay 0.15 on everything, 30 epochs, 4 of warm-up.
Differs: short side 256 and an area crop, flips exchange the labels of three pairs; the best epoch is not chosen on the
validation set (last.pth); rates move every step. EVA E/14 is not here: no reader of its files.
Command: torchrun --nproc_per_node=8 tools/train.py configs/video/side4video_vit-b16-clip_8u_ssv2.py --launcher pytorch --amp fp16
Variants: --cfg-options variant=vit-l14
Measured here: nothing.
"""

from mmengine.config import read_base
from torch.optim import AdamW

from video.augment import RandAugment
from video.sampling import UniformSampling
from video.side4video import Side4Video
from video.transforms import SSV2_FLIP_PAIRS, HorizontalFlip, RandomResizedCrop
from xmodal.encoders.openclip_weights import open_clip_encoder
from xmodal.engine.schedule import CosineSchedule
from xmodal.heads.classification import ClassificationHead
from xmodal.model import TransferModel

with read_base():
    from .._base_.runtime import *
    from .._base_.ssv2 import *

model = dict(
    type=TransferModel,
    encoder=dict(type=open_clip_encoder, name="ViT-B-16-quickgelu", pretrained="openai"),
    reader=dict(type=Side4Video, dim=320),
    head=dict(type=ClassificationHead, num_classes=174, label_smoothing=0.1, init_std=None),
)
_clip = dict(num_frames=8, sampling=dict(type=UniformSampling))
train_dataloader.update(batch_size=32)
train_dataloader.dataset.update(
    **_clip,
    transforms=[
        dict(type=RandAugment, config="rand-m7-n4-mstd0.5-inc1"),
        dict(type=RandomResizedCrop, size=224, area=(0.08, 1.0), ratio=(3 / 4, 4 / 3)),
        dict(type=HorizontalFlip, prob=0.5, label_pairs=SSV2_FLIP_PAIRS),
    ],
)
val_dataloader.dataset.update(**_clip, size=224, spatial_views=3, temporal_views=2, interpolation="bilinear")
optim_wrapper = dict(optimizer=dict(type=AdamW, lr=1e-3, weight_decay=0.15))
param_scheduler = dict(type=CosineSchedule, warmup_epochs=4)
train_cfg = dict(max_epochs=30, val_interval=5)
variants = {
    "vit-l14": dict(
        model=dict(encoder=dict(name="ViT-L-14-quickgelu"), reader=dict(dim=512)),
        optim_wrapper=dict(optimizer=dict(lr=1e-4)),
    )
}
