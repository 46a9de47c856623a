"""EVL with 12 decoder layers on CLIP for Something-Something v2: ViT-B/16 with 8 frames, one per segment, or ViT-L/14.

Paper rows: EVL (arXiv 2208.03550), top-1, quoted as published: about 61 with ViT-B/16, 66.7 (best of ViT-L/14).
Recipe: ours, after the released Kinetics recipe: no release gives this one. 8 GPUs x 32 clips (ViT-L/14 in 2 parts).
Command: torchrun --nproc_per_node=8 tools/train.py configs/video/evl_vit-b16-clip_8u_ssv2.py --launcher pytorch --amp fp16
Variants: --cfg-options variant=vit-l14
Measured here: nothing.
"""

from mmengine.config import read_base

from video.sampling import UniformSampling

with read_base():
    from .._base_.evl import *
    from .._base_.ssv2 import *

model.reader.update(num_layers=12)
model.head.update(num_classes=174)
_clip = dict(num_frames=8, sampling=dict(type=UniformSampling))
train_dataloader.update(batch_size=32)
train_dataloader.dataset.update(**_clip, transforms=_transforms)
val_dataloader.dataset.update(**_clip, size=224, spatial_views=3, temporal_views=1, interpolation="bilinear")
variants = {
    "vit-l14": dict(
        model=dict(encoder=dict(name="ViT-L-14-quickgelu"), reader=dict(qkv_dim=1024, num_heads=16)),
        train_cfg=dict(batch_split=2),
    )
}
