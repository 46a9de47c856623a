"""DiST beside frozen CLIP ViT-B/16 for Something-Something v2: 16 frames, of which the tower sees 8; or a variant.

Paper rows: DiST (arXiv 2309.07911), top-1, quoted as published, by frames of the tower:
ViT-B/16 8 frames 68.7, 16 frames 70.2, 32 frames 70.9, ViT-L/14 32 frames 73.1.
Recipe: the released one, 8 GPUs x 32 clips: AdamW 3.2e-4, decay 1e-4, 36 epochs, 6 of warm-up, mixup 0.8, CutMix 1.0.
Differs: a linear head in the place of cosines with text features, no color jitter, rates move every step.
Command: torchrun --nproc_per_node=8 tools/train.py configs/video/dist_vit-b16-clip_16u_ssv2.py --launcher pytorch --amp fp16
Variants: --cfg-options variant=vit-b16_32u, vit-b16_64u, vit-l14_64u
Measured here: nothing.
"""

from mmengine.config import read_base
from torch.optim import AdamW

from video.dist import DiST
from video.sampling import UniformSampling
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
    reader=dict(type=DiST, num_frames=16, alpha=2, pooling_layers=2),
    head=dict(type=ClassificationHead, num_classes=174),
    mixing=dict(mixup=0.8, cutmix=1.0, num_classes=174, label_smoothing=0.1),
)
_clip = dict(num_frames=16, sampling=dict(type=UniformSampling))
train_dataloader.update(batch_size=32)
train_dataloader.dataset.update(
    **_clip,
    transforms=[
        dict(type=RandomResizedCrop, size=224, area=(0.4, 1.0), ratio=(3 / 4, 4 / 3)),
        dict(type=HorizontalFlip, prob=0.5, label_pairs=SSV2_FLIP_PAIRS),
    ],
)
val_dataloader.dataset.update(**_clip, size=224, spatial_views=1, temporal_views=3, interpolation="bicubic")
optim_wrapper = dict(
    optimizer=dict(type=AdamW, lr=3.2e-4, weight_decay=1e-4),
    paramwise_cfg=dict(no_decay=["norm", "bias", "cls_token", "positions"]),
)
param_scheduler = dict(type=CosineSchedule, warmup_epochs=6, start=2.5e-4)
train_cfg = dict(max_epochs=36, val_interval=4)


def _frames(count, **more):
    clip = dict(dataset=dict(num_frames=count))
    return dict(model=dict(reader=dict(num_frames=count), **more), train_dataloader=clip, val_dataloader=clip)


variants = {
    "vit-b16_32u": _frames(32),
    "vit-b16_64u": _frames(64),
    "vit-l14_64u": _frames(64, encoder=dict(name="ViT-L-14-quickgelu")),
}
