"""V-JEPA 2 ViT-L/16 frozen, attentive probes on four of its layers for Diving48: 4 segments of 32 frames, 3 probes.

Paper rows: V-JEPA 2 (arXiv 2506.09985), top-1, quoted as published (best probe on the test set): ViT-L 89.0, g384 90.2
Recipe: the released one: layers 17, 19, 21, 23 through the final norm, decay 0.8, 100 epochs, 64 GPUs x 2 clips.
Differs: the probe is chosen on a tenth of the training data; test segments begin at the start of each part of a video.
Data: see configs/_base_/diving48.py. Weights: see configs/_base_/attentive_probe.py
Command: torchrun --nproc_per_node=64 tools/train.py configs/video/attentive-probe_vjepa2-l_32x2_diving48.py --launcher pytorch --amp fp16
Variants: --cfg-options variant=vit-g-384 (layers 24, 29, 34, 39)
Measured here: nothing.
"""

from mmengine.config import read_base

from video.augment import RandAugment
from video.segments import SegmentSampling
from video.transforms import RandomResizedCrop
from xmodal.data.transforms import RandomErasing

with read_base():
    from .._base_.attentive_probe import *
    from .._base_.diving48 import *

model.reader.update(segments=4, layers=(17, 19, 21, 23))
model.head.update(num_classes=48)
probes = dict(lr=[1e-3, 3e-4, 1e-4], weight_decay=[0.8], holdout=0.1)
_clip = dict(num_frames=32, sampling=dict(type=SegmentSampling, stride=2, segments=4))
_crop = dict(type=RandomResizedCrop, size=256, area=(0.08, 1.0), ratio=(3 / 4, 4 / 3))
_change = dict(type=RandAugment, config="rand-m7-n4-mstd0.5-inc1")
_last = dict(type=RandomErasing, prob=0.25)
train_dataloader.update(batch_size=2)
train_dataloader.dataset.update(**_clip, transforms=[_change, _crop, _last])
val_dataloader.update(batch_size=1)
val_dataloader.dataset.update(**_clip, size=256, spatial_views=3, temporal_views=4, interpolation="bilinear")
train_cfg.update(max_epochs=100)
variants = {
    "vit-g-384": dict(
        model=dict(
            encoder=dict(weights="data/vjepa2/vitg-384.pt", size="giant", image_size=384),
            reader=dict(layers=(24, 29, 34, 39)),
        ),
        train_dataloader=dict(dataset=dict(transforms=[_change, {**_crop, "size": 384}, _last])),
        val_dataloader=dict(dataset=dict(size=384)),
    )
}
