"""EVL with 4 decoder layers on CLIP for Kinetics-400: ViT-B/16 with 8 frames x stride 16, or a variant.

Paper rows: EVL (arXiv 2208.03550), top-1 / top-5 of the release (82.9 top-1 in the paper), quoted as published.
    ViT-B/16         8 x 16: 82.8 / 95.8   16 x 16: 83.7 / 96.2   32 x 8: 84.3 / 96.6
    ViT-L/14         8 x 16: 86.3 / 97.2   16 x 16: 86.9 / 97.4   32 x 8: 87.7 / 97.6
    ViT-L/14, 336 px                                              32 x 8: 87.7 / 97.8 (without weights; its recipe is ours)
Recipe: the released recipe, 8 GPUs x 32 clips, those of ViT-L/14 in 2 to 8 parts.
Command: torchrun --nproc_per_node=8 tools/train.py configs/video/evl_vit-b16-clip_8x16_k400.py --launcher pytorch --amp fp16
Variants: --cfg-options variant=vit-l14_32x8
Measured here: nothing.
"""

from mmengine.config import read_base

from video.sampling import DenseSampling

with read_base():
    from .._base_.evl import *
    from .._base_.k400 import *

_clip = dict(num_frames=8, sampling=dict(type=DenseSampling, stride=16))
train_dataloader.update(batch_size=32)
train_dataloader.dataset.update(**_clip, transforms=_transforms)
val_dataloader.dataset.update(**_clip, size=224, spatial_views=1, temporal_views=3, interpolation="bilinear")


def _variant(count, stride, views=(3, 1), size=224, parts=1, **model):
    clip = dict(num_frames=count, sampling=dict(stride=stride))
    crop = dict(_transforms[1], size=size)
    return dict(
        model=dict(encoder=model.pop("encoder", {}), reader=dict(num_frames=count, **model)),
        train_dataloader=dict(dataset=dict(**clip, transforms=[_transforms[0], crop])),
        val_dataloader=dict(dataset=dict(**clip, size=size, spatial_views=views[0], temporal_views=views[1])),
        train_cfg=dict(batch_split=parts),
    )


_large = dict(encoder=dict(name="ViT-L-14-quickgelu"), qkv_dim=1024, num_heads=16)
_wide = dict(_large, encoder=dict(name="ViT-L-14-336-quickgelu"), size=336)
variants = {
    "vit-b16_16x16": _variant(16, 16),
    "vit-b16_32x8": _variant(32, 8),
    "vit-l14_8x16": _variant(8, 16, views=(1, 3), **_large),
    "vit-l14_16x16": _variant(16, 16, parts=2, **_large),
    "vit-l14_32x8": _variant(32, 8, parts=4, **_large),
    "vit-l14-336_32x8": _variant(32, 8, parts=8, **_wide),
}
