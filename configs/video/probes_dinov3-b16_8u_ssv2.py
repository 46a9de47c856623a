"""Three probes of frozen image towers on Something-Something v2, 8 frames: which reads order, which does not.

The attentive probe (depth 4) on DINOv3 ViT-B/16; variants put the STEP-style probe (a position per frame) and Efficient
Probing in its place and CLIP, PE-Core and SigLIP2 in the tower's. All but the STEP-style probe are blind to order.
Recipe: ours, V-JEPA 2's optimization with 3 rates; 8 GPUs x 32 clips, one clip, 3 crops.
Data: see configs/_base_/ssv2.py. Weights: timm's and OpenAI's.
Command: torchrun --nproc_per_node=8 tools/train.py configs/video/probes_dinov3-b16_8u_ssv2.py --launcher pytorch --amp fp16
Variants: --cfg-options variant=step-probe, efficient-probe, clip-b16, pe-core-b16, siglip2-b16
Measured here: nothing.
"""

from mmengine.config import read_base

from video.sampling import UniformSampling

with read_base():
    from .._base_.ssv2 import *
    from .._base_.image_tower_probes import *

_clip = dict(num_frames=8, sampling=dict(type=UniformSampling))
train_dataloader.update(batch_size=32)
train_dataloader.dataset.update(**_clip, transforms=[_change, _crop])
val_dataloader.dataset.update(**_clip, size=224, spatial_views=3, temporal_views=1, interpolation="bicubic")
