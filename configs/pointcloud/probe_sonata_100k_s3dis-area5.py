"""Linear probe on all levels of frozen Sonata or Concerto, S3DIS Area 5, 100,000 points.

Paper row: none quoted; PTv3 from scratch reaches 73.6 mIoU (its README). Area 5 is validated and tested.
Recipe: ours, shorter: no mixing of scenes, no test-time variants; the paper trains 800 epochs and sums 13 variants. Normals are zeros.
Command: python tools/train.py configs/pointcloud/probe_sonata_100k_s3dis-area5.py --cfg-options model.encoder.weights=sonata.pth
Variants: --cfg-options variant=decoder trains a decoder on the frozen levels, variant=lora LoRA of rank 8 on queries, keys and values
Measured here: nothing.
"""

from mmengine.config import read_base

from pointcloud.datasets.s3dis import S3DIS, S3DIS_CLASSES
from pointcloud.metrics import SegmentationMetric

with read_base():
    from .._base_.point_probe import *

_rooms = dict(type=S3DIS, root="data/s3dis")
model.network.num_classes = 13
train_dataloader = dict(
    batch_size=2,
    num_workers=8,
    dataset=dict(**_rooms, areas=(1, 2, 3, 4, 6), repeat=10, transforms=_transforms, pad_to=100_000),
)
val_dataloader = dict(batch_size=1, num_workers=2, dataset=dict(**_rooms, areas=(5,), test_mode=True))
test_dataloader = dict(batch_size=1, num_workers=2, dataset=dict(**_rooms, areas=(5,), test_mode=True))
val_evaluator = dict(type=SegmentationMetric, classes=S3DIS_CLASSES)
test_evaluator = dict(type=SegmentationMetric, classes=S3DIS_CLASSES)
