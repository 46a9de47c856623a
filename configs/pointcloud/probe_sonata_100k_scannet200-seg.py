"""Linear probe on all levels of frozen Sonata or Concerto, ScanNet200 segmentation, 100,000 points.

Paper row: none quoted; PTv3 from scratch reaches 35.3 mIoU on the validation scenes (its README).
Recipe: ours, shorter: no mixing of scenes, no test-time variants; the paper trains 800 epochs and sums 13 variants. Normals are zeros.
Data: data/scannet200/{train,val}/scene*/ as Pointcept prepares ScanNet; the names of the 200 classes from a file with names=FILE of
the data sets.
Command: python tools/train.py configs/pointcloud/probe_sonata_100k_scannet200-seg.py --cfg-options model.encoder.weights=sonata.pth
Variants: --cfg-options variant=decoder trains a decoder on the frozen levels, variant=lora LoRA of rank 8 on queries, keys and values
Measured here: nothing.
"""

from mmengine.config import read_base

from pointcloud.datasets.pointcept import PointceptScanNet

with read_base():
    from .._base_.scannet_probe import *

model.network.num_classes = 200
for _loader in (train_dataloader, val_dataloader, test_dataloader):
    _loader.dataset.update(type=PointceptScanNet, root="data/scannet200", num_classes=200)
for _metric in (val_evaluator, test_evaluator):
    _metric.update(classes=[f"class {i}" for i in range(200)])
