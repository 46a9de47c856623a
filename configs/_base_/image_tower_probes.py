"""Probes of frozen image towers on video: the attentive probe on DINOv3 ViT-B/16, other probes and towers as variants.

V-JEPA 2's optimization with three rates, chosen on a tenth of the training data; 8 frames, 8 GPUs x 32 clips.
"""

from mmengine.config import read_base

from video.attentive_probe import AttentiveProbe
from video.augment import RandAugment
from video.step_probe import StepProbe
from video.transforms import RandomResizedCrop
from xmodal.efficient_probe import EfficientProbe
from xmodal.encoders.openclip_weights import open_clip_encoder
from xmodal.encoders.timm_weights import timm_encoder

with read_base():
    from .attentive_probe import *

model.encoder = dict(type=timm_encoder, name="vit_base_patch16_dinov3.lvd1689m", weights="pretrained", image_size=224)
model.reader = dict(type=AttentiveProbe)
probes = dict(lr=[3e-3, 1e-3, 3e-4], weight_decay=[0.1], holdout=0.1)
_change = dict(type=RandAugment, config="rand-m7-n4-mstd0.5-inc1")
_crop = dict(type=RandomResizedCrop, size=224, area=(0.08, 1.0), ratio=(3 / 4, 4 / 3))
variants = {
    "step-probe": dict(model=dict(reader=dict(type=StepProbe, num_frames=8))),
    "efficient-probe": dict(
        model=dict(reader=dict(type=EfficientProbe, num_queries=32), head=dict(norm="batch", init_std=None))
    ),
    "clip-b16": dict(model=dict(encoder=dict(type=open_clip_encoder, name="ViT-B-16-quickgelu", pretrained="openai"))),
    "pe-core-b16": dict(model=dict(encoder=dict(name="vit_pe_core_base_patch16_224.fb"))),
    "siglip2-b16": dict(model=dict(encoder=dict(name="vit_base_patch16_siglip_224.v2_webli"))),
}
