"""SUN RGB-D detection on disk, in VoteNet's layout, with 3DETR's augmentation; oriented boxes."""

from pointcloud.datasets.sunrgbd import SUNRGBD, SUNRGBD_CLASSES
from pointcloud.metrics import DetectionMetric
from pointcloud.transforms import CuboidCrop, RandomFlip, RandomPoints, RandomRotation, RandomScale

_views = dict(type=SUNRGBD, root="data/sunrgbd/sunrgbd_pc_bbox_votes_50k_v1", max_boxes=64)
_points = [dict(type=RandomPoints, num_points=20_000)]
train_dataloader = dict(
    batch_size=8,
    num_workers=8,
    dataset=dict(
        **_views,
        split="train",
        transforms=[
            dict(type=RandomFlip, axes="x"),
            dict(type=RandomRotation, degrees=30),
            dict(type=RandomScale, low=0.85, high=1.15),
            dict(type=CuboidCrop, min_points=15_000, aspect=0.75, min_side=0.75, max_side=1.0),
            *_points,
        ],
    ),
)
val_dataloader = dict(
    batch_size=8, num_workers=8, dataset=dict(**_views, split="val", transforms=_points, test_mode=True)
)
val_evaluator = dict(type=DetectionMetric, classes=SUNRGBD_CLASSES)
test_evaluator = dict(type=DetectionMetric, classes=SUNRGBD_CLASSES)
