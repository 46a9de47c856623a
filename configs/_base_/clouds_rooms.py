"""The built-in furnished rooms with a class per point, in S3DIS's layout: 400 to train, 40 to validate, 40 to test.

Make them once: python tools/data/make_clouds.py demo_out/clouds
"""

from pointcloud.datasets.s3dis import S3DIS
from pointcloud.metrics import SegmentationMetric
from pointcloud.transforms import (
    ColorShift,
    RandomFlip,
    RandomRotation,
    RandomScale,
    SphereCrop,
    ToOrigin,
    VoxelPoints,
)

_classes = ["floor", "wall", "chair", "table", "bed", "sofa", "shelf", "lamp"]
_rooms = dict(type=S3DIS, root="demo_out/clouds/rooms")
train_dataloader = dict(
    batch_size=2,
    num_workers=1,
    persistent_workers=True,
    dataset=dict(
        **_rooms,
        areas=(1,),
        transforms=[
            dict(type=RandomScale, low=0.9, high=1.1),
            dict(type=RandomFlip, axes="xy"),
            dict(type=RandomRotation, degrees=180),
            dict(type=VoxelPoints, size=0.1),
            dict(type=SphereCrop, max_points=4096),
            dict(type=ToOrigin),
            dict(type=ColorShift, prob=0.95, ratio=0.05),
        ],
        pad_to=4096,
    ),
)
val_dataloader = dict(batch_size=1, num_workers=1, dataset=dict(**_rooms, areas=(2,), test_mode=True))
test_dataloader = dict(batch_size=1, num_workers=1, dataset=dict(**_rooms, areas=(5,), test_mode=True))
val_evaluator = dict(type=SegmentationMetric, classes=_classes)
test_evaluator = dict(type=SegmentationMetric, classes=_classes)
