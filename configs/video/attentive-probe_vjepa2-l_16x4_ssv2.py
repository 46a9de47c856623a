"""V-JEPA 2 ViT-L/16 frozen, attentive probes on Something-Something v2: 2 segments of 16 frames, 20 probes at once.

Paper rows: V-JEPA 2 (arXiv 2506.09985), top-1, quoted as published (best of 20 on the validation set):
    ViT-L 256 px 16 x 4: 73.7      ViT-g 384 px 64 x 2: 77.3
Recipe: the released one, 64 GPUs x 4 clips (ViT-g 128 x 2); 2 segments x 3 crops, no flip, RandAugment, random erasing.
Differs: the probe is chosen on a tenth of the training data; test segments begin at the start of each part of a video.
Data: see configs/_base_/ssv2.py. Weights: vitl.pt of the release at the path in configs/_base_/attentive_probe.py
Command: torchrun --nproc_per_node=64 tools/train.py configs/video/attentive-probe_vjepa2-l_16x4_ssv2.py --launcher pytorch --amp fp16
Variants: --cfg-options variant=vit-h, variant=vit-g-384
Measured here: nothing.
"""

from mmengine.config import read_base

from video.augment import RandAugment
from video.segments import SegmentSampling
from video.transforms import RandomResizedCrop
from xmodal.data.transforms import RandomErasing

with read_base():
    from .._base_.ssv2 import *
    from .._base_.attentive_probe import *

_clip = dict(num_frames=16, sampling=dict(type=SegmentSampling, stride=4, segments=2))
_crop = dict(type=RandomResizedCrop, size=256, area=(0.08, 1.0), ratio=(3 / 4, 4 / 3))
_change = dict(type=RandAugment, config="rand-m7-n4-mstd0.5-inc1")
train_dataloader.update(batch_size=4)
train_dataloader.dataset.update(**_clip, transforms=[_change, _crop, dict(type=RandomErasing, prob=0.25)])
val_dataloader.update(batch_size=1)
val_dataloader.dataset.update(**_clip, size=256, spatial_views=3, temporal_views=2, interpolation="bilinear")


def _giant(frames, stride):
    clip = dict(dataset=dict(num_frames=frames, sampling=dict(stride=stride)))
    train = dict(batch_size=2, dataset=dict(transforms=[_change, {**_crop, "size": 384}, dict(type=RandomErasing)]))
    encoder = dict(weights="data/vjepa2/vitg-384.pt", size="giant", image_size=384)
    return dict(
        model=dict(encoder=encoder),
        train_dataloader={**train, "dataset": {**clip["dataset"], **train["dataset"]}},
        val_dataloader=dict(dataset={**clip["dataset"], "size": 384}),
    )


variants = {
    "vit-h": dict(model=dict(encoder=dict(weights="data/vjepa2/vith.pt", size="huge"))),
    "vit-g-384": _giant(64, 2),
}
