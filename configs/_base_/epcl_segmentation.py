"""The released EPCL recipe of indoor segmentation: SGD 0.1, x0.1 at 60 and 80 % of 80 epochs, 40,000 points."""

from torch.optim import SGD

from pointcloud.model import CloudModel
from pointcloud.schedule import StepSchedule
from pointcloud.segmentation import EPCLSegmenter
from pointcloud.transforms import (
    ColorContrast,
    ColorJitter,
    ColorShift,
    HueSaturation,
    RandomScale,
    SphereCrop,
    ToOrigin,
    VoxelPoints,
)
from xmodal.encoders.openclip_weights import open_clip_encoder

model = dict(
    type=CloudModel,
    encoder=dict(type=open_clip_encoder, name="ViT-B-32-quickgelu", pretrained="openai"),
    network=dict(type=EPCLSegmenter, num_classes=13, eval_voxel=0.04, eval_points=40_000),
)
_transforms = [
    dict(type=RandomScale, low=0.9, high=1.1),
    dict(type=ColorContrast, prob=0.2),
    dict(type=ColorShift, prob=0.95, ratio=0.05),
    dict(type=ColorJitter, prob=0.95, std=0.005),
    dict(type=HueSaturation, hue=0.5, saturation=0.2),
    dict(type=VoxelPoints, size=0.04),
    dict(type=SphereCrop, max_points=40_000),
    dict(type=ToOrigin),
]
optim_wrapper = dict(optimizer=dict(type=SGD, lr=0.1, momentum=0.9, weight_decay=1e-4))
param_scheduler = dict(type=StepSchedule, milestones=(0.6, 0.8), factor_each=0.1)
train_cfg = dict(max_epochs=80, val_interval=10)
