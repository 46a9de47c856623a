"""Built-in objects in ModelNet40's layout: 10 classes of 150 one-sided scans with occluders, 512 points of each."""

from pointcloud.datasets.objects import ModelNet40
from pointcloud.transforms import RandomPoints, ScaleShift, UnitBall

_objects = dict(type=ModelNet40, root="demo_out/clouds/objects", prefix="objects", cache="demo_out/clouds/cache")
_test = [dict(type=UnitBall), dict(type=RandomPoints, num_points=512)]  # the same points every time
train_dataloader = dict(
    batch_size=24,
    num_workers=1,
    persistent_workers=True,
    dataset=dict(
        **_objects,
        split="train",
        transforms=[
            dict(type=UnitBall),
            dict(type=RandomPoints, num_points=512),
            dict(type=ScaleShift, scale=(0.8, 1.25), shift=0.1),
        ],
    ),
)
val_dataloader = dict(
    batch_size=25, num_workers=1, dataset=dict(**_objects, split="val", transforms=_test, test_mode=True)
)
test_dataloader = dict(
    batch_size=25, num_workers=1, dataset=dict(**_objects, split="test", transforms=_test, test_mode=True)
)
