"""ST-Adapter on CLIP ViT-B/16 for Something-Something v2, 8 frames, one per segment: the released recipe, 4 GPUs x 64 clips.

What differs from Kinetics: two adapters a block, RandAugment and no flip, 50 epochs, lr = 1e-3 x 256 clips / 256.
"""

from mmengine.config import read_base

from video.augment import RandAugment
from video.sampling import UniformSampling
from video.transforms import RandomResizedCrop

with read_base():
    from .st_adapter_k400 import *
    from .ssv2 import *

model.adapters[0].update(sites=["pre_attn", "pre_mlp"])
model.head.update(num_classes=174)
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
optim_wrapper.optimizer.update(lr=1e-3)
train_cfg.update(max_epochs=50)
