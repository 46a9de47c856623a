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

from video.attentive_probe import AttentiveProbe
from video.augment import RandAugment
from video.sampling import UniformSampling
from video.step_probe import StepProbe
from video.transforms import RandomResizedCrop
from xmodal.efficient_probe import EfficientProbe
from xmodal.encoders.openclip_weights import open_clip_encoder
from xmodal.encoders.timm_weights import timm_encoder

with read_base():
    from .._base_.ssv2 import *
    from .._base_.attentive_probe import *

model.encoder = dict(type=timm_encoder, name="vit_base_patch16_dinov3.lvd1689m", weights="pretrained", image_size=224)
model.reader = dict(type=AttentiveProbe)
probes = dict(lr=[3e-3, 1e-3, 3e-4], weight_decay=[0.1], holdout=0.1)
_clip = dict(num_frames=8, sampling=dict(type=UniformSampling))
_change = dict(type=RandAugment, config="rand-m7-n4-mstd0.5-inc1")
_crop = dict(type=RandomResizedCrop, size=224, area=(0.08, 1.0), ratio=(3 / 4, 4 / 3))
train_dataloader.update(batch_size=32)
train_dataloader.dataset.update(**_clip, transforms=[_change, _crop])
val_dataloader.dataset.update(**_clip, size=224, spatial_views=3, temporal_views=1, interpolation="bicubic")
variants = {
    "step-probe": dict(model=dict(reader=dict(type=StepProbe, num_frames=8))),
    "efficient-probe": dict(
        model=dict(reader=dict(type=EfficientProbe, num_queries=32), head=dict(norm="batch", init_std=None))
    ),
    "clip-b16": dict(model=dict(encoder=dict(type=open_clip_encoder, name="ViT-B-16-quickgelu", pretrained="openai"))),
    "pe-core-b16": dict(model=dict(encoder=dict(name="vit_pe_core_base_patch16_224.fb"))),
    "siglip2-b16": dict(model=dict(encoder=dict(name="vit_base_patch16_siglip_224.v2_webli"))),
}
