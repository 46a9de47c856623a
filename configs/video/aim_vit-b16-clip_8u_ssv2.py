"""AIM on CLIP for Something-Something v2: ViT-B/16 with 8 frames, one per segment, or a variant.

What differs from Kinetics: an adapter also in front of the attention over time, scale 1, RandAugment, random erasing,
label smoothing, no flip, 50 epochs. ViT-L/14 has one temporal adapter, as in the release, at a tenth of the rate.
Paper rows: AIM (arXiv 2302.03024), top-1, quoted as published: ViT-B/16 8 frames 66.4, ViT-L/14 32 frames 70.6.
Recipe: the released recipe, 8 GPUs x 8 clips. Differs: drop path drops clips, where the release drops token positions.
Command: torchrun --nproc_per_node=8 tools/train.py configs/video/aim_vit-b16-clip_8u_ssv2.py --launcher pytorch --amp fp16
Variants: --cfg-options variant=vit-b16_16u, vit-b16_32u, vit-l14_8u, vit-l14_32u
Measured here: nothing.
"""

from mmengine.config import read_base

from video.augment import RandAugment
from video.sampling import UniformSampling
from video.transforms import RandomResizedCrop, ShortSideJitter
from xmodal.data.transforms import RandomErasing

with read_base():
    from .._base_.ssv2 import *
    from .._base_.aim import *

model.update(adapters=[dict(type=aim, num_frames=8, scale=1.0, temporal_adapters=2)])
model.head.update(num_classes=174, label_smoothing=0.1)
_clip = dict(num_frames=8, sampling=dict(type=UniformSampling))
train_dataloader.update(batch_size=8)
train_dataloader.dataset.update(
    **_clip,
    transforms=[
        dict(type=ShortSideJitter, low=256, high=256),
        dict(type=RandAugment, config="rand-m7-n4-mstd0.5-inc1"),
        dict(type=RandomResizedCrop, size=224, area=(0.08, 1.0), ratio=(3 / 4, 4 / 3)),
        dict(type=RandomErasing, prob=0.25),
    ],
)
val_dataloader.dataset.update(**_clip, size=224, spatial_views=3, temporal_views=1, interpolation="bilinear")
train_cfg.update(max_epochs=50)


def _frames(count, adapters=2, **more):
    clip = dict(dataset=dict(num_frames=count))
    placed = [dict(type=aim, num_frames=count, scale=1.0, temporal_adapters=adapters)]
    return dict(model=dict(adapters=placed, **more), train_dataloader=clip, val_dataloader=clip)


def _large(count):
    tenth = dict(paramwise_cfg=dict(no_decay=[], lr_mult=dict(encoder=0.1)))
    return _frames(count, 1, encoder=dict(name="ViT-L-14-quickgelu")) | dict(optim_wrapper=tenth)


variants = {
    "vit-b16_16u": _frames(16),
    "vit-b16_32u": _frames(32),
    "vit-l14_8u": _large(8),
    "vit-l14_32u": _large(32),
}
