"""ST-Adapter on CLIP for Kinetics-400: ViT-B/16 with 8 frames x stride 16, or a variant.

Paper rows: ST-Adapter (arXiv 2206.13559), top-1 / top-5, quoted as published.
    ViT-B/16    8 x 16: 82.0 / 95.7 (82.2 with the released checkpoint)   16 x 16: 82.5 / 96.0   32 x 8: 82.7 / 96.2
    ViT-L/14    8 x 16: 86.7 / 97.5                                       16 x 16: 86.9 / 97.6   32 x 8: 87.2 / 97.6
Recipe: the released recipe, 3 GPUs x 64 clips; the variants are ours after it, each batch in 2 to 8 parts.
Command: torchrun --nproc_per_node=3 tools/train.py configs/video/st-adapter_vit-b16-clip_8x16_k400.py --launcher pytorch --amp fp16
Variants: --cfg-options variant=vit-l14_32x8
Measured here: nothing.
"""

from mmengine.config import read_base

from video.sampling import DenseSampling
from video.transforms import HorizontalFlip, RandomCrop, ShortSideJitter

with read_base():
    from .._base_.k400 import *
    from .._base_.st_adapter import *

_clip = dict(num_frames=8, sampling=dict(type=DenseSampling, stride=16))
train_dataloader.dataset.update(
    **_clip,
    transforms=[
        dict(type=ShortSideJitter, low=224, high=258),
        dict(type=RandomCrop, size=224),
        dict(type=HorizontalFlip, prob=0.5),
    ],
)
val_dataloader.dataset.update(**_clip, size=224, spatial_views=1, temporal_views=3, interpolation="bicubic")


def _frames(count, stride, parts):
    clip = dict(dataset=dict(num_frames=count, sampling=dict(stride=stride)))
    return dict(train_dataloader=clip, val_dataloader=clip, train_cfg=dict(batch_split=parts))


_large = dict(encoder=dict(name="ViT-L-14-quickgelu"))
variants = {
    "vit-b16_16x16": _frames(16, 16, parts=2),
    "vit-b16_32x8": _frames(32, 8, parts=4),
    "vit-l14_8x16": dict(model=_large, **_frames(8, 16, parts=2)),
    "vit-l14_16x16": dict(model=_large, **_frames(16, 16, parts=4)),
    "vit-l14_32x8": dict(model=_large, **_frames(32, 8, parts=8)),
}
