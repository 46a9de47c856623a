"""V-JEPA 2 ViT-L/16 frozen, attentive probes on Kinetics-400: 8 segments of 16 frames, 20 probes at once.

Recipe: the released one, 64 GPUs x 4 clips; 8 segments x 3 crops, no flip, RandAugment, random erasing.
Differs: the probe is chosen on a tenth of the training data; test segments begin at the start of each part of a video.
Data: see configs/_base_/k400.py. Weights: see configs/_base_/attentive_probe.py
Command: torchrun --nproc_per_node=64 tools/train.py configs/video/attentive-probe_vjepa2-l_16x4_k400.py --launcher pytorch --amp fp16
Variants: --cfg-options variant=vit-h, variant=vit-g-384 (256 GPUs x 1 clip)
Measured here: nothing.
"""

from mmengine.config import read_base

from video.augment import RandAugment
from video.segments import SegmentSampling
from video.transforms import RandomResizedCrop
from xmodal.data.transforms import RandomErasing

with read_base():
    from .._base_.k400 import *
    from .._base_.attentive_probe import *

model.reader.update(segments=8)
model.head.update(num_classes=400)
_clip = dict(num_frames=16, sampling=dict(type=SegmentSampling, stride=4, segments=8))
_crop = dict(type=RandomResizedCrop, size=256, area=(0.08, 1.0), ratio=(3 / 4, 4 / 3))
_change = dict(type=RandAugment, config="rand-m7-n4-mstd0.5-inc1")
train_dataloader.update(batch_size=4)
train_dataloader.dataset.update(**_clip, transforms=[_change, _crop, dict(type=RandomErasing, prob=0.25)])
val_dataloader.update(batch_size=1)
val_dataloader.dataset.update(**_clip, size=256, spatial_views=3, temporal_views=8, interpolation="bilinear")
_large = [_change, {**_crop, "size": 384}, dict(type=RandomErasing, prob=0.25)]
variants = {
    "vit-h": dict(model=dict(encoder=dict(weights="data/vjepa2/vith.pt", size="huge"))),
    "vit-g-384": dict(
        model=dict(encoder=dict(weights="data/vjepa2/vitg-384.pt", size="giant", image_size=384)),
        train_dataloader=dict(batch_size=1, dataset=dict(transforms=_large)),
        val_dataloader=dict(dataset=dict(size=384)),
    ),
}
