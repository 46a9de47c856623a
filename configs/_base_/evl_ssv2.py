"""EVL with 12 decoder layers on CLIP ViT-B/16 for Something-Something v2, 8 frames, one per segment, 8 GPUs x 32 clips."""

from mmengine.config import read_base

from video.sampling import UniformSampling

with read_base():
    from .evl_k400 import *
    from .ssv2 import *

model.reader.update(num_layers=12)
model.head.update(num_classes=174)
_clip = dict(num_frames=8, sampling=dict(type=UniformSampling))
train_dataloader.update(batch_size=32)
train_dataloader.dataset.update(**_clip, transforms=_transforms)
val_dataloader.dataset.update(**_clip, size=224, spatial_views=3, temporal_views=1, interpolation="bilinear")
