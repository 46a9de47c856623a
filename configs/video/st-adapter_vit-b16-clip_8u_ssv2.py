"""ST-Adapter on CLIP for Something-Something v2: ViT-B/16 with 8 frames, one per segment, or a variant.

What differs from Kinetics: two adapters a block, RandAugment and no flip, 50 epochs, lr = 1e-3 x 256 clips / 256.
Paper rows: ST-Adapter (arXiv 2206.13559), top-1 / top-5, quoted as published.
    ViT-B/16    8 frames: 67.1 / 91.2 (66.9 with the released checkpoint)   16: 69.3 / 92.3   32: 69.5 / 92.6
    ViT-L/14    8 frames: 70.0                                              16: 71.8          32: 72.3
Recipe: the released recipe, 4 GPUs x 64 clips; the variants are ours after it, each batch in 2 to 8 parts.
Command: torchrun --nproc_per_node=4 tools/train.py configs/video/st-adapter_vit-b16-clip_8u_ssv2.py --launcher pytorch --amp fp16
Variants: --cfg-options variant=vit-l14_32u
Measured here: nothing.
"""

from mmengine.config import read_base

from video.augment import RandAugment
from video.sampling import UniformSampling
from video.transforms import RandomResizedCrop

with read_base():
    from .._base_.ssv2 import *
    from .._base_.st_adapter import *

model.adapters[0].update(sites=["pre_attn", "pre_mlp"])
model.head.update(num_classes=174)
_clip = dict(num_frames=8, sampling=dict(type=UniformSampling))
train_dataloader.dataset.update(
    **_clip,
    transforms=[
        dict(type=RandAugment, config="rand-m7-n4-mstd0.5-inc1"),
        dict(type=RandomResizedCrop, size=224, area=(0.08, 1.0), ratio=(3 / 4, 4 / 3)),
    ],
)
val_dataloader.dataset.update(**_clip, size=224, spatial_views=3, temporal_views=1, interpolation="bicubic")
optim_wrapper.optimizer.update(lr=1e-3)
train_cfg.update(max_epochs=50)


def _frames(count, parts):
    clip = dict(dataset=dict(num_frames=count))
    return dict(train_dataloader=clip, val_dataloader=clip, train_cfg=dict(batch_split=parts))


_large = dict(encoder=dict(name="ViT-L-14-quickgelu"))
variants = {
    "vit-b16_16u": _frames(16, parts=2),
    "vit-b16_32u": _frames(32, parts=4),
    "vit-l14_8u": dict(model=_large, **_frames(8, parts=2)),
    "vit-l14_16u": dict(model=_large, **_frames(16, parts=4)),
    "vit-l14_32u": dict(model=_large, **_frames(32, parts=8)),
}
