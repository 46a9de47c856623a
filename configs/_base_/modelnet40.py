"""ModelNet40 on disk (`modelnet40_normal_resampled`), with EPCL's sampling: 1024 of 1200 far points."""

from pointcloud.datasets.objects import ModelNet40
from pointcloud.transforms import FarthestPoints, RandomPoints, ScaleShift, UnitBall

_modelnet = dict(type=ModelNet40, root="data/modelnet40_normal_resampled", cache="data/modelnet40_cache")
_train = [
    dict(type=FarthestPoints, num_points=1200),
    dict(type=UnitBall),
    dict(type=RandomPoints, num_points=1024),
    dict(type=ScaleShift, scale=(2 / 3, 3 / 2), shift=0.2),
]
_test = [dict(type=UnitBall), dict(type=FarthestPoints, num_points=1024)]
train_dataloader = dict(batch_size=32, num_workers=8, dataset=dict(**_modelnet, split="train", transforms=_train))
val_dataloader = dict(
    batch_size=32, num_workers=8, dataset=dict(**_modelnet, split="test", transforms=_test, test_mode=True)
)
