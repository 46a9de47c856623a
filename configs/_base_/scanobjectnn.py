"""ScanObjectNN on disk with EPCL's classification recipe on Point-BERT's protocol; a leaf sets the variant."""

from mmengine.config import read_base

from pointcloud.datasets.objects import ScanObjectNN
from pointcloud.transforms import RandomPoints, ScaleShift, UnitBall

with read_base():
    from .runtime import *
    from .epcl_objects import *

_scans = dict(type=ScanObjectNN, root="data/scanobjectnn")
_train = [dict(type=UnitBall), dict(type=RandomPoints, num_points=2048), dict(type=ScaleShift)]
model.network.update(num_classes=15, num_groups=128)
train_dataloader = dict(batch_size=32, num_workers=8, dataset=dict(**_scans, split="train", transforms=_train))
val_dataloader = dict(
    batch_size=32, num_workers=8, dataset=dict(**_scans, split="test", transforms=[dict(type=UnitBall)], test_mode=True)
)
