"""AIM on CLIP for Kinetics-400: ViT-B/16 with 32 frames x stride 4, or a variant.

Paper rows: AIM (arXiv 2302.03024; README of the release), top-1 / top-5, quoted as published.
    ViT-B/16   8 x 16: 83.9 / 96.3   16 x 8: 84.5 / 96.6   32 x 4: 84.7 / 96.7
    ViT-L/14   8 x 16: 86.8 / 97.2   16 x 8: 87.3 / 97.6   32 x 4: 87.5 / 97.7
Recipe: the released recipe, 8 GPUs x 8 clips; one temporal adapter, scale 0.5, drop path 0.2; L/14 at a tenth of the rate.
Differs: drop path drops clips, where the release drops token positions; dense clips that are too long for a video repeat
its last frame, where the release wraps around; short side 256 by resizing before the crop.
Command: torchrun --nproc_per_node=8 tools/train.py configs/video/aim_vit-b16-clip_32x4_k400.py --launcher pytorch --amp fp16
Variants: --cfg-options variant=vit-b16_8x16, vit-b16_16x8, vit-l14_8x16, vit-l14_16x8, vit-l14_32x4
Measured here: nothing.
"""

from mmengine.config import read_base

from video.sampling import DenseSampling
from video.transforms import HorizontalFlip, RandomResizedCrop, ShortSideJitter

with read_base():
    from .._base_.k400 import *
    from .._base_.aim import *

model.update(adapters=[dict(type=aim, num_frames=32, scale=0.5)])
train_dataloader.update(batch_size=8)
train_dataloader.dataset.update(
    num_frames=32,
    sampling=dict(type=DenseSampling, stride=4),
    transforms=[
        dict(type=ShortSideJitter, low=256, high=256),
        dict(type=RandomResizedCrop, size=224, area=(0.08, 1.0), ratio=(3 / 4, 4 / 3)),
        dict(type=HorizontalFlip, prob=0.5),
    ],
)
val_dataloader.dataset.update(
    num_frames=32, sampling=dict(type=DenseSampling, stride=4), size=224, spatial_views=1, temporal_views=3,
    interpolation="bilinear",
)  # fmt: skip


def _frames(count, stride, **more):
    clip = dict(dataset=dict(num_frames=count, sampling=dict(stride=stride)))
    adapters = [dict(type=aim, num_frames=count, scale=0.5)]
    return dict(model=dict(adapters=adapters, **more), train_dataloader=clip, val_dataloader=clip)


def _large(count, stride):
    tenth = dict(paramwise_cfg=dict(no_decay=[], lr_mult=dict(encoder=0.1)))
    return _frames(count, stride, encoder=dict(name="ViT-L-14-quickgelu")) | dict(optim_wrapper=tenth)


variants = {
    "vit-b16_8x16": _frames(8, 16),
    "vit-b16_16x8": _frames(16, 8),
    "vit-l14_8x16": _large(8, 16),
    "vit-l14_16x8": _large(16, 8),
    "vit-l14_32x4": _large(32, 4),
}
